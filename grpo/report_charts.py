"""Curves of a run as inline SVG whose colours are the page's: readable in light and in dark."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

Points = Sequence[tuple[int, float]]
"""(step, value), in the order of the steps."""

_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = tuple(f"#0a0a0{i}" for i in range(6))
"""Placeholders that `_for_the_page` turns into CSS variables."""
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (6, 1.5, 1.2, 1.5)), (0, (3, 3)), "-")
"""Told apart without colours too."""
_HATCHES = ("", "////", "....", "\\\\\\\\", "xxxx", "")
_SMOOTH_FROM = 40
"""With at least this many points a trailing mean is drawn over the faint raw line."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A measurement with its 95 % interval."""

    step: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Chart:
    """One set of axes: its curves, and the words around them."""

    title: str
    unit: str
    curves: Mapping[str, Points]
    note: str = ""
    intervals: Sequence[Interval] = ()
    measured: str = "held-back"
    """What the intervals are of."""
    log: bool = False
    stacked: bool = False
    percent: bool = False


def summary(chart: Chart) -> str:
    """First and last value of each curve, in words, for readers who do not see the drawing.

    A value is the mean over the first or last tenth of the points.
    """
    parts: list[str] = []
    for label, points in chart.curves.items():
        values = [value for _, value in points]
        tenth = max(1, len(values) // 10)
        first, last = fmean(values[:tenth]), fmean(values[-tenth:])
        name = f"{label} " if label else ""
        change = f"{_number(first, chart)} → {_number(last, chart)}"
        parts.append(f"{name}{change if len(values) > 1 else _number(last, chart)}")
    if chart.intervals:
        last_one = chart.intervals[-1]
        span = f"{_number(last_one.low, chart)} to {_number(last_one.high, chart)}"
        parts.append(f"{chart.measured} {_number(last_one.value, chart)} ({span})")
    return "; ".join(parts)


def draw(chart: Chart, *, name: str) -> str:
    """The chart as an SVG element. `name` is unique on the page: ids inside are prefixed by it."""
    settings = mpl.RcParams(
        {
            "svg.fonttype": "none",  # text stays text: it scales, and is found and read aloud
            "svg.hashsalt": name,
            "text.parse_math": False,  # a `$` in a reward's name is a dollar
            "font.size": 9,
            "hatch.linewidth": 0.5,
        }
    )
    with mpl.rc_context(settings):
        figure = Figure(figsize=(4.4, 2.5), layout="constrained")
        axes = figure.add_subplot()
        _style(axes, chart)
        (_draw_stack if chart.stacked else _draw_lines)(axes, chart)
        if chart.percent:
            axes.set_ylim(bottom=max(0.0, axes.get_ylim()[0]))  # no share is below zero
        _legend(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(buffer.getvalue(), name=name)


def _style(axes: Axes, chart: Chart) -> None:
    axes.set_xlabel("step", color=_MUTED)
    axes.set_ylabel(chart.unit, color=_MUTED)
    axes.tick_params(colors=_MUTED, length=2)
    axes.grid(visible=True, color=_GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_GRID)
    if chart.log:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if chart.percent:
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")


def _draw_lines(axes: Axes, chart: Chart) -> None:
    for i, (label, points) in enumerate(chart.curves.items()):
        color, dashes = _SERIES[i % len(_SERIES)], _DASHES[i % len(_DASHES)]
        steps, values = [s for s, _ in points], [v for _, v in points]
        if chart.log:
            values = [max(v, 1e-12) for v in values]  # an exact zero has no place on a log axis
        marker = "o" if len(points) < 3 else ""
        if len(points) >= _SMOOTH_FROM:
            axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.3)
            values = trailing_mean(values, window=max(2, len(values) // 20))
        axes.plot(
            steps,
            values,
            color=color,
            linestyle=dashes,
            linewidth=1.6,
            marker=marker,
            markersize=3,
            label=label or None,
        )
    if chart.intervals:
        color = _SERIES[len(chart.curves) % len(_SERIES)]
        axes.errorbar(
            [i.step for i in chart.intervals],
            [i.value for i in chart.intervals],
            yerr=(
                [i.value - i.low for i in chart.intervals],
                [i.high - i.value for i in chart.intervals],
            ),
            fmt="s",
            markersize=3.5,
            capsize=3,
            linewidth=1.2,
            color=color,
            label=f"{chart.measured}, 95 % interval",
        )


def _draw_stack(axes: Axes, chart: Chart) -> None:
    steps = sorted({step for points in chart.curves.values() for step, _ in points})
    rows = [[dict(points).get(step, 0.0) for step in steps] for points in chart.curves.values()]
    below = [0.0] * len(steps)
    width = min((b - a for a, b in itertools.pairwise(steps)), default=1)
    for i, (label, row) in enumerate(zip(chart.curves, rows, strict=True)):
        top = [a + b for a, b in zip(below, row, strict=True)]
        color, hatch = _SERIES[i % len(_SERIES)], _HATCHES[i % len(_HATCHES)]
        # Steps drawn as bars that touch: a slanted area would show seconds between the steps.
        edges = [step - width / 2 for step in steps] + [steps[-1] + width / 2]
        axes.stairs(
            top, edges, baseline=below, fill=True, facecolor=color, edgecolor=_GRID, hatch=hatch,
            linewidth=0, label=label,
        )  # fmt: skip
        below = top
    axes.set_ylim(bottom=0)


def trailing_mean(values: Sequence[float], *, window: int) -> list[float]:
    """Mean of each value and up to `window - 1` before it; the future never leaks backwards."""
    return [fmean(values[max(0, i + 1 - window) : i + 1]) for i in range(len(values))]


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        columns = 2 if len(labels) > 2 else len(labels)
        axes.legend(
            handles,
            labels,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=columns,
            frameon=False,
            labelcolor=_INK,
            fontsize=8,
            handlelength=2.6,
        )


def _for_the_page(svg: str, *, name: str) -> str:
    """Cuts the XML prologue, binds colours and font to the page and makes ids unique."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", '<svg aria-hidden="true"', 1)
    svg = re.sub(r' id="', f' id="{name}-', svg)
    svg = re.sub(r"url\(#", f"url(#{name}-", svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)  # would style the whole page
    svg = re.sub(r"font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    named = {_INK: "ink", _MUTED: "muted", _GRID: "grid"}
    named |= {color: f"series-{i}" for i, color in enumerate(_SERIES)}
    for color, variable in named.items():
        svg = svg.replace(color, f"var(--{variable})")
    return svg


def _number(value: float, chart: Chart) -> str:
    if chart.percent:
        return f"{100 * value:.3g}\N{NO-BREAK SPACE}%"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

"""Accuracy against generated tokens as one self-contained page: curves, differences, headlines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotree.grpo.evaluation.page_charts import Tick
from cotree.grpo.evaluation.records import Estimate
from cotree.grpo.evaluation.tables import percent, with_interval
from cotree.grpo.page_templates import page_template
from cotree.grpo.searching.curves import RESAMPLES, Point
from cotree.grpo.searching.curves_compared import (
    Comparison,
    RunCurve,
    headlines,
    p_text,
    signed,
)

WIDTH, HEIGHT = 780, 340
"""Of a drawing, in its own units; on the page it is as wide as its place."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 510, 14, 284
_STEPS = (0.02, 0.05, 0.1, 0.2)
"""Distances of the horizontal lines, as shares; the first that needs at most `_MOST_ROWS`."""
_MOST_ROWS = 6
_APART = 19
"""Least distance between the labels of two curves."""
_TICKS_APART = 54
"""Least distance between two numbers below the horizontal axis."""
_LONGEST_NAME = 20
"""Characters of a run's name beside its curve; tables have all of it."""
_COLORS = 6
"""In the template; further runs begin again, with other dashes and marks."""
_DASHES = ("none", "7 4", "2 3", "9 3 2 3", "4 4")
_MARKS = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",  # circle
    "M-3.5,-3.5h7v7h-7z",  # square
    "M0,-4.5l4.5,8h-9z",  # triangle
    "M0,-5l5,5l-5,5l-5,-5z",  # diamond
    "M0,4.5l4.5,-8h-9z",  # triangle on its tip
    "M-4.5,-1.5h3v-3h3v3h3v3h-3v3h-3v-3h-3z",  # cross
    "M-5,-2h10v4h-10z",  # bar
)


@dataclass(frozen=True, slots=True)
class JudgeQuality:
    """What the rules that judge steps are worth by themselves, on completions nobody selected."""

    name: str
    recall: Estimate
    """Share of wrong completions in which they refute a step."""
    false_alarm: Estimate
    """Share of right completions in which they do."""
    measured_on: str


@dataclass(frozen=True, slots=True)
class DrawnCurve:
    """A run's curve with its interval as a band. Told apart by colour, dashes and marks."""

    color: int
    dashes: str
    mark: str
    """The `d` of a path around 0, 0."""
    line: str
    """The `points` of a polyline."""
    band: str
    """The `points` of a polygon."""
    marks: Sequence[tuple[float, float]]
    end: tuple[float, float]
    label: str
    value: str
    """At the curve's end."""
    label_y: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that the template draws."""

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[DrawnCurve]
    left: float = _LEFT
    right: float = _RIGHT
    top: float = _TOP
    bottom: float = _BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def write_page(
    target: Path,
    comparison: Comparison,
    *,
    title: str,
    facts: Mapping[str, str],
    judge: JudgeQuality | None,
) -> None:
    """Writes the page. It makes no request, runs no script, and escapes all names.

    Args:
        target: the file; replaced when it exists.
        comparison: of the runs.
        title: model and benchmark, say.
        facts: label -> text of the header.
        judge: of the runs that let one look at their steps; None: not measured, or none looks.
    """
    shown = [at for at in comparison.budgets if _is_shown(at, comparison.runs)]
    baseline = next(run for run in comparison.runs if run.name == comparison.baseline)
    others = [run for run in comparison.runs if run.against is not None]
    colors = [i % _COLORS for i, run in enumerate(comparison.runs) if run.against is not None]
    oracles = {i: run.oracle for i, run in enumerate(comparison.runs) if run.oracle is not None}
    page = page_template(Path(__file__).with_name("curves.html.jinja")).render(
        title=title,
        facts=facts,
        comparison=comparison,
        baseline=baseline,
        others=others,
        headlines=list(zip(colors, headlines(comparison), strict=True)),
        chart=chart(comparison, {i: run.points for i, run in enumerate(comparison.runs)}),
        oracle_chart=chart(comparison, oracles) if oracles else None,
        has_oracle=[comparison.runs[i] for i in oracles],
        points=[{point.budget: point.accuracy for point in run.points} for run in comparison.runs],
        oracle_points=[dict(points) for points in oracles.values()],
        shown=shown,
        paired=[at for at in shown if any(run.against and at in run.against.at for run in others)],
        judge=judge,
        resamples=RESAMPLES,
        signed=signed,
        p_text=p_text,
        percent=percent,
        with_interval=with_interval,
        flops_text=flops_text,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    scratch = target.with_name(f"{target.name}.tmp")
    # Names are from files: a lone surrogate in one must not lose the page.
    scratch.write_text(page, encoding="utf-8", errors="backslashreplace")
    scratch.replace(target)


def flops_text(flops: float) -> str:
    """Floating point operations as `12.3 T`, in steps of a thousand."""
    for unit, size in (("E", 1e18), ("P", 1e15), ("T", 1e12), ("G", 1e9)):
        if flops >= size:
            return f"{flops / size:.3g} {unit}"
    return f"{flops:.3g}"


def _is_shown(budget: int, runs: Sequence[RunCurve]) -> bool:
    """Powers of 2 and ends: a table of all budgets is long, and the JSON has them."""
    return budget & (budget - 1) == 0 or any(budget == run.end for run in runs)


# --- drawing ---------------------------------------------------------------------------------


def chart(comparison: Comparison, curves: Mapping[int, Sequence[Point]]) -> Chart:
    """Curves of some runs; budgets are on a logarithmic axis, the vertical one covers the bands.

    Args:
        comparison: all runs; a run looks the same in every chart of them.
        curves: place of a run in the comparison -> its points, one at least.
    """
    first, last = comparison.budgets[0], comparison.budgets[-1]
    values = [value for points in curves.values() for point in points for value in point.accuracy]
    step, rows = _rows(min(values), max(values))
    low, high = rows[0] * step, rows[-1] * step

    def x(budget: int) -> float:
        share = math.log(budget / first) / math.log(last / first)
        return round(_LEFT + (_RIGHT - _LEFT) * share, 1)

    def y(share: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (share - low) / (high - low), 1)

    label_ys = apart([y(points[-1].accuracy.value) for points in curves.values()])
    return Chart(
        x_ticks=[Tick(x(budget), f"{budget:,}") for budget in _spaced(first, last, x)],
        y_ticks=[Tick(y(row * step), f"{100 * row * step:.0f} %") for row in rows],
        curves=[
            _drawn(place, comparison.runs[place].name, points, x, y, label_y)
            for (place, points), label_y in zip(curves.items(), label_ys, strict=True)
        ],
    )


def _rows(lowest: float, highest: float) -> tuple[float, range]:
    """Distance of the horizontal lines, and the multiples of it that cover the values."""
    covering = [(step, _multiples(lowest, highest, step)) for step in _STEPS]
    return next((found for found in covering if len(found[1]) <= _MOST_ROWS), covering[-1])


def _multiples(lowest: float, highest: float, step: float) -> range:
    """From the last one below the values to the first above, two at least, within 0 and 1."""
    first = min(math.floor(lowest / step + 1e-9), round(1 / step) - 1)
    return range(first, max(math.ceil(highest / step - 1e-9), first + 1) + 1)


def _drawn(
    place: int,
    name: str,
    points: Sequence[Point],
    x: Callable[[int], float],
    y: Callable[[float], float],
    label_y: float,
) -> DrawnCurve:
    line = [(x(point.budget), y(point.accuracy.value)) for point in points]
    upper = [(x(point.budget), y(point.accuracy.high)) for point in points]
    lower = [(x(point.budget), y(point.accuracy.low)) for point in reversed(points)]
    is_long = len(name) > _LONGEST_NAME
    return DrawnCurve(
        color=place % _COLORS,
        dashes=_DASHES[place % len(_DASHES)],
        mark=_MARKS[place % len(_MARKS)],
        line=_joined(line),
        band=_joined(upper + lower),
        marks=[
            at
            for at, point in zip(line, points, strict=True)
            if point.budget & (point.budget - 1) == 0 or point is points[-1]
        ],
        end=line[-1],
        label=f"{name[: _LONGEST_NAME - 1]}…" if is_long else name,
        value=percent(points[-1].accuracy.value),
        label_y=label_y,
    )


def _joined(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in pairs)


def _spaced(first: int, last: int, x: Callable[[int], float]) -> list[int]:
    """Powers of 2 in the range, or every second or third … of them, so that numbers fit."""
    powers = [2**k for k in range(math.ceil(math.log2(first)), math.floor(math.log2(last)) + 1)]
    doubling = x(2 * first) - x(first)
    stride = max(1, math.ceil(_TICKS_APART / doubling))
    return powers[::-1][::stride][::-1]


def apart(ys: Sequence[float]) -> list[float]:
    """Heights moved as little as needed for labels there not to touch, and into the drawing.

    Their order stays; where too many are given for the drawing, they go on below it.
    """
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    placed = list(ys)
    floor = -math.inf
    for i in order:
        placed[i] = floor = max(ys[i], floor)
        floor += _APART
    ceiling = float(_BOTTOM)
    for i in reversed(order):
        placed[i] = ceiling = min(placed[i], ceiling)
        ceiling -= _APART
    top = min((placed[i] for i in order), default=_TOP)
    push = max(0.0, _TOP - top)
    return [y + push for y in placed]

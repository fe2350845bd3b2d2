"""pass@k' and maj@k' against k' as shapes for inline SVG: plain numbers, drawn by the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from cotree.grpo.evaluation.records import BenchmarkSummary, Estimate
from cotree.grpo.evaluation.tables import percent

WIDTH, HEIGHT = 460, 240
"""Of the drawing, in its own units; on the page it is as wide as its place."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 374, 14, 194
_GRID = 0.2
"""Distance of the horizontal lines, as a share."""
_APART = 40
"""Least distance between the labels of two curves, which have two lines."""
_TICKS_APART = 24
"""Least distance between two numbers below the horizontal axis."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark on an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """One estimate against the number of samples, with its interval as a band."""

    name: str
    line: str
    """The `points` of a polyline."""
    band: str
    """The `points` of a polygon."""
    dots: Sequence[tuple[float, float]]
    label: str
    value: str
    """At the last point; the second line of the label."""
    label_y: float
    """The middle of its two lines."""


@dataclass(frozen=True, slots=True)
class Chart:
    """Everything that the template draws."""

    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    curves: Sequence[Curve]
    left: float = _LEFT
    right: float = _RIGHT
    bottom: float = _BOTTOM
    width: float = WIDTH
    height: float = HEIGHT


def sampling_chart(summary: BenchmarkSummary) -> Chart | None:
    """The curves of a benchmark; None where they would have one point.

    The number of samples is on a logarithmic axis, and the vertical one covers the intervals.
    """
    named = {"pass": summary.pass_at, "maj": summary.maj_at}
    last = max(summary.pass_at)
    if last == 1:
        return None
    values = [value for at in named.values() for estimate in at.values() for value in estimate]
    first = min(math.floor(min(values) / _GRID + 1e-9), round(1 / _GRID) - 1)
    rows = range(first, max(math.ceil(max(values) / _GRID - 1e-9), first + 1) + 1)
    low, high = rows[0] * _GRID, rows[-1] * _GRID

    def x(k: int) -> float:
        return round(_LEFT + (_RIGHT - _LEFT) * math.log(k) / math.log(last), 1)

    def y(share: float) -> float:
        return round(_BOTTOM - (_BOTTOM - _TOP) * (share - low) / (high - low), 1)

    label_ys = _apart([y(at[last].value) for at in named.values()])
    return Chart(
        x_ticks=[Tick(x(k), str(k)) for k in _spaced(sorted(summary.pass_at), x)],
        y_ticks=[Tick(y(row * _GRID), f"{100 * row * _GRID:.0f} %") for row in rows],
        curves=[
            _curve(name, last, at, x, y, label_y)
            for (name, at), label_y in zip(named.items(), label_ys, strict=True)
        ],
    )


def _curve(
    name: str,
    k: int,
    at: Mapping[int, Estimate],
    x: Callable[[int], float],
    y: Callable[[float], float],
    label_y: float,
) -> Curve:
    estimates = sorted(at.items())
    dots = [(x(drawn), y(estimate.value)) for drawn, estimate in estimates]
    upper = [(x(drawn), y(estimate.high)) for drawn, estimate in estimates]
    lower = [(x(drawn), y(estimate.low)) for drawn, estimate in reversed(estimates)]
    band = _points(upper + lower)
    return Curve(name, _points(dots), band, dots, f"{name}@{k}", percent(at[k].value), label_y)


def _points(pairs: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in pairs)


def _spaced(ks: Sequence[int], x: Callable[[int], float]) -> list[int]:
    """Those whose numbers do not run into each other; the last one always."""
    return [k for k in ks if k == ks[-1] or x(ks[-1]) - x(k) > _TICKS_APART]


def _apart(ys: Sequence[float]) -> list[float]:
    """Two heights moved apart evenly where labels there would touch, and into the drawing."""
    first, second = ys
    push = max(0.0, (_APART - abs(first - second)) / 2)
    sign = 1 if first > second else -1
    moved = [first + sign * push, second - sign * push]
    inside = max(0.0, _TOP + 4 - min(moved)) - max(0.0, max(moved) - _BOTTOM)
    return [y + inside for y in moved]

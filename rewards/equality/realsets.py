r"""Sets of real numbers: intervals, their unions, and the inequalities that describe them.

`x > 5`, `(5, \infty)` and `\{x \mid x > 5\}` are one set. An end point is a pair (value, side):
side 0 is the value itself, +1 just above, -1 just below. So `[a` starts at (a, 0), `(a` at (a, +1),
`b)` ends at (b, -1); two intervals touch when the next one starts one step after the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from cotree.rewards.equality.approximation import approximate
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import (
    Constant,
    Negation,
    Node,
)

Side = Literal[-1, 0, 1]

MAX_INTERVALS = 64
"""More parts than this are not compared."""

INFINITE = Constant("inf")


@dataclass(frozen=True, slots=True)
class Bound:
    """Where an interval starts or ends; `value` is None where the node has symbols in it."""

    node: Node
    value: Fraction | float | None
    side: Side

    def order(self) -> tuple[Fraction | float, int]:
        assert self.value is not None, self.node
        return self.value, self.side


@dataclass(frozen=True, slots=True)
class Interval:
    """All numbers from `low` to `high`."""

    low: Bound
    high: Bound


@dataclass(frozen=True, slots=True)
class RealSet:
    """Disjoint intervals in ascending order (as written, if ends have symbols in them)."""

    intervals: tuple[Interval, ...]
    variable: str | None = None
    """The unknown the set was described with; `None` for a set without one."""


def same_sets(left: RealSet, right: RealSet, same: Callable[[Node, Node], bool]) -> bool:
    """Whether the sets have the same parts, by `same` on the end points.

    Sets described with differently named unknowns differ.
    """
    if left.variable and right.variable and left.variable != right.variable:
        return False
    if len(left.intervals) != len(right.intervals):
        return False
    if all(_is_known(part) for part in (*left.intervals, *right.intervals)):
        pairs = zip(left.intervals, right.intervals, strict=True)
        return all(_same_interval(a, b, same) for a, b in pairs)
    unmatched = list(right.intervals)
    for part in left.intervals:
        found = next((other for other in unmatched if _same_interval(part, other, same)), None)
        if found is None:
            return False
        unmatched.remove(found)
    return True


def _is_known(interval: Interval) -> bool:
    return interval.low.value is not None and interval.high.value is not None


def _variable(sets: Iterable[RealSet]) -> str | None:
    return next((each.variable for each in sets if each.variable), None)


def union(sets: Sequence[RealSet]) -> RealSet | None:
    """All numbers in any of the sets; None beyond `MAX_INTERVALS` parts."""
    parts = [interval for each in sets for interval in each.intervals]
    if len(parts) > MAX_INTERVALS:
        return None
    if not all(_is_known(part) for part in parts):
        return RealSet(tuple(parts), _variable(sets))
    merged: list[Interval] = []
    for part in sorted(parts, key=lambda p: p.low.order()):
        value, side = merged[-1].high.order() if merged else (-math.inf, -2)
        if merged and part.low.order() <= (value, side + 1):
            high = max(merged[-1].high, part.high, key=Bound.order)
            merged[-1] = Interval(merged[-1].low, high)
        else:
            merged.append(part)
    return RealSet(tuple(merged), _variable(sets))


def complement(each: RealSet) -> RealSet | None:
    """All other real numbers; None if the order of the parts is unknown."""
    if not all(_is_known(part) for part in each.intervals) and len(each.intervals) > 1:
        return None
    rest: list[Interval] = []
    whole = everything()
    low = whole.low
    for part in each.intervals:
        if part.low.value != -math.inf:
            rest.append(Interval(low, Bound(part.low.node, part.low.value, _below(part.low))))
        low = Bound(part.high.node, part.high.value, _above(part.high))
    if low.value != math.inf:
        rest.append(Interval(low, whole.high))
    return RealSet(tuple(rest), each.variable)


def _below(bound: Bound) -> Side:
    return -1 if bound.side == 0 else 0


def _above(bound: Bound) -> Side:
    return 1 if bound.side == 0 else 0


def intersection(left: RealSet, right: RealSet) -> RealSet | None:
    """All numbers in both sets; None if the order of the parts is unknown."""
    if not all(_is_known(part) for part in (*left.intervals, *right.intervals)):
        return None
    if len(left.intervals) * len(right.intervals) > MAX_INTERVALS:
        return None
    parts: list[Interval] = []
    for a in left.intervals:
        for b in right.intervals:
            low = max(a.low, b.low, key=Bound.order)
            high = min(a.high, b.high, key=Bound.order)
            if low.order() <= high.order():
                parts.append(Interval(low, high))
    return RealSet(tuple(parts), _variable((left, right)))


def _same_interval(left: Interval, right: Interval, same: Callable[[Node, Node], bool]) -> bool:
    return _same_bound(left.low, right.low, same) and _same_bound(left.high, right.high, same)


def _same_bound(left: Bound, right: Bound, same: Callable[[Node, Node], bool]) -> bool:
    infinite = [bound.value for bound in (left, right) if bound.value in (math.inf, -math.inf)]
    if infinite:
        return left.value == right.value
    return left.side == right.side and same(left.node, right.node)


def between(low: Node, high: Node, *, strict: tuple[bool, bool]) -> RealSet:
    """The interval from `low` to `high`; `strict` says which of its ends it leaves out."""
    interval = Interval(
        Bound(low, _value(low), 1 if strict[0] else 0),
        Bound(high, _value(high), -1 if strict[1] else 0),
    )
    if _is_known(interval) and interval.low.order() > interval.high.order():
        return RealSet(())
    return RealSet((interval,))


def point(node: Node) -> RealSet:
    """The set of one number."""
    return between(node, node, strict=(False, False))


def everything() -> Interval:
    """The whole line."""
    return between(Negation(INFINITE), INFINITE, strict=(True, True)).intervals[0]


def _value(node: Node) -> Fraction | float | None:
    sign = sign_of_infinity(node)
    if sign:
        return sign * math.inf
    return rational(node) if rational(node) is not None else approximate(node)


def sign_of_infinity(node: Node) -> int:
    r"""1 for `\infty`, -1 for `-\infty`, else 0."""
    if isinstance(node, Negation):
        return -sign_of_infinity(node.operand)
    return 1 if node == INFINITE else 0

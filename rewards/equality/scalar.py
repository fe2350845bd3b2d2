r"""Whether two expressions have the same value: exactly, or at points where both are defined.

Agreement is demanded to about 55 digits at several points that the texts themselves determine, so
`3.14` is not pi and a near miss is a miss. `\sqrt{x^2}` is not x, because points have both signs.
"""

from __future__ import annotations

import random
import zlib
from enum import StrEnum

from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.functions import BeyondError, Value
from cotree.rewards.equality.nodes import (
    BaseNumeral,
    BigOperator,
    Bracketed,
    Call,
    Constant,
    Degrees,
    Matrix,
    Negation,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Quotient,
    Sum,
    Symbol,
)
from cotree.rewards.equality.numeric import (
    POINT_BITS,
    Evaluator,
    Point,
    UndefinedError,
    context,
)
from cotree.rewards.equality.walk import symbols, walk, within

__all__ = ["MAX_NODES", "Sameness", "same_scalar", "symbols"]

MAX_NODES = 1_500
MAX_DEPTH = 150
"""Of a tree; `parse` makes none deeper, and a hand-made one must not meet the recursion limit."""
BUDGET = 12_000
"""Work for one comparison, in units of about a microsecond."""

_LOW, _HIGH = 40, 70
"""Digits of two evaluations; their difference tells how many digits can be trusted."""
_ENOUGH = 3
"""Points at which two expressions must agree; one where there is no variable."""
_SCALARS = (
    Number, Symbol, Constant, Negation, Sum, Product, Quotient, Power, Call, BigOperator, Percent,
    Degrees, BaseNumeral,
)  # fmt: skip
_RANGES = (
    (0.4, 3.0), (-3.0, -0.3), (-3.0, 3.0), (0.05, 1.0), (1.5, 9.0), (-1.0, 1.0), (30.0, 300.0),
    (-300.0, -30.0),
)  # fmt: skip
"""Small and large, of either sign: a corner such as that of `|x - 50|` lies between two points."""
_INTEGER_RANGES = ((2, 6), (3, 13), (1, 9), (5, 21))


class Sameness(StrEnum):
    """What a comparison can say."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    """Not two values, no value at any point tried, or too much work."""


def same_scalar(left: Node, right: Node) -> Sameness:
    r"""Whether two expressions are equal in value wherever both are defined.

    Exact where both are rational; otherwise at points: real ones of either sign, integers (for
    `(-1)^n` and the like), and the complex plane only where there are no real values. A percent
    sign is a hundredth and a degree pi/180. Unknown functions and names stand for arbitrary
    values, the same on both sides. Never raises; bounded in time whatever the trees say.
    """
    if not (_is_scalar(left) and _is_scalar(right)):
        return Sameness.UNKNOWN
    if not all(within(n, max_nodes=MAX_NODES, max_depth=MAX_DEPTH) for n in (left, right)):
        return Sameness.UNKNOWN
    first, second = rational(left), rational(right)
    if first is not None and second is not None:
        return _verdict(first == second)
    infinities = _infinite_sign(left), _infinite_sign(right)
    if any(infinities):
        return _verdict(infinities[0] == infinities[1])
    return _Comparison(left, right).verdict()


def _is_scalar(node: Node) -> bool:
    if isinstance(node, Matrix):
        return node.determinant
    grouped = isinstance(node, Bracketed) and node.left == "[" and len(node.items) == 1
    return grouped or isinstance(node, _SCALARS)


def _infinite_sign(node: Node) -> int:
    if isinstance(node, Negation):
        return -_infinite_sign(node.operand) if isinstance(node.operand, Constant) else 0
    return int(isinstance(node, Constant) and node.name == "inf")


def _verdict(equal: bool) -> Sameness:
    return Sameness.EQUAL if equal else Sameness.DIFFERENT


class _Comparison:
    """One comparison: its points, and what is left of its budget."""

    def __init__(self, left: Node, right: Node) -> None:
        self._left, self._right = left, right
        self._names = sorted(symbols(left) | symbols(right))
        self._budget = BUDGET
        # From the content, order aside: nobody can aim at the points, and (a, b) goes as (b, a).
        key = "|".join(sorted((repr(left), repr(right))))
        self._random = random.Random(zlib.crc32(key.encode()))
        trees = (left, right)
        nodes = [node for tree in trees for node, _ in walk(tree)]
        self._complex = any(
            (isinstance(n, Constant) and n.name == "i") or (isinstance(n, Call) and n.name == "cis")
            for n in nodes
        )
        self._num_points = len(_RANGES) if len(nodes) < 150 else 4

    def verdict(self) -> Sameness:
        """The result; the points are those of `_RANGES`, integers only where these say nothing."""
        needed = _ENOUGH if self._names else 1
        agreed = 0
        for real in (True, False):
            if real and self._complex:
                continue
            for number, point in enumerate(self._points()):
                if number >= self._num_points and agreed >= needed:
                    break
                try:
                    same = self._same_at(point, real=real)
                except BeyondError:
                    if self._budget < 0:
                        return Sameness.EQUAL if agreed >= needed else self._undecided()
                    continue
                if same is False:
                    return Sameness.DIFFERENT
                agreed += bool(same)
            if agreed >= needed:
                return Sameness.EQUAL
        return self._undecided()

    def _undecided(self) -> Sameness:
        """Too large to evaluate, the same tree is still the same; without a value it is not."""
        if self._left != self._right or self._budget == BUDGET:
            return Sameness.UNKNOWN
        for point in self._points():
            try:
                self._value(self._left, point, digits=_LOW, real=False)
            except UndefinedError:
                continue
            except BeyondError:
                return Sameness.EQUAL
            return Sameness.EQUAL
        return Sameness.UNKNOWN

    def _points(self) -> list[Point]:
        if not self._names:
            return [{}]
        scale, draw = 1 << POINT_BITS, self._random.randint
        points: list[Point] = [
            {name: draw(int(low * scale), int(high * scale)) | 1 for name in self._names}
            for low, high in _RANGES
        ]
        points.extend(
            {name: draw(low, high) * scale for name in self._names} for low, high in _INTEGER_RANGES
        )
        return points

    def _same_at(self, point: Point, *, real: bool) -> bool | None:
        """Whether the sides agree at a point; `None` where one of them is undefined or unclear."""
        try:
            left = self._value(self._left, point, digits=_LOW, real=real)
            right = self._value(self._right, point, digits=_LOW, real=real)
            left_high = self._value(self._left, point, digits=_HIGH, real=real)
            right_high = self._value(self._right, point, digits=_HIGH, real=real)
        except UndefinedError:
            return None
        ctx = context(_HIGH)
        left, right = ctx.convert(left), ctx.convert(right)
        lost = abs(left - left_high) + abs(right - right_high)
        size = max(abs(left_high), abs(right_high))
        # What is lost at 40 digits is about 10**30 times smaller at 70; five digits of margin.
        tolerance = lost * ctx.mpf(10) ** -25 + size * ctx.mpf(10) ** -58
        if tolerance > ctx.mpf(10) ** -15 and tolerance > size * ctx.mpf(10) ** -15:
            return None
        return bool(abs(left_high - right_high) <= tolerance)

    def _value(self, node: Node, point: Point, *, digits: int, real: bool) -> Value:
        evaluator = Evaluator(digits=digits, point=point, real=real, budget=self._budget)
        try:
            return evaluator.value(node)
        finally:
            self._budget = evaluator.budget

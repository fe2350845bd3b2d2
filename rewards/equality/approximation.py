"""Values to some digits: of constants, and of expressions at one point to tell them apart."""

from __future__ import annotations

import zlib
from fractions import Fraction
from functools import lru_cache
from typing import Any

from cotree.rewards.equality.commands import FUNCTIONS
from cotree.rewards.equality.nodes import (
    Call,
    Constant,
    Degrees,
    Negation,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Quotient,
    Sum,
)
from cotree.rewards.equality.numeric import (
    POINT_BITS,
    BeyondError,
    Evaluator,
    Point,
    UndefinedError,
)
from cotree.rewards.equality.walk import children, symbols

DIGITS = 30
MAX_MAGNITUDE = 4_000
"""Bits before or behind the point; a number beyond is not turned into a fraction."""
_BUDGET = 5_000
_SAMPLE_DIGITS = 60
_CLEARLY = Fraction(1, 10**12)
"""Relative; sixty digits leave room for most of them to cancel."""
_SPREAD = 3 << POINT_BITS
_NUMERIC = (Number, Negation, Sum, Product, Quotient, Power, Percent, Degrees)


def approximate(node: Node) -> Fraction | None:
    """The real value of `node` to about `DIGITS` digits; None if it has none or symbols."""
    return _value(node, {}, digits=DIGITS) if _is_numeric(node) else None


def far_apart(left: Node, right: Node) -> bool:
    """Whether two expressions clearly differ at a real point where both have a value.

    A cheap way to tell most unequal expressions apart; False says nothing.
    """
    first, second = _sample(left), _sample(right)
    if first is None or second is None:
        return False
    return abs(first - second) > _CLEARLY * (abs(first) + abs(second))


@lru_cache(maxsize=256)
def _sample(node: Node) -> Fraction | None:
    """The value at a point that the names of the symbols determine."""
    names = symbols(node)
    point = {name: (1 << POINT_BITS) + zlib.crc32(name.encode()) % _SPREAD for name in names}
    return _value(node, point, digits=_SAMPLE_DIGITS)


def _value(node: Node, point: Point, *, digits: int) -> Fraction | None:
    evaluator = Evaluator(digits=digits, point=point, real=True, budget=_BUDGET)
    try:
        value: Any = evaluator.value(node)
    except (UndefinedError, BeyondError):
        return None
    sign, mantissa, exponent, bits = value._mpf_
    if abs(exponent) + bits > MAX_MAGNITUDE:
        return None
    return Fraction(-mantissa if sign else mantissa) * Fraction(2) ** exponent


def _is_numeric(node: Node) -> bool:
    """Whether every part is a number or a known function: nothing with a made-up value."""
    pending = [node]
    while pending:
        current = pending.pop()
        match current:
            case Constant("pi" | "e"):
                continue
            case Call(name) if name in FUNCTIONS:
                pending.extend(current.arguments)
            case _ if isinstance(current, _NUMERIC):
                pending.extend(children(current))
            case _:
                return False
    return True

"""The value of a constant to thirty digits: for decimals and for the order of end points."""

from __future__ import annotations

from fractions import Fraction
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
from cotree.rewards.equality.numeric import BeyondError, Evaluator, UndefinedError
from cotree.rewards.equality.substitution import children

DIGITS = 30
MAX_MAGNITUDE = 4_000
"""Bits before or behind the point; a number beyond is not turned into a fraction."""
_BUDGET = 5_000
_NUMERIC = (Number, Negation, Sum, Product, Quotient, Power, Percent, Degrees)


def approximate(node: Node) -> Fraction | None:
    """The real value of `node` to about `DIGITS` digits; None if it has none or symbols."""
    if not _is_numeric(node):
        return None
    try:
        value: Any = Evaluator(digits=DIGITS, point={}, real=True, budget=_BUDGET).value(node)
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

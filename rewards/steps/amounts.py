"""Exact values as a text shows them: with the rounding, the units and the work behind them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction

from cotree.rewards.steps.tokens import Token

MAX_BITS = 2048
"""Of a numerator or denominator."""
MAX_EXPONENT = 256
MAX_FACTORIAL = 60


class UnreadableError(ValueError):
    """The tokens are no expression this module is sure about."""


@dataclass(frozen=True, slots=True)
class Amount:
    """A value, and how sure the text is about it."""

    value: Fraction
    error: Fraction = Fraction(0)
    """What rounding of the decimals shown can amount to."""
    units: frozenset[str] = frozenset()
    added_units: frozenset[str] = frozenset()
    """Units of terms that were added or subtracted; `""` for a term without one."""
    num_operators: int = 0
    decimals: int = 0
    """Most digits after a point among the numbers."""
    recurring: bool = False
    """A number looks like a rounded thirds, sixths, sevenths… (0.33, 16.67)."""
    is_percent: bool = False
    first: Fraction | None = None
    """The first number; `2 + 3 = 5 + 4 = 9` runs on from it."""


def literal(token: Token) -> Amount:
    """A numeral; its error is one unit of the last digit shown, cut off or rounded."""
    error = Fraction(1, 10**token.decimals) if token.decimals else Fraction(0)
    return Amount(
        token.value,
        error,
        decimals=token.decimals,
        recurring=token.decimals >= 2 and _recurring(token.value, token.decimals),
        first=token.value,
    )


def _recurring(value: Fraction, decimals: int) -> bool:
    """Whether the digits are those of thirds, sixths, sevenths or ninths, cut off or rounded."""
    unit = Fraction(1, 10**decimals)
    for denominator in (6, 7, 9):
        for numerator in (math.floor(value * denominator), math.ceil(value * denominator)):
            exact = Fraction(numerator, denominator)
            ends = (exact / unit).denominator == 1
            off = exact - value
            if not ends and (0 <= off < unit or -unit / 2 <= off < 0):
                return True
    return False


def _joined(left: Amount, right: Amount, value: Fraction, error: Fraction) -> Amount:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise UnreadableError(f"a value of more than {MAX_BITS} bits")
    return Amount(
        value,
        error,
        units=left.units | right.units,
        added_units=left.added_units | right.added_units,
        num_operators=left.num_operators + right.num_operators + 1,
        decimals=max(left.decimals, right.decimals),
        recurring=left.recurring or right.recurring,
        is_percent=left.is_percent or right.is_percent,
        first=left.first,
    )


def added(left: Amount, right: Amount, sign: int) -> Amount:
    """`left + sign * right`, remembering the units of the terms."""
    found = _joined(left, right, left.value + sign * right.value, left.error + right.error)
    terms = (left.added_units or (left.units or {""})) | (right.units or {""})
    if left.is_percent != right.is_percent:
        terms = frozenset(terms) | {"%"} | {""}
    return replace(found, added_units=frozenset(terms))


def multiplied(left: Amount, right: Amount) -> Amount:
    """`left * right`."""
    error = abs(left.value) * right.error + abs(right.value) * left.error + left.error * right.error
    return _joined(left, right, left.value * right.value, error)


def divided(left: Amount, right: Amount) -> Amount:
    """`left / right`."""
    if right.value == 0:
        raise UnreadableError("a division by zero")
    value, room = left.value / right.value, abs(right.value) - right.error
    # A divisor that rounding could make zero bounds nothing: any quotient is excusable.
    error = (left.error + abs(value) * right.error) / room if room > 0 else abs(value) * 10
    return _joined(left, right, value, error)


def power(base: Amount, exponent: Fraction) -> Amount:
    """`base ^ exponent` for a small integer exponent."""
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise UnreadableError(f"an exponent of {exponent}"[:60])
    power = int(exponent)
    if power < 0 and base.value == 0:
        raise UnreadableError("a division by zero")
    bits = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
    if bits * abs(power) > MAX_BITS:
        raise UnreadableError(f"a power of more than {MAX_BITS} bits")
    value = base.value**power
    # First order, doubled: decimals in a base are rare, and too wide only abstains.
    error = 2 * abs(power * value / base.value) * base.error if base.value else base.error
    return replace(base, value=value, error=error, num_operators=base.num_operators + 1, first=None)


def factorial(found: Amount) -> Amount:
    """`n!` of a small integer."""
    if found.value.denominator != 1 or not 0 <= found.value <= MAX_FACTORIAL:
        raise UnreadableError("a factorial of no small integer")
    value = Fraction(math.factorial(int(found.value)))
    return replace(found, value=value, num_operators=found.num_operators + 1, first=None)


def root(found: Amount) -> Amount:
    """The square root, where it is rational."""
    if found.value < 0:
        raise UnreadableError("the root of a negative number")
    top, bottom = math.isqrt(found.value.numerator), math.isqrt(found.value.denominator)
    if Fraction(top, bottom) ** 2 != found.value:
        raise UnreadableError("an irrational root")
    value = Fraction(top, bottom)
    return replace(found, value=value, num_operators=found.num_operators + 1, first=None)

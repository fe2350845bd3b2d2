r"""When a decimal equals a number: only to the precision it shows, and never for an integer.

- An integer, and a decimal with nothing but zeros behind the point, is exact.
- A reference that is a decimal of two or more places (or three significant digits) is a rounded
  number: what rounds to it at its last place is right. With fewer digits it is exact.
- An exact reference accepts a decimal only if it ends nowhere (`1/3`, `\pi`) and the answer shows
  at least `MIN_DIGITS` significant digits, all of them right (rounded or cut off).
"""

from fractions import Fraction

from cotree.rewards.equality.approximation import approximate
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import (
    Negation,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Quantity,
)

MIN_DIGITS = 6
"""Significant digits from which a decimal stands for a number that no decimal equals."""
MIN_PLACES = 2
MIN_SHOWN_DIGITS = 3
"""A reference with fewer places and fewer digits than these two is exact: `0.5` is one half."""


def last_place(node: Node) -> Fraction | None:
    r"""What one unit in the last digit shown is worth; None for what is no decimal numeral.

    `2.50` gives 1/100, `41.4\%` gives 1/1000, `1.23 \times 10^5` gives 1000.
    """
    match node:
        case Number(decimals=None):
            return None
        case Number(decimals=int(places)):
            return Fraction(1, 10**places)
        case Negation(operand) | Quantity(operand):
            return last_place(operand)
        case Percent(value):
            place = last_place(value)
            return place / 100 if place else None
        case Product((first, Power(Number(base), _) as power)) if base == 10:
            place, scale = last_place(first), rational(power)
            return place * scale if place and scale else None
        case _:
            return None


def decimals_agree(reference: Node, answer: Node) -> bool | None:
    """Whether the two are one number by the rules of this module; None if they do not decide.

    Symbolic comparison decides where neither side is a decimal and one is irrational.
    """
    left, right = rational(reference), rational(answer)
    if left is not None and right is not None and left == right:
        return True
    place = last_place(reference)
    if place is not None and left is not None and left.denominator != 1:
        if not _is_rounded(left, place):
            return False if right is not None else None
        right = right if right is not None else approximate(answer)
        return None if right is None else abs(left - right) * 2 <= place
    if left is not None and right is not None and _terminates(left):
        return False
    shown = last_place(answer)
    if shown is not None and right is not None:
        left = left if left is not None else approximate(reference)
        if left is None:
            return None
        enough = abs(right) >= shown * 10 ** (MIN_DIGITS - 1)
        too_small = abs(left) - abs(right)
        return enough and (abs(left - right) * 2 <= shown or 0 <= too_small < shown)
    return None if left is None or right is None else False


def _is_rounded(value: Fraction, place: Fraction) -> bool:
    return place * 10**MIN_PLACES <= 1 or abs(value) >= place * 10 ** (MIN_SHOWN_DIGITS - 1)


def _terminates(value: Fraction) -> bool:
    """Whether some decimal equals the value: no prime but 2 and 5 divides the denominator."""
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest == 1

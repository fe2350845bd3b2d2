"""Numerals as exact rationals: grouping, decimal points, exponents and repeating decimals."""

import re
from fractions import Fraction

from cotree.rewards.equality.nodes import Number

MAX_DIGITS = 1_000
"""Digits of one numeral, or the absolute value of its exponent. Making an integer of digits takes
quadratic time, and Python refuses more than 4,300."""

PATTERN = (
    r"[0-9]{1,3}(?:\.[0-9]{3})+,[0-9]+(?![0-9])"
    r"|[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?!,[0-9])(?:\.[0-9]+)?"
    r"|[0-9]{1,3}(?: [0-9]{3})+(?![0-9])(?:\.[0-9]+)?"
    r"|[0-9]{1,3}(?:\.[0-9]{3}){2,}(?![0-9.])"
    r"|[0-9]{1,3}(?:'[0-9]{3})+(?![0-9'])(?:\.[0-9]+)?"
    r"|(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?"
)
"""A numeral as it stands outside brackets, grouped in the usual ways."""
UNGROUPED = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+(?![0-9A-Za-z]))?"
"""A numeral inside brackets, where a comma separates items."""

_GOING_ON = re.compile(
    r"([0-9]{1,20})\.([0-9]{0,4}?)(?P<period>[0-9]{1,3}?)(?P=period){2,20}(?:\.\.\.|\\(?:ldots|dots))"
)
"""`0.1666...`: the last digits three times at least."""
_REPEATING = re.compile(
    r"([0-9]*)\.(?:([0-9]*)\\(?:overline|bar|dot)\s*\{?\s*([0-9]+)\s*\}?|\(([0-9]+)\))"
)


def number(text: str) -> Number:
    """The numeral `text`, which `PATTERN` matches, as an exact value.

    Raises:
        ValueError: it has more than `MAX_DIGITS` digits, or so large an exponent.
    """
    if text.isdigit() and len(text) <= MAX_DIGITS:
        return Number(Fraction(int(text)))
    if found := repeating(text, 0):
        return found[0]
    mantissa, _, exponent = text.replace("E", "e").partition("e")
    mantissa = _ungrouped(mantissa)
    whole, point, shown = mantissa.partition(".")
    if len(whole) + len(shown) > MAX_DIGITS:
        raise ValueError(f"a number of {len(whole) + len(shown)} digits; {MAX_DIGITS} are allowed")
    if len(exponent) > 6 or abs(int(exponent or "0")) > MAX_DIGITS:
        raise ValueError(f"exponent {exponent[:20]}; at most {MAX_DIGITS} is allowed")
    power = int(exponent or "0") - len(shown)
    digits = int(whole + shown or "0")
    value = Fraction(digits * 10**power) if power >= 0 else Fraction(digits, 10**-power)
    return Number(value, -power if point and shown and power < 0 else None)


def repeating(text: str, at: int) -> tuple[Number, int] | None:
    r"""`0.1\overline{6}`, `0.(6)` or `0.166...` at position `at`, and where it ends; else `None`.

    Raises:
        ValueError: it has more than `MAX_DIGITS` digits.
    """
    match = _REPEATING.match(text, at) or _GOING_ON.match(text, at)
    if match is None:
        return None
    whole, fixed, period = match[1] or "0", match[2] or "", match[3] or match[4]
    if len(whole) + len(fixed) + len(period) > MAX_DIGITS:
        raise ValueError(f"a repeating decimal of more than {MAX_DIGITS} digits")
    scale = 10 ** len(fixed)
    value = Fraction(int(whole + fixed), scale)
    return Number(value + Fraction(int(period), scale * (10 ** len(period) - 1))), match.end()


def _ungrouped(mantissa: str) -> str:
    mantissa = mantissa.replace(" ", "").replace("'", "")
    comma, point = mantissa.rfind(","), mantissa.rfind(".")
    if comma > point > -1:
        return mantissa.replace(".", "").replace(",", ".")
    if mantissa.count(".") > 1:
        return mantissa.replace(".", "")
    return mantissa.replace(",", "")

"""Whether two sides that a text calls equal are: true, false, or not for a rule to say."""

from __future__ import annotations

from fractions import Fraction
from itertools import product
from typing import NamedTuple

from cotree.rewards.steps.amounts import Amount, UnreadableError
from cotree.rewards.steps.equalities import Equality, Side
from cotree.rewards.steps.evaluation import Assignments, amount, readings
from cotree.rewards.steps.tokens import Token
from cotree.rewards.steps.words import CONVERSIONS, DIMENSIONS, stem
from cotree.rewards.types import Verdict

MAX_READINGS = 64
APPROXIMATE_FRAC = Fraction(1, 10)
"""How far two computed sides joined by an approximation sign may differ."""


class Judgement(NamedTuple):
    """A verdict on one equality and the two sides as they were read."""

    verdict: Verdict
    reason: str
    left: str = ""
    right: str = ""


def judged(equality: Equality, assigned: Assignments) -> Judgement:
    """The verdict on one equality.

    VERIFIED: both sides have the same value by the strict reading, decimals being right to the
    digits shown. REFUTED: no reading makes them equal, and rounding, conversion between units or
    a run-on chain (`2+3 = 5+4 = 9`) cannot explain it. UNCHECKED otherwise.

    Args:
        equality: what the text says.
        assigned: values of symbols, by name.
    """
    left, right = _shown(equality.left.tokens), _shown(equality.right.tokens)
    if equality.fault:
        return Judgement(Verdict.UNCHECKED, equality.fault, left, right)
    lefts, rights = _sides(equality.left), _sides(equality.right)
    first, second = _strict(lefts[0], assigned), _strict(rights[0], assigned)
    faults = [found for found in (first, second) if isinstance(found, str)]
    if isinstance(first, Amount) and isinstance(second, Amount):
        if not _computes(first, second, equality):
            return Judgement(Verdict.UNCHECKED, "nothing was computed", left, right)
        if _agree(first, second, approximate=equality.approximate):
            return Judgement(Verdict.VERIFIED, f"{left} = {right}", left, right)
    choices = list(product(_amounts(lefts, assigned), _amounts(rights, assigned)))
    if not choices or not _computes(*choices[0], equality):
        return Judgement(Verdict.UNCHECKED, faults[0], left, right)
    first, second = choices[0]
    if any(_may_agree(a, b, equality) for a, b in choices[:MAX_READINGS]):
        return Judgement(Verdict.UNCHECKED, "equal by rounding or another reading", left, right)
    if excuse := _excuse(equality, first, second):
        return Judgement(Verdict.UNCHECKED, excuse, left, right)
    reason = f"{left} = {_number(first.value)}, but {right}"
    if second.num_operators:
        reason += f" = {_number(second.value)}"
    return Judgement(Verdict.REFUTED, reason, left, right)


def _sides(side: Side) -> list[tuple[Token, ...]]:
    """The side; for one that opens with a minus or a bullet, both ways."""
    return (
        [side.tokens, side.tokens[1:]]
        if side.bullet and side.tokens[0].text == "-"
        else [side.tokens]
    )


def _amounts(sides: list[tuple[Token, ...]], assigned: Assignments) -> list[Amount]:
    found: list[Amount] = []
    for tokens in sides:
        for reading in readings(tokens):
            try:
                found.append(amount(tokens, reading, assigned))
            except UnreadableError:
                # Some readings of a side fail where others do not: `2 1/3` is no product.
                continue
    return found


def _computes(left: Amount, right: Amount, equality: Equality) -> bool:
    """Whether there is an operation to check, or a chain goes on (`… = 5 = 6`, two integers)."""
    if left.num_operators + right.num_operators:
        return True
    sides = (equality.left.tokens, equality.right.tokens)
    bare = all(len(side) == 1 and side[0].decimals == 0 for side in sides)
    return equality.chained and bare and not equality.right.following


def _strict(tokens: tuple[Token, ...], assigned: Assignments) -> Amount | str:
    """The side by the strict reading, or why there is none."""
    try:
        return amount(tokens, readings(tokens)[0], assigned)
    except UnreadableError as error:
        return str(error)


def _agree(left: Amount, right: Amount, *, approximate: bool) -> bool:
    """Equal, or equal to the digits that the side without operators shows."""
    difference = abs(left.value - right.value)
    if difference == 0:
        return True
    for shown, computed in ((right, left), (left, right)):
        if shown.num_operators:
            continue
        unit = _unit(shown)
        rounds = shown.decimals > 0 or shown.is_percent or approximate
        if rounds and (computed.value / unit).denominator != 1 and difference <= unit / 2:
            return True
    return False


def _may_agree(left: Amount, right: Amount, equality: Equality) -> bool:
    """Whether rounding of some kind explains the difference."""
    difference = abs(left.value - right.value)
    if _agree(left, right, approximate=True):
        return True
    if equality.approximate and left.num_operators and right.num_operators:
        return difference <= APPROXIMATE_FRAC * max(abs(left.value), abs(right.value))
    for shown, computed in ((right, left), (left, right)):
        if shown.num_operators:
            continue
        unit = _unit(shown)
        if equality.approximate and difference <= unit * _trailing_zeros(shown):
            return True
        # Cut off rather than rounded: 20/3 = 6.6.
        if (computed.value / unit).denominator != 1 and difference < unit:
            return True
        coarser = computed.decimals >= 2 and shown.decimals < computed.decimals
        if (computed.recurring or coarser) and difference <= computed.error + unit / 2:
            return True
    return (left.recurring or right.recurring) and difference <= left.error + right.error


def _unit(shown: Amount) -> Fraction:
    """What the last digit shown counts."""
    unit = Fraction(1, 10**shown.decimals)
    return unit / 100 if shown.is_percent else unit


def _trailing_zeros(shown: Amount) -> int:
    """10 for each zero that a round number ends in: `6000` may stand for 5800."""
    factor, value = 1, abs(shown.value)
    while not shown.decimals and value and value % (factor * 10) == 0:
        factor *= 10
    return factor


def _excuse(equality: Equality, left: Amount, right: Amount) -> str:
    """Why a difference need not be a mistake; empty when nothing says so."""
    if equality.doubtful:
        return "the sentence hedges, denies it or is about other numbers"
    if right.first is not None and right.num_operators and right.first == left.value:
        return "a run-on chain of equalities"
    if not left.num_operators and (equality.left.after_word or left.units):
        return "the left side may be part of a name"
    if any(token.text == "of" for token in equality.right.tokens):
        return "the right side may end before its `of`"
    same_unit = not _all_stems(left.units).isdisjoint(map(stem, equality.right.following))
    if equality.left.after_word and equality.left.tokens[-1].kind == "word" and not same_unit:
        return "the left side may be part of a name"
    if _is_range(equality.left.tokens):
        return "a range of numbers"
    return _unit_excuse(equality, left, right)


def _is_range(tokens: tuple[Token, ...]) -> bool:
    """`3-5` written tightly with a smaller number first."""
    if len(tokens) != 3 or tokens[1].text != "-":
        return False
    return tokens[1].glued and tokens[2].glued and tokens[0].value < tokens[2].value


def _unit_excuse(equality: Equality, left: Amount, right: Amount) -> str:
    added = [_stems(unit) for unit in (left.added_units | right.added_units) if unit]
    if any(a.isdisjoint(b) for a in added for b in added):
        return "terms of different units"
    if {"%", ""} <= left.added_units or {"%", ""} <= right.added_units:
        return "a percentage is added to a number"
    lefts, rights = _all_stems(left.units), _all_stems(right.units)
    if lefts and rights and lefts.isdisjoint(rights):
        return "the sides have different units"
    words = lefts | rights | {stem(word) for word in equality.right.following}
    dimensions = {DIMENSIONS[word] for word in words if word in DIMENSIONS}
    if dimensions and _is_conversion(left.value, right.value):
        return "units may be converted"
    if any(token.kind == "currency" for token in equality.left.tokens + equality.right.tokens):
        words |= {"dollar"}
    measured = [word for word in words if word in DIMENSIONS]
    if len(measured) > len({DIMENSIONS[word] for word in measured}):
        return "units may be converted"
    return ""


def _is_conversion(left: Fraction, right: Fraction) -> bool:
    return 0 not in (left, right) and (left / right in CONVERSIONS or right / left in CONVERSIONS)


def _all_stems(units: frozenset[str]) -> frozenset[str]:
    return frozenset(word for unit in units for word in _stems(unit))


def _stems(unit: str) -> frozenset[str]:
    return frozenset(stem(word) for word in unit.split() if word != "/")


def _shown(tokens: tuple[Token, ...]) -> str:
    """The side as it was read, at most 120 characters."""
    text = ""
    for token in tokens:
        if token.kind != "currency":
            text += token.text if token.glued or not text else f" {token.text}"
    return text[:120]


def _number(value: Fraction) -> str:
    """A value for people: decimals where they end soon, else a fraction."""
    if value.denominator == 1:
        shown = str(value)
    else:
        scaled = value * 10**6
        shown = f"{float(value):.10g}" if scaled.denominator == 1 else f"{value}"
    return shown if len(shown) <= 40 else f"{shown[:37]}…"

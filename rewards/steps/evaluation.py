"""The value of one side of an equation, exactly, with bounds on all work.

A side can be ambiguous: `10%` is 0.1 or, beside other percentages, 10; `2 1/2` is a
sum; `60/5*4` is 48 by the rules and 3 to many writers. `readings` lists what the tokens may mean,
the strict one first; a rule refutes only what no reading makes true.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Literal, NamedTuple

from cotree.rewards.steps.amounts import (
    Amount,
    UnreadableError,
    added,
    divided,
    factorial,
    literal,
    multiplied,
    power,
    root,
)
from cotree.rewards.steps.tokens import Token
from cotree.rewards.steps.words import SCALING_WORDS

MAX_TOKENS = 120
"""Longer sides are not read; this bounds the recursion as well."""
MAX_DEPTH = 24
"""Nested brackets."""
MAX_UNIT_WORDS = 4

Assignments = Mapping[str, Fraction]


Division = Literal["strict", "covers_products", "covers_quotients"]


class Reading(NamedTuple):
    """How the ambiguous pieces of a side are taken."""

    percent: Fraction = Fraction(1, 100)
    """What a percent sign multiplies by."""
    mixed: bool = True
    """`2 1/3` and `2\\frac13` are sums, not products."""
    division: Division = "strict"
    """`covers_products`: `a/b*c` is `a/(b*c)`. `covers_quotients`: `a / b/c` is `a / (b/c)`."""
    bang: bool = True
    """`!` is a factorial, not an exclamation mark."""


def readings(side: Sequence[Token]) -> list[Reading]:
    """The strict reading, then those that take one kind of ambiguous piece otherwise."""
    kinds = {token.kind for token in side}
    strict = Reading()
    found = [strict]
    if "percent" in kinds:
        found.append(strict._replace(percent=Fraction(1)))
    if _has_mixed(side):
        found.append(strict._replace(mixed=False))
    if any(token.text == "/" for token in side):
        found.append(strict._replace(division="covers_products"))
        found.append(strict._replace(division="covers_quotients"))
    if "bang" in kinds:
        found.append(strict._replace(bang=False))
    return found


def amount(side: Sequence[Token], reading: Reading, assigned: Assignments) -> Amount:
    """The side's value under one reading.

    Args:
        side: tokens without relations.
        reading: how ambiguous pieces are taken.
        assigned: values of symbols; a symbol without one makes the side unreadable.

    Raises:
        UnreadableError: the tokens are no expression, a symbol is unknown, or a bound is exceeded.
    """
    side = [token for token in side if token.kind != "currency"]
    if not side or len(side) > MAX_TOKENS:
        raise UnreadableError(f"{len(side)} tokens; a side has 1 to {MAX_TOKENS}")
    parser = _Parser(side, reading, assigned)
    found = parser.sum(0)
    if parser.at != len(side):
        raise UnreadableError(f"unexpected {side[parser.at].text!r}")
    return found


def _has_mixed(side: Sequence[Token]) -> bool:
    return any(
        left.kind == "number" and (right.kind in ("number", "function"))
        for left, right in pairwise(side)
    )


class _Parser:
    """Recursive descent over one side, computing as it goes."""

    def __init__(self, side: Sequence[Token], reading: Reading, assigned: Assignments) -> None:
        self._side = side
        self._reading = reading
        self._assigned = assigned
        self.at = 0

    def sum(self, depth: int) -> Amount:
        if depth > MAX_DEPTH:
            raise UnreadableError(f"brackets nest deeper than {MAX_DEPTH}")
        total = self._signed(depth)
        while (sign := self._operator("+-")) is not None:
            total = added(total, self._product(depth), -1 if sign == "-" else 1)
        return total

    def _signed(self, depth: int) -> Amount:
        sign = self._operator("+-")
        found = self._product(depth)
        return replace(found, value=-found.value, first=None) if sign == "-" else found

    def _product(self, depth: int) -> Amount:
        total = self._power(depth)
        after_slash = False
        while True:
            operator = self._operator(("*", "/", "of"))
            if operator is not None:
                following = self._peek()
                spaced = following is not None and not following.glued
                right = self._operand(depth)
                if operator == "/":
                    right = self._denominator(right, depth, spaced=spaced)
            elif self._implied():
                # 1/2(4), 6/2x: writers disagree about what the slash covers.
                if after_slash:
                    raise UnreadableError("a product without a sign after a division")
                operator, right = "*", self._power(depth)
            else:
                return total
            if operator == "/" or (after_slash and self._reading.division == "covers_products"):
                after_slash = True
                total = divided(total, right)
            else:
                total = multiplied(total, right)

    def _denominator(self, first: Amount, depth: int, *, spaced: bool) -> Amount:
        """What a slash covers: with a space after it, `/ b/c` is `/ (b/c)` in one reading."""
        if spaced and self._reading.division == "covers_quotients" and self._operator("/"):
            return divided(first, self._operand(depth))
        return first

    def _operand(self, depth: int) -> Amount:
        """A factor that may carry its own sign: `3 * -2`."""
        sign = self._operator("-")
        found = self._power(depth)
        return replace(found, value=-found.value) if sign else found

    def _power(self, depth: int) -> Amount:
        base = self._postfixed(depth)
        if self._operator("^") is None:
            return base
        if depth > MAX_DEPTH:
            raise UnreadableError(f"powers nest deeper than {MAX_DEPTH}")
        sign = self._operator("-")
        exponent = self._power(depth + 1)
        return power(base, -exponent.value if sign else exponent.value)

    def _postfixed(self, depth: int) -> Amount:
        found = self._atom(depth)
        while (token := self._peek()) is not None:
            if token.kind == "percent":
                found = replace(found, value=found.value * self._reading.percent, is_percent=True)
                found = replace(found, error=found.error * self._reading.percent)
            elif token.kind == "superscript":
                found = power(found, Fraction(int(token.text)))
            elif token.kind == "bang":
                found = factorial(found) if self._reading.bang else found
            else:
                break
            self.at += 1
        units = self._units()
        return replace(found, units=found.units | units) if units else found

    def _units(self) -> frozenset[str]:
        words: list[str] = []
        while (token := self._peek()) is not None:
            following = self._side[self.at + 1] if self.at + 1 < len(self._side) else None
            is_per = token.text == "/" and following is not None and following.kind == "word"
            if token.kind != "word" and not is_per:
                break
            words.append(token.text)
            self.at += 1
        self._unit_power(bool(words))
        if len(words) > MAX_UNIT_WORDS or not SCALING_WORDS.isdisjoint(map(str.lower, words)):
            raise UnreadableError(f"prose after a number: {' '.join(words)[:60]!r}")
        return frozenset((" ".join(words),)) if words else frozenset()

    def _unit_power(self, after_unit: bool) -> None:
        r"""Skips the power of a unit, `cm^2` or `cm²`: the number's value is not raised."""
        rest = self._side[self.at : self.at + 2]
        if after_unit and rest and rest[0].kind == "superscript":
            self.at += 1
        elif after_unit and len(rest) == 2 and rest[0].text == "^" and rest[1].kind == "number":
            self.at += 2

    def _atom(self, depth: int) -> Amount:
        token = self._peek()
        if token is None:
            raise UnreadableError("an operand is missing")
        self.at += 1
        if token.kind == "number":
            return self._with_fraction(literal(token), depth)
        if token.kind == "symbol":
            if token.text not in self._assigned:
                raise UnreadableError(f"{token.text} has no value here")
            value = self._assigned[token.text]
            return Amount(value, first=value)
        if token.kind == "open":
            return self._closed(token, depth)
        if token.text == "frac":
            return divided(self._argument(depth), self._argument(depth))
        if token.text == "sqrt":
            return root(self._argument(depth))
        raise UnreadableError(f"unexpected {token.text[:20]!r}")

    def _with_fraction(self, whole: Amount, depth: int) -> Amount:
        r"""A mixed number: an integer and a proper fraction (`2 1/3`, `2\frac13`)."""
        token = self._peek()
        if token is None or whole.decimals or not self._reading.mixed:
            return whole
        if token.kind == "number" and not token.glued:
            return self._plain_mixed(whole)
        if token.text != "frac" or token.kind != "function":
            return whole
        self.at += 1
        part = divided(self._argument(depth), self._argument(depth))
        if not 0 < part.value < 1:
            raise UnreadableError("no proper fraction in a mixed number")
        return replace(whole, value=whole.value + part.value)

    def _plain_mixed(self, whole: Amount) -> Amount:
        rest = self._side[self.at : self.at + 3]
        if len(rest) < 3 or rest[1].text != "/" or rest[2].kind != "number":
            raise UnreadableError("two numbers side by side")
        if rest[0].decimals or rest[2].decimals or not 0 < rest[0].value < rest[2].value:
            raise UnreadableError("no proper fraction in a mixed number")
        self.at += 3
        return replace(whole, value=whole.value + rest[0].value / rest[2].value)

    def _argument(self, depth: int) -> Amount:
        r"""One argument of `\frac`: a group, or a single digit (`\frac12` is two of them)."""
        token = self._peek()
        if token is None or token.kind not in ("open", "number"):
            raise UnreadableError("an argument is missing")
        if token.kind == "open":
            self.at += 1
            return self._closed(token, depth)
        if len(token.text) == 1:
            self.at += 1
            return literal(token)
        if len(token.text) == 2 and token.text.isdigit() and self.at:
            return self._split_digits(token)
        raise UnreadableError(f"{token.text!r} as the argument of a command")

    def _split_digits(self, token: Token) -> Amount:
        first, second = token.text
        single = replace(token, text=second, value=Fraction(int(second)))
        self._side = [*self._side[: self.at], single, *self._side[self.at + 1 :]]
        return literal(replace(token, text=first, value=Fraction(int(first))))

    def _closed(self, opening: Token, depth: int) -> Amount:
        inner = self.sum(depth + 1)
        token = self._peek()
        if token is None or token.kind != "close" or token.text != _CLOSING[opening.text]:
            raise UnreadableError("a bracket is not closed")
        self.at += 1
        return replace(inner, first=None)

    def _implied(self) -> bool:
        token = self._peek()
        return token is not None and (
            token.kind in ("open", "symbol", "function")
            and self._side[self.at - 1].kind not in ("word", "percent", "bang")
        )

    def _operator(self, which: str | tuple[str, ...]) -> str | None:
        token = self._peek()
        if token is None or token.kind != "operator" or token.text not in which:
            return None
        self.at += 1
        return token.text

    def _peek(self) -> Token | None:
        return self._side[self.at] if self.at < len(self._side) else None


_CLOSING = {"(": ")", "[": "]", "{": "}"}

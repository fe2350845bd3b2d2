"""Integer expressions with + - * and parentheses: an exact, bounded parser. Never `eval`.

Text comes from a language model, so every input is bounded before work is done on it: the
length, the depth of parentheses and the digits of a number. Within the bounds a value has at
most a few hundred digits, so evaluation is fast whatever the text says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Operator = Literal["+", "-", "*"]

MAX_CHARS = 400
"""Also bounds the tree's depth (a chain of 200 operators), far below Python's recursion limit."""
MAX_DEPTH = 32
"""Nested parentheses."""
MAX_DIGITS = 30
"""Digits of one number."""

_DIGITS = frozenset("0123456789")
_PRECEDENCE: dict[Operator, int] = {"+": 1, "-": 1, "*": 2}


class ExpressionError(ValueError):
    """The text is not an expression, or it is larger than the bounds allow."""


@dataclass(frozen=True, slots=True)
class Number:
    """A leaf."""

    value: int


@dataclass(frozen=True, slots=True)
class Operation:
    """Two operands and what joins them."""

    operator: Operator
    left: Expression
    right: Expression


Expression = Number | Operation


def parse(text: str) -> Expression:
    """The expression tree of `text`: `*` before `+` and `-`, operators of equal rank from the left.

    Spaces between tokens are ignored. A minus is part of a number where an operand is expected
    (`-3+5`, `2*(-4)`); it cannot stand before a parenthesis.

    Raises:
        ExpressionError: the text is no such expression, with the place; or it exceeds a bound.
    """
    if len(text) > MAX_CHARS:
        raise ExpressionError(f"{len(text)} characters; an expression may have {MAX_CHARS}")
    parser = _Parser(text)
    tree = parser.expression(minimum=1, depth=0)
    if parser.peek():
        raise parser.error("an operator")
    return tree


def value(expression: Expression) -> int:
    """The exact integer value."""
    if isinstance(expression, Number):
        return expression.value
    return apply(expression.operator, value(expression.left), value(expression.right))


def apply(operator: Operator, left: int, right: int) -> int:
    """`left operator right`."""
    if operator == "+":
        return left + right
    return left - right if operator == "-" else left * right


def num_operators(expression: Expression) -> int:
    """How many operations are left to do; the sign of a number is not one."""
    if isinstance(expression, Number):
        return 0
    return 1 + num_operators(expression.left) + num_operators(expression.right)


def render(expression: Expression) -> str:
    """The shortest text that `parse` reads back as the same tree, without spaces."""
    if isinstance(expression, Number):
        return str(expression.value)
    rank = _PRECEDENCE[expression.operator]
    left = _operand(expression.left, minimum=rank, leads=True)
    # Operators of equal rank bind to the left, so an equal one on the right needs parentheses.
    right = _operand(expression.right, minimum=rank + 1, leads=False)
    return f"{left}{expression.operator}{right}"


def _operand(expression: Expression, *, minimum: int, leads: bool) -> str:
    if isinstance(expression, Number):
        bare = expression.value >= 0 or leads
    else:
        bare = _PRECEDENCE[expression.operator] >= minimum
    return render(expression) if bare else f"({render(expression)})"


class _Parser:
    """Precedence climbing over one text. Source: Pratt 1973, "Top down operator precedence"."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def peek(self) -> str:
        """The next character that is not a space, or "" at the end."""
        while self._at < len(self._text) and self._text[self._at] == " ":
            self._at += 1
        return self._text[self._at : self._at + 1]

    def error(self, expected: str) -> ExpressionError:
        found = repr(self.peek()) if self.peek() else "the end"
        return ExpressionError(f"expected {expected} at character {self._at}, found {found}")

    def expression(self, *, minimum: int, depth: int) -> Expression:
        """Operands joined by operators of at least this rank."""
        left = self._operand(depth)
        while (operator := _operator(self.peek())) and _PRECEDENCE[operator] >= minimum:
            self._at += 1
            right = self.expression(minimum=_PRECEDENCE[operator] + 1, depth=depth)
            left = Operation(operator, left, right)
        return left

    def _operand(self, depth: int) -> Expression:
        if self.peek() != "(":
            return self._number()
        if depth == MAX_DEPTH:
            raise ExpressionError(f"parentheses nest deeper than {MAX_DEPTH}")
        self._at += 1
        inner = self.expression(minimum=1, depth=depth + 1)
        if self.peek() != ")":
            raise self.error("an operator or ')'")
        self._at += 1
        return inner

    def _number(self) -> Number:
        sign = -1 if self.peek() == "-" else 1
        start = end = self._at + (sign < 0)
        while self._text[end : end + 1] in _DIGITS:
            end += 1
        if start == end:
            raise self.error("a number or '('")
        if end - start > MAX_DIGITS:
            raise ExpressionError(f"a number of {end - start} digits; {MAX_DIGITS} are allowed")
        self._at = end
        return Number(sign * int(self._text[start:end]))


def _operator(text: str) -> Operator | None:
    return text if text in ("+", "-", "*") else None

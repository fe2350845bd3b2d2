r"""Lines of algebra: an equation must keep its solutions, an expression its value, line to line.

    2x + 4 = 10            2(x + 3) - 1
    2x = 6                 = 2x + 6 - 1
    x = 3                  = 2x + 5

Both lines become polynomials with rational coefficients, whose canonical form decides exactly; a
line that is none (roots, functions, a symbol in a denominator) is not judged.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from cotree.rewards.steps.amounts import UnreadableError
from cotree.rewards.steps.polynomials import (
    Polynomial,
    are_proportional,
    constant,
    degree,
    difference,
    equation,
    expression,
    symbols,
)
from cotree.rewards.types import Verdict

MAX_LINES = 400
"""Lines judged of one text; reading a line takes a tenth of a millisecond."""

_LINE = re.compile(r"[^\n]+")
# What may stand around the mathematics of a line: bullets, delimiters, alignment.
_LEADING = re.compile(r"(?:\s|\$|\\\[|\\\(|&|[-*•](?=\s)|\\implies|\\Rightarrow|⇒|=>)*")
_TRAILING = re.compile(r"(?:\s|\$|\\\]|\\\)|\\\\|[.,;])*\Z")
_MATHS = re.compile(r"[0-9A-Za-z\\{}()\[\]+\-*/^=.,&\s·×÷−]+")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")


class Comparison(NamedTuple):
    """What a line says about the line before."""

    span: tuple[int, int]
    verdict: Verdict
    reason: str
    left: str
    right: str


class _Line(NamedTuple):
    start: int
    end: int
    text: str
    continues: bool
    """It opens with an equality sign."""
    sides: tuple[Polynomial, Polynomial] | None
    """`None` for an expression."""
    value: Polynomial
    """Left less right side of an equation, or the expression."""


def rewritten_lines(text: str) -> list[Comparison]:
    """Judges every line of algebra that directly follows another; UNCHECKED ones are left out.

    VERIFIED: an equation whose two sides' difference is a multiple of the line before's, or that
    has the same solution; an expression after `=` with the same polynomial.
    REFUTED: two linear equations in one symbol with different solutions, unless both are already
    solved (a list of values) or a line before was not linear (its branches differ); an expression
    after `=` in the same symbols with another polynomial of the same degree.
    """
    found: list[Comparison] = []
    before: _Line | None = None
    branches = False
    for match, _ in zip(_LINE.finditer(text), range(MAX_LINES), strict=False):
        if not match[0].strip():
            continue
        line = _read(match)
        if line is not None and before is not None:
            verdict, reason = _judged(before, line, branches=branches)
            if verdict is not Verdict.UNCHECKED:
                span = (line.start, line.end)
                found.append(Comparison(span, verdict, reason, before.text, line.text))
        if line is not None and line.sides is not None and degree(line.value) > 1:
            branches = True
        before = line
    return found


def _read(match: re.Match[str]) -> _Line | None:
    """The line as mathematics, or `None` for anything else."""
    raw = match[0]
    start = _LEADING.match(raw)
    begin = start.end() if start else 0
    trailing = _TRAILING.search(raw, begin)
    finish = trailing.start() if trailing else len(raw)
    text = raw[begin:finish]
    continues = text.startswith("=")
    body = text[1:].lstrip("& ") if continues else text.replace("&", "")
    if not body or not _MATHS.fullmatch(body) or _WORD.search(body):
        return None
    try:
        sides = equation(body)
        value = expression(body) if sides is None else difference(*sides)
    except UnreadableError:
        return None  # most lines of a text are no algebra; that is no fault
    if continues and sides is not None:
        return None
    place = (match.start() + begin, match.start() + finish)
    return _Line(*place, body, continues, sides, value)


def _judged(before: _Line, line: _Line, *, branches: bool) -> tuple[Verdict, str]:
    shown = f"{before.text[:80]} -> {line.text[:80]}"
    if line.continues and before.sides is None and line.sides is None:
        if line.value == before.value:
            return Verdict.VERIFIED, shown
        # A lower degree may come of a known relation (alpha^2 = alpha + 1) put in.
        same = symbols(line.value) == symbols(before.value) != frozenset()
        same = same and degree(line.value) == degree(before.value)
        return (Verdict.REFUTED, f"{shown} changes the value") if same else (Verdict.UNCHECKED, "")
    if line.sides is None or before.sides is None or not symbols(before.value):
        return Verdict.UNCHECKED, ""
    if are_proportional(before.value, line.value):
        return Verdict.VERIFIED, shown
    names = symbols(before.value) | symbols(line.value)
    linear = degree(before.value) == degree(line.value) == 1
    listed = _is_solved(before) and _is_solved(line)
    if len(names) != 1 or not linear or listed or branches:
        return Verdict.UNCHECKED, ""
    return Verdict.REFUTED, f"{shown} changes the solution"


def _is_solved(line: _Line) -> bool:
    """`x = 3`: a symbol alone on one side, a number on the other."""
    if line.sides is None:
        return False
    for alone, other in (line.sides, line.sides[::-1]):
        is_symbol = len(alone) == 1 and degree(alone) == 1 and set(alone.values()) == {1}
        if is_symbol and constant(other) is not None:
            return True
    return False

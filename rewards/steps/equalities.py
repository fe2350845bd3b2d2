r"""Equalities in running text: `12 x 5 = 60`, `$\frac12+\frac13=\frac56$`, `<<48/2=24>>24`.

The finder takes the tokens on both sides of each relation, as far as they can belong to it, and
asks what stands beyond. Whatever might be part of the side but cannot be read (`half of 10 = 5`)
makes the equality unreadable, and no rule judges it. A chain `a = b = c` gives adjacent pairs.

A false alarm costs more than a miss: a policy that is punished for true lines stops writing them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cotree.rewards.steps.surroundings import (
    MAX_SIDE_TOKENS,
    OPERANDS,
    fault_after,
    fault_before,
)
from cotree.rewards.steps.tokens import Token, tokens, with_times_signs
from cotree.rewards.steps.words import (
    CLAUSE_WORDS,
    CONDITION_WORDS,
    DOUBT_WORDS,
    GLUED_UNITS,
    SCALING_WORDS,
)

MAX_UNIT_WORDS = 4

_ACCEPTED = {
    "number",
    "operator",
    "function",
    "percent",
    "currency",
    "superscript",
    "bang",
    "symbol",
}


class Side(NamedTuple):
    """One side of a relation."""

    tokens: tuple[Token, ...]
    fault: str = ""
    """Why the side may not be all there is; empty when it is whole."""
    after_word: bool = False
    """Prose stands directly before it, so that it may be the tail of a name (`for 3 friends`)."""
    bullet: bool = False
    """Its first token is a minus at the start of a line, or the bullet of a list."""
    following: tuple[str, ...] = ()
    """The words directly after it; the first ones may be its unit."""


class Equality(NamedTuple):
    """Two sides that the text says are equal."""

    left: Side
    right: Side
    span: tuple[int, int]
    approximate: bool
    chained: bool
    """The left side is the right side of the relation before."""
    doubtful: bool
    """The sentence hedges or denies it, or is about other numbers than the usual ones."""
    conditional: bool
    """The sentence says when it holds (`if x = 5`), or tries it out."""

    @property
    def fault(self) -> str:
        """Why it cannot be judged; empty when it can."""
        return self.left.fault or self.right.fault


def equalities(text: str) -> list[Equality]:
    """Every equality of the text in the order of their relations; linear time.

    The spans of a chain's pairs follow one another: the second starts where the first ends.
    Those of an annotation `<<48/2=24>>` lie inside the span of the equality around it.
    """
    found = tokens(text)
    inner = [pair for token in found if token.kind == "annotation" for pair in _annotated(token)]
    outer = [token for token in found if token.kind != "annotation"]
    return sorted([*_pairs(outer), *inner], key=lambda pair: pair.span)


def _annotated(token: Token) -> list[Equality]:
    return _pairs(tokens(token.text[2:-2], offset=token.start + 2))


def _pairs(raw: list[Token]) -> list[Equality]:
    stream = _with_of(with_times_signs(raw))
    doubts, conditions = _sentences(stream, DOUBT_WORDS), _sentences(stream, CONDITION_WORDS)
    pairs: list[Equality] = []
    covered = 0
    for index, token in enumerate(stream):
        if token.kind != "equal":
            continue
        left, right = _left(stream, index), _right(stream, index)
        if not left.tokens or not right.tokens:
            continue
        start, end = left.tokens[0].start, right.tokens[-1].end
        span = (max(start, covered), end)
        approximate = token.text == "≈"
        chained, flags = start < covered, (doubts[index], conditions[index])
        pairs.append(Equality(left, right, span, approximate, chained, *flags))
        covered = end
    return pairs


def _with_of(stream: list[Token]) -> list[Token]:
    """`20% of 50` and `1/2 of 10` are products; other uses of the word stay words."""
    changed = list(stream)
    for index in range(2, len(stream)):
        token, before = stream[index], stream[index - 1]
        if token.kind == "word" and token.text == "of":
            is_ratio = before.kind == "number" and stream[index - 2].text == "/"
            is_frac = before.text == "}" and any(
                t.text == "frac" for t in stream[max(0, index - 8) : index]
            )
            if before.kind == "percent" or is_ratio or is_frac:
                changed[index] = Token("operator", "of", token.start, token.end, token.glued)
    return changed


def _sentences(stream: Sequence[Token], words: frozenset[str]) -> list[bool]:
    """Per token, whether its sentence has one of the words or is a question."""
    flags = [False] * len(stream)
    start, found = 0, False
    for index, token in enumerate(stream):
        found = found or token.kind == "question"
        found = found or (token.kind == "word" and token.text.lower() in words)
        ends = token.kind == "newline" or (
            token.kind in ("stop", "question") and token.text in (".", ";", "?")
        )
        if ends or index == len(stream) - 1:
            flags[start : index + 1] = [found] * (index + 1 - start)
            start, found = index + 1, False
    return flags


def _left(stream: list[Token], relation: int) -> Side:
    """The side before a relation. A relation that opens its line continues the line before."""
    last = relation - 1
    while last >= 0 and stream[last].kind == "newline":
        if stream[last].text.startswith("\\end"):
            return Side(())  # of a matrix or a display
        last -= 1
    index, depth = last, 0
    while index >= 0 and last - index < MAX_SIDE_TOKENS:
        token = stream[index]
        if token.kind == "close":
            if depth == 0 and _is_enumerator(stream, index):
                break
            depth += 1
        elif token.kind == "open":
            if depth == 0:
                break
            depth -= 1
        elif depth:
            if token.kind in ("equal", "compare", "newline", "stop", "unknown", "question"):
                return Side(tuple(stream[index : last + 1]), f"{token.text!r} inside brackets")
        elif token.kind == "word":
            start = _unit_start(stream, index)
            if start is None:
                break
            index = start
        elif token.kind not in _ACCEPTED:
            break
        index -= 1
    side = stream[index + 1 : last + 1]
    while side and side[0].kind == "currency" and len(side) > 1 and side[1].kind == "operator":
        side = side[1:]  # `$x$ + 3`: the sign closes what is before it
    if not side:
        return Side(())
    if depth:
        return Side(tuple(side), "a bracket is not opened")
    return _checked_start(stream, index, side)


def _checked_start(stream: list[Token], before: int, side: list[Token]) -> Side:
    """The side with what its first token and the token before it say about its being whole."""
    token = stream[before] if before >= 0 else None
    whole = tuple(side)
    opens_line = token is None or token.kind == "newline"
    fault = fault_before(stream, before, side[0])
    bullet = False
    if side[0].kind == "operator":
        glued = len(side) > 1 and side[1].glued
        bullet = opens_line and not glued and side[0].text in "-*+"
        if bullet and side[0].text != "-":
            whole = whole[1:]
        elif side[0].text != "-" or not (bullet or (glued and not side[0].glued) or opens_line):
            fault = fault or "it starts with an operator"
    return Side(whole, fault, token is not None and token.kind == "word", bullet)


def _unit_start(stream: list[Token], last: int) -> int | None:
    """Where the unit of a number starts that ends at `last`; `None` when the words are prose."""
    first = last
    while first > 0 and last - first < MAX_UNIT_WORDS:
        before = stream[first - 1]
        if before.kind == "word" or (before.text == "/" and stream[first].kind == "word"):
            first -= 1
            continue
        break
    if first == 0 or stream[first - 1].kind not in OPERANDS:
        return None
    if any(token.text.lower() in CLAUSE_WORDS for token in stream[first : last + 1]):
        return None
    if stream[first].kind != "word" and stream[first].text != "/":
        return None
    if (
        stream[first].glued
        and stream[first].text not in GLUED_UNITS
        and (stream[first].text != "degrees" and stream[first].kind == "word")
    ):
        return None
    following = stream[last + 1]
    return first if following.kind in ("operator", "equal", "close", "newline", "stop") else None


def _is_enumerator(stream: list[Token], close: int) -> bool:
    """Whether a bracket closes the number of a list's item: `1)`, `(a)`."""
    at = close - 1
    if at < 0 or stream[at].kind not in ("number", "symbol") or stream[close].text != ")":
        return False
    at -= 1
    if at >= 0 and stream[at].kind == "open":
        at -= 1
    return (at < 0 or stream[at].kind == "newline") and not stream[close + 1].glued


def _right(stream: list[Token], relation: int) -> Side:
    """The side after a relation."""
    index, depth, fault = relation + 1, 0, ""
    end = min(len(stream), index + MAX_SIDE_TOKENS)
    while index < end:
        token = stream[index]
        if token.kind == "open":
            if depth == 0 and _is_aside(stream, index, relation):
                break
            depth += 1
        elif token.kind == "close":
            if depth == 0:
                break
            depth -= 1
        elif depth:
            if token.kind in ("equal", "compare", "newline", "stop", "unknown", "question"):
                fault = f"{token.text!r} inside brackets"
                break
        elif token.kind == "word":
            after = _unit_end(stream, index)
            if after is None:
                break
            index = after
            continue
        elif token.kind not in _ACCEPTED:
            break
        index += 1
    side = stream[relation + 1 : index]
    if depth and not fault:
        fault = "a bracket is not closed"
    while side and side[-1].kind == "currency":
        side.pop()  # `$2+3=5$`: it closes the mathematics
    words = tuple(token.text.lower() for token in stream[index : index + 3] if token.kind == "word")
    return Side(tuple(side), fault or fault_after(stream, index), following=words)


def _is_aside(stream: list[Token], opening: int, relation: int) -> bool:
    """A bracket with prose in it, set apart by a space: `= 5 (apples)`."""
    if stream[opening].glued or opening == relation + 1 or opening + 1 >= len(stream):
        return False
    return stream[opening + 1].kind in ("word", "stop")


def _unit_end(stream: list[Token], first: int) -> int | None:
    """Where the words after a number end, if an expression can go on there."""
    if stream[first - 1].kind not in OPERANDS:
        return None
    if stream[first].glued and stream[first].text not in GLUED_UNITS | {"degrees"}:
        return None
    after = first
    while after < len(stream) and (stream[after].kind == "word" or _is_per(stream, after)):
        after += 1
    if after - first > MAX_UNIT_WORDS or after >= len(stream):
        return None
    if any(t.text.lower() in SCALING_WORDS for t in stream[first:after]):
        return None
    return after if stream[after].kind in ("operator", "equal", "close") else None


def _is_per(stream: list[Token], index: int) -> bool:
    return (
        stream[index].text == "/" and index + 1 < len(stream) and stream[index + 1].kind == "word"
    )

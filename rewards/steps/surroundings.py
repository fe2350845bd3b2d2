"""What stands beside a side of an equality, and whether it may be part of it.

Every function returns a fault in a few words, empty when the side is whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from cotree.rewards.steps.tokens import Token
from cotree.rewards.steps.words import (
    COMPUTING_WORDS,
    GLUED_UNITS,
    JOINING_WORDS,
    LABEL_WORDS,
    NUMBER_WORDS,
    OPERATOR_WORDS,
    SCALING_WORDS,
    TOTAL_WORDS,
)

MAX_SIDE_TOKENS = 160
"""How far a side is followed; this keeps the work linear in the text."""
OPERANDS = frozenset(("number", "close", "percent", "superscript", "currency"))
"""Kinds of tokens that can end an operand."""


def fault_before(stream: Sequence[Token], before: int, first: Token) -> str:
    """Why what stands at `before` may belong to the side that starts with `first` after it."""
    token = stream[before] if before >= 0 else None
    if token is None or token.kind in ("equal", "compare", "question"):
        return ""
    if token.kind == "stop":
        previous = stream[before - 1] if before else None
        listed = token.text == "," and previous is not None and previous.kind == "number"
        # "14, 400 / 80": a numeral with a space in it, or the end of a list.
        return "a number and a comma before it" if listed and len(first.text) == 3 else ""
    if token.kind == "newline":
        previous = stream[before - 1] if before else None
        carries_on = previous is not None and previous.kind == "operator"
        return "the line before ends in an operator" if carries_on else ""
    if token.kind == "close":  # an enumerator, `1)`
        return ""
    if token.kind == "open":
        previous = stream[before - 1] if before else None
        prose = previous is None or previous.kind in (
            "word",
            "stop",
            "newline",
            "equal",
            "currency",
        )
        return (
            ""
            if prose and not (token.glued and previous and previous.kind == "word")
            else ("it is part of a bracket")
        )
    if token.kind == "word":
        return "" if not first.glued and _is_prose(stream, before) else f"{token.text!r} before it"
    return f"{token.text!r} before it"


def _is_prose(stream: Sequence[Token], index: int) -> bool:
    """Whether the word before a side leaves its value alone."""
    word = stream[index].text.lower()
    previous = stream[index - 1] if index else None
    before = previous.text.lower() if previous and previous.kind == "word" else ""
    if word == "of":
        return before in TOTAL_WORDS
    if word in ("and", "to", "by"):
        # `sums up to 3 + 4`, but `from 3 to 4`, `5 and 3`, `multiplied by 3`.
        computes = before in NUMBER_WORDS or before in OPERATOR_WORDS
        return not computes and not _number_nearby(stream, index)
    return word not in NUMBER_WORDS and word not in OPERATOR_WORDS and word not in LABEL_WORDS


def _number_nearby(stream: Sequence[Token], index: int) -> bool:
    return any(token.kind in OPERANDS for token in stream[max(0, index - 3) : index])


def fault_after(stream: Sequence[Token], index: int) -> str:
    """Why the side that ends before `index` may go on there."""
    token = stream[index] if index < len(stream) else None
    if token is None or token.kind in ("equal", "compare", "stop", "close"):
        return ""
    if token.kind == "open":
        return ""
    if token.kind == "newline":
        return _fault_after_newline(stream, index)
    if token.kind == "word":
        if token.glued and token.text not in GLUED_UNITS | {"degrees"}:
            return f"{token.text!r} after it"
        return _fault_of_words(stream, index)
    return f"{token.text!r} after it"


def _fault_of_words(stream: Sequence[Token], index: int) -> str:
    """Why the prose after a side may change its value: `= 5 hundred`, `= 3 times 4`."""
    ahead: list[str] = []
    for following in stream[index : index + 3]:
        if following.kind != "word":
            break
        ahead.append(following.text.lower())
    first = ahead[0]
    if first in JOINING_WORDS:
        beyond = [token for token in stream[index + 1 : index + 3] if token.text not in ("a", "an")]
        if beyond and (
            beyond[0].kind in ("number", "currency", "open", "symbol", "function")
            or beyond[0].text.lower() in NUMBER_WORDS
        ):
            return f"{first!r} after it"
    elif first in SCALING_WORDS:
        return f"{first!r} after it"
    computing = [word for word in ahead[1:] if word in COMPUTING_WORDS]
    return f"{computing[0]!r} after it" if computing else ""


def _fault_after_newline(stream: Sequence[Token], index: int) -> str:
    following = stream[index + 1] if index + 1 < len(stream) else None
    if following is None or following.kind != "operator":
        return ""
    # A list's item or an equation of its own has words or an equality; a bare term continues the
    # line before.
    if stream[index].text == "\n" and following.text in "-*+":
        for token in stream[index + 2 : index + 2 + MAX_SIDE_TOKENS]:
            if token.kind == "newline":
                break
            if token.kind in ("word", "equal"):
                return ""
    return "the next line starts with an operator"

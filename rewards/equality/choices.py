r"""Multiple choice: `C`, `(C)`, `\textbf{(C)}`, `C. 5` and `option C` choose the same letter."""

import re
from typing import NamedTuple

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|boldsymbol|mbox|bf|rm|emph)\b|[{}$*]"
    r"|\\[,;:! ]|\\q?quad\b"
)
_CHOICE = re.compile(
    r"(?:(?:the )?(?:correct )?(?:option|choice|answer)(?: is)?:? )?"
    r"(?:\(\s?(?P<round>[A-Ja-j])\s?\)|\[(?P<square>[A-J])\]|(?P<plain>[A-J])(?P<stop>[.:)])?)"
    r"(?P<tail>.*)",
    re.IGNORECASE | re.DOTALL,
)
_ANOTHER = re.compile(r"(?<![A-Za-z])[(\[]?[A-J][)\].:]?(?![A-Za-z0-9_^])|\bor\b")
_OPERATOR = re.compile(r"[-+*/^=<>_(\[|,;!']|\\(?:times|cdot|frac|cup|cap|in|l|g|pm|sqrt)")

MAX_CHARS = 400
"""Longer texts choose nothing."""


class Choice(NamedTuple):
    """A letter and what is written behind it, often the option's own text."""

    letter: str
    tail: str


def choice(text: str) -> Choice | None:
    """The letter an answer chooses; None if it is no choice or names several letters."""
    if len(text) > MAX_CHARS:
        return None
    match = _CHOICE.fullmatch(" ".join(_WRAPPER.sub(" ", text).split()))
    if match is None:
        return None
    tail = match["tail"].strip()
    letter = match["round"] or match["square"] or match["plain"]
    # `C + 1` and `C x` are algebra; a choice's text needs a mark between.
    if tail == "." or (not match["plain"] and not letter.isupper() and tail):
        tail = "" if tail == "." else tail
    if tail and (match["plain"] and not match["stop"]):
        return None
    if tail and (_OPERATOR.match(tail) or _ANOTHER.search(tail)):
        return None
    if match["plain"] and not letter.isupper():
        return None
    return Choice(letter.upper(), tail)

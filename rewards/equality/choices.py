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
_CLOSING = re.compile(r"^(?:[\s)\]}.:*$~]|\\[ ,;:!]|\\q?quad\b)*")
_ANOTHER = re.compile(r"(?<![A-Za-z])[(\[]?[A-J][)\].:]?(?![A-Za-z0-9_^])|\bor\b")
_OPERATOR = re.compile(r"[-+*/^=<>_(\[|,;!']|\\(?:times|cdot|frac|cup|cap|in|l|g|pm|sqrt)")
_BINARY = re.compile(r"[+*/^=<>_|,;!']|- |\\(?:times|cdot|cup|cap|in|le|ge|lt|gt|ne|pm)(?![a-z])")
"""What shows algebra behind a letter and a space: `(D) - 3`, but not `(D) -3`."""

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
    letter = match["round"] or match["square"] or match["plain"]
    tail = match["tail"].strip().removesuffix(".")
    if match["plain"] and (letter.islower() or (tail and not match["stop"])):
        return None  # `c` is a variable, and `C x` a product
    algebra = _BINARY if match["tail"].startswith(" ") else _OPERATOR
    if tail and (algebra.match(tail) or _ANOTHER.search(tail)):
        return None
    return Choice(letter.upper(), _as_written(text, letter) if tail else "")


def _as_written(text: str, letter: str) -> str:
    """The text behind the letter, braces and all."""
    start = re.search(rf"(?<![A-Za-z]){letter}(?![A-Za-z])", text)
    tail = text[start.end() :] if start else ""
    tail = _CLOSING.sub("", tail).strip()
    return tail.removesuffix("}") if tail.count("}") > tail.count("{") else tail

r"""The answer a completion commits to. Never "any number anywhere".

The rules are tried in a fixed order and the rule that hit is reported, so that logs show what a
policy's answers look like. All of them take linear time: the text is a language model's.
"""

import re
from typing import NamedTuple

END_OF_THINKING = "</think>"

# An escaped character (`\{`, `\\`) opens and closes nothing, so it is a token of its own.
_BRACES = re.compile(r"\\boxed\s{0,8}\{|\\.|[{}]", re.DOTALL)
_HASHES = re.compile(r"^#### ", re.MULTILINE)
_PHRASE = re.compile(r"\banswer[ \t*]{0,8}(?:is\b[ \t]{0,8}:?|:)", re.IGNORECASE)
_SENTENCE_END = re.compile(r"\.(?=\s)")


class Extraction(NamedTuple):
    """What was found and by which rule; both stay `None` and "none" when nothing was."""

    answer: str | None
    rule: str


class Box(NamedTuple):
    r"""A closed `\boxed{...}`: where it starts and ends, and what is in it."""

    start: int
    end: int
    content: str


def extract(completion: str) -> Extraction:
    r"""The final answer and the rule that found it: the first of these that is not blank.

    1. `boxed`: the last balanced `\boxed{...}`.
    2. `answer_tag`: the last `<answer>...</answer>`.
    3. `hashes`: the last line that starts with `#### ` (GSM8K's form).
    4. `phrase`: what follows the last "answer is" or "answer:", to the end of the sentence.

    Only the text after the last `</think>` counts when there is one: a box in the reasoning is
    not yet an answer.
    """
    text = completion.rpartition(END_OF_THINKING)[2]
    found = boxes(text)
    candidates = (
        ("boxed", found[-1].content if found else ""),
        ("answer_tag", _answer_tag(text)),
        ("hashes", _after_last(_HASHES, text)),
        ("phrase", _SENTENCE_END.split(_after_last(_PHRASE, text).strip(" \t*"))[0]),
    )
    for rule, candidate in candidates:
        if candidate.strip():
            return Extraction(candidate.strip(), rule)
    return Extraction(None, "none")


def boxes(text: str) -> list[Box]:
    r"""Every `\boxed{...}` whose braces balance, in the order in which they start."""
    found: list[Box] = []
    unclosed: list[re.Match[str]] = []
    for token in _BRACES.finditer(text):
        if token[0].endswith("{") and token[0] != r"\{":
            unclosed.append(token)
        elif token[0] == "}" and unclosed:
            opening = unclosed.pop()
            if opening[0] != "{":
                content = text[opening.end() : token.start()]
                found.append(Box(opening.start(), token.end(), content))
    return sorted(found)


def _answer_tag(text: str) -> str:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    return text[start + len("<answer>") : end] if start >= 0 else ""


def _after_last(pattern: re.Pattern[str], text: str) -> str:
    """What follows the pattern's last match on its line."""
    end = -1
    for match in pattern.finditer(text):
        end = match.end()
    return text[end:].partition("\n")[0] if end >= 0 else ""

"""Where one reasoning step ends and the next begins, in text and in tokens."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

_FENCE = "```"
_MATH_END = {"$$": "$$", r"\[": r"\]"}


@dataclass(frozen=True, slots=True)
class StepRule:
    """A step ends with a stop text after something that is not blank, or after so many tokens.

    A stop text inside a code fence or a displayed formula ends nothing. Tokens are never split: a
    step ends with the token that completes its last character, and what that token writes beyond
    it belongs to the step as well.
    """

    name: str
    stops: tuple[str, ...]
    """None of them is empty; no stops: only `max_tokens` ends a step."""
    max_tokens: int | None = None
    """Tokens after which a step ends wherever it is."""

    def __post_init__(self) -> None:
        if not self.stops and self.max_tokens is None:
            raise ValueError(f"step rule {self.name!r} ends no step; give stops or max_tokens.")
        if not all(self.stops) or (self.max_tokens is not None and self.max_tokens < 1):
            raise ValueError(
                f"step rule {self.name!r}: stops {self.stops!r} must not be empty texts, and "
                f"max_tokens = {self.max_tokens} must be 1 or more."
            )

    def text_end(self, text: str, start: int) -> int | None:
        """Where the step that begins at character `start` ends; None: it is not complete.

        The end of the text completes nothing, but a stop text there does.
        """
        at = start
        while True:
            ends = [(found, stop) for stop in self.stops if (found := text.find(stop, at)) >= 0]
            if not ends:
                return None
            found, stop = min(ends, key=lambda one: (one[0], -len(one[1])))
            end = found + len(stop)
            if text[start:end].strip() and not _is_open(text[start:found]):
                return end
            at = found + 1

    def cuts(self, text: str, token_ends: Sequence[int], first: int = 0) -> list[int]:
        """Numbers of tokens after which complete steps end, rising, for the tokens from `first`.

        Args:
            text: of the whole completion so far.
            token_ends: characters complete after each of its tokens; see `segments.token_ends`.
            first: the token with which a step begins.
        """
        found: list[int] = []
        while first < len(token_ends):
            start = token_ends[first - 1] if first else 0
            end = self.text_end(text, start)
            after = len(token_ends) + 1 if end is None else bisect_left(token_ends, end) + 1
            if self.max_tokens is not None:
                after = min(after, first + self.max_tokens)
            if after > len(token_ends):
                break
            found.append(after)
            first = after
        return found


def _is_open(text: str) -> bool:
    """Whether the text ends inside a code fence or a displayed formula."""
    if text.count(_FENCE) % 2:
        return True
    last, mark = max((text.rfind(mark), mark) for mark in _MATH_END)
    if mark == "$$":
        return text.count(mark) % 2 == 1
    return last >= 0 and _MATH_END[mark] not in text[last:]


STEP_RULES = {
    "line": StepRule("line", ("\n",)),
    "paragraph": StepRule("paragraph", ("\n\n",)),
    "sentence": StepRule("sentence", (". ", ".\n", "! ", "? ", "\n")),
}
"""By name; `tokens:N` is a step of N tokens."""


def step_rule_named(text: str) -> StepRule:
    """The rule `line`, `paragraph`, `sentence` or `tokens:N`.

    Raises:
        ValueError: there is no such rule.
    """
    name, _, number = text.partition(":")
    if name == "tokens" and number.isascii() and number.isdigit() and int(number) > 0:
        return StepRule(text, (), int(number))
    if text not in STEP_RULES:
        raise ValueError(f"steps = {text!r} is not one of {', '.join(STEP_RULES)} or tokens:N.")
    return STEP_RULES[text]

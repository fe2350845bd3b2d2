"""Answers that are equal to each other, for a vote among the completions of one problem."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cotree.rewards.equality.answers import Outcome, compare


@dataclass(frozen=True, slots=True)
class AnswerClass:
    """Answers that count as one."""

    representative: str
    """The text that most of them have; of equally frequent ones, the first by code points."""
    members: tuple[int, ...]
    """Positions among the answers, rising."""


def answer_classes(answers: Sequence[str | None]) -> list[AnswerClass]:
    """The answers in classes of equal ones; None is no answer, and is in no class.

    `compare` is neither symmetric (a decimal reference takes what rounds to it) nor transitive, so
    what a class is depends on who is asked. Texts come in order of falling frequency, then by code
    points; each joins the first class whose representative equals it in both directions, else it
    opens a class. So the result does not depend on the order of the answers. Equal texts are
    one class without a comparison, the empty one and unreadable ones too.

    Args:
        answers: extracted answers, one a completion.

    Returns:
        Classes in the order in which they were opened. Costs at most u (u - 1) calls of `compare`
        for u different texts, half of that where none are equal. Each is bounded, whatever the
        text, and none raises.
    """
    places: dict[str, list[int]] = {}
    for index, answer in enumerate(answers):
        if answer is not None:
            places.setdefault(answer, []).append(index)
    opened: dict[str, list[int]] = {}
    for text in sorted(places, key=lambda text: (-len(places[text]), text)):
        representative = next((known for known in opened if _same(known, text)), text)
        opened.setdefault(representative, []).extend(places[text])
    return [AnswerClass(text, tuple(sorted(indices))) for text, indices in opened.items()]


@lru_cache(maxsize=4096)
def _same(one: str, other: str) -> bool:
    """Whether each is right where the other is the reference.

    Remembered, because subsets of one problem's answers are voted on again and again.
    """
    return all(
        compare(reference, answer).outcome is Outcome.EQUAL
        for reference, answer in ((one, other), (other, one))
    )

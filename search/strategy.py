"""The seam between a strategy of test-time compute and whatever generates for it.

    while wanted := strategy.ask():
        strategy.tell(complete(question, wanted))
    answer = strategy.best()

A strategy holds no generator and no reference: it says how many completions it wants, is told
what they are, and selects one. So the same strategy runs on engines, on a server and on recorded
completions, and there is no way for it to look at the right answer.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

UNLIMITED = sys.maxsize
"""Completions that a strategy wants that only a budget ends."""


@dataclass(frozen=True, slots=True)
class Question:
    """A problem as a strategy and its step rules may see it: without the reference."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole completion, and what is known about it without the reference."""

    text: str
    answer: str | None
    """What it answers; None: it commits to no answer."""
    num_tokens: int
    """Generated for it."""
    is_finished: bool
    """It ended by itself; what was cut answers nothing yet."""
    is_refuted: bool
    """A rule refutes one of its steps. False also where no rule looked."""
    score: float = 1.0
    """How promising the judge finds it, in [0, 1]. By rules alone: 0 if it is refuted, else 1."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run of a strategy came to."""

    candidate: Candidate
    num_tokens: int
    """Generated in the whole run, those of discarded candidates too."""


class Strategy(Protocol):
    """Spends completions of one problem on one answer, and is used up by it.

    Deterministic in what it is told: no clock, no global random numbers. Whoever drives it asks,
    completes, tells all of that in the order in which it was asked for, and asks again.
    """

    def ask(self) -> int:
        """How many further completions it wants now; 0: it is done. Changes nothing.

        `UNLIMITED`: as many as whoever drives it has the budget for.
        """
        ...

    def tell(self, candidates: Sequence[Candidate]) -> None:
        """Takes the completions that it asked for.

        Args:
            candidates: in the order in which they were asked for, not that in which they
                finished. Fewer than asked for where a budget ends the run.

        Raises:
            ValueError: there are more than it asked for.
        """
        ...

    def best(self) -> Candidate:
        """Its choice among what it was told so far; it may be asked for at any time.

        Raises:
            ValueError: it was told nothing yet.
        """
        ...

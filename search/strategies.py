"""Strategies over whole, independent completions: the baselines that a tree search has to beat.

Completions that were cut and those without an answer never vote. Equal completions are separate
samples, one vote each: none is ever copied to fill up a pool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cotree.rewards.equality.classes import answer_classes
from cotree.search.strategy import Candidate, Strategy

_SIZE = re.compile(r"[1-9][0-9]{0,5}")


class _Collecting:
    """Asks for `size` completions at once and keeps what it is told."""

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a strategy of {size} completions has nothing to choose; give 1 up.")
        self._size = size
        self._told: list[Candidate] = []

    def ask(self) -> int:
        return self._size - len(self._told)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        wanted = self.ask()
        if len(candidates) > wanted:
            raise ValueError(f"{len(candidates)} completions were told, {wanted} asked for.")
        self._told += candidates

    def best(self) -> Candidate:
        if not self._told:
            raise ValueError("nothing was told yet, so there is no best; tell a completion first.")
        return self._chosen(self._told)

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        return told[0]


class First(_Collecting):
    """One completion, whatever it is."""

    def __init__(self) -> None:
        super().__init__(1)


class Majority(_Collecting):
    """The most frequent answer of `size` completions.

        argmax over classes y of equal answers of  #{i : completion i is finished, answers y}

    Of classes with as many votes it is the one whose first member was told first; of a class, the
    first member with the text that most of its members have. When nobody votes, the first
    completion.

    Source: Wang et al. 2023, arXiv:2203.11171 (self-consistency), sec. 2. Classes are by
        mathematical equality here, not by equal strings.
    """

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        return _voted(told)


class VetoedMajority(_Collecting):
    """The most frequent answer among completions without a refuted step.

    As `Majority`, except that a refuted completion does not vote. When that leaves no vote, the
    refuted ones vote after all.
    """

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        return _voted([one for one in told if _is_good(one)] or told)


class Resample(_Collecting):
    """One completion at a time until one has an answer and no refuted step, at most `size`.

    When there is none, all vote as in `Majority`. Where step rules find most mistakes this is hard
    to beat; where they find few it is little more than one completion that ended.
    """

    def ask(self) -> int:
        return 0 if any(map(_is_good, self._told)) else min(1, super().ask())

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        return next(filter(_is_good, told), None) or _voted(told)


class Kind(NamedTuple):
    """A strategy that can be named."""

    build: Callable[[int], Strategy]
    """From the number in its name, 1 where it takes none."""
    has_size: bool
    needs_verdicts: bool
    """It looks at `Candidate.is_refuted`, so there must be a rule that judges steps."""


STRATEGIES: dict[str, Kind] = {
    "first": Kind(lambda _: First(), has_size=False, needs_verdicts=False),
    "majority": Kind(Majority, has_size=True, needs_verdicts=False),
    "vetoed-majority": Kind(VetoedMajority, has_size=True, needs_verdicts=True),
    "resample": Kind(Resample, has_size=True, needs_verdicts=True),
}
"""By name. Another strategy joins with a line here."""


@dataclass(frozen=True, slots=True)
class NamedStrategy:
    """A strategy by its full name; calling it makes one for one problem."""

    name: str
    """`majority:8`."""
    size: int
    """Completions that a run has at most."""
    kind: Kind

    def __call__(self) -> Strategy:
        return self.kind.build(self.size)


def strategy_named(text: str) -> NamedStrategy:
    """The strategy behind a name, to be called for each run: `strategy_named("majority:8")()`.

    Args:
        text: `first`, or a name and the most completions of one run: `majority:8`.

    Raises:
        ValueError: there is no such strategy, or its number is missing, no number or useless.
    """
    name, colon, number = text.partition(":")
    kind = STRATEGIES.get(name)
    if kind is None:
        raise ValueError(f"no strategy is named {name!r}; there are {_choices()}.")
    if not kind.has_size:
        if colon:
            raise ValueError(f"strategy {text!r}: {name} takes no number; write {name!r}.")
        return NamedStrategy(name, 1, kind)
    if not _SIZE.fullmatch(number):
        raise ValueError(
            f"strategy {text!r}: N of {name}:N is a whole number of completions from 1, such as "
            f"{name}:8. There are {_choices()}."
        )
    return NamedStrategy(text, int(number), kind)


def _choices() -> str:
    return ", ".join(f"{name}:N" if kind.has_size else name for name, kind in STRATEGIES.items())


def _votes(one: Candidate) -> bool:
    return one.is_finished and one.answer is not None


def _is_good(one: Candidate) -> bool:
    return _votes(one) and not one.is_refuted


def _voted(told: Sequence[Candidate]) -> Candidate:
    """As `Majority` says; `told` is not empty."""
    voters = [one for one in told if _votes(one)]
    if not voters:
        return told[0]
    classes = answer_classes([one.answer for one in voters])
    winner = min(classes, key=lambda found: (-len(found.members), found.members[0]))
    members = (voters[index] for index in winner.members)
    return next(one for one in members if one.answer == winner.representative)

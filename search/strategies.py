"""Strategies over whole, independent completions: the baselines that a tree search has to beat.

Completions that were cut and those without an answer never vote. Equal completions are separate
samples, one vote each: none is ever copied to fill up a pool.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cotree.search.strategy import UNLIMITED, Candidate, Strategy
from cotree.search.votes import winner

_SIZE = re.compile(r"[1-9][0-9]{0,5}")


class _Collecting:
    """Asks for `size` completions at once and keeps what it is told.

    Without a size it asks until a budget ends the run.
    """

    def __init__(self, size: int | None = None) -> None:
        if size is not None and size < 1:
            raise ValueError(f"a strategy of {size} completions has nothing to choose; give 1 up.")
        self._size = size
        self._told: list[Candidate] = []

    def ask(self) -> int:
        return UNLIMITED if self._size is None else self._size - len(self._told)

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
        return _voted(told, [1.0] * len(told))


class WeightedMajority(_Collecting):
    """The answer of the completions that score most together.

        argmax over classes y of equal answers of
            sum of score_i over the finished completions i that answer y

    Otherwise as `Majority`; what scores 0 votes only where nothing scores more.

    Source: Li et al. 2022, arXiv:2206.02336; Snell et al. 2024, arXiv:2408.03314 (best-of-N
        weighted).
    """

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        return _voted(told, [one.score for one in told])


class BestOf(_Collecting):
    """The completion with the highest score among those that are finished and answer something.

    Of several it is the one that was told first. When there is none, the first completion.

    Source: Cobbe et al. 2021, arXiv:2110.14168, sec. 4.2 (the verifier's highest-ranked solution).
    """

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        # `max` returns the first of equals.
        return max(filter(_votes, told), key=lambda one: one.score, default=told[0])


class VetoedMajority(_Collecting):
    """The most frequent answer among completions without a refuted step.

    As `Majority`, except that a refuted completion does not vote. When that leaves no vote, the
    refuted ones vote after all.
    """

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        return _voted(told, [float(not one.is_refuted) for one in told])


class Resample(_Collecting):
    """One completion at a time until one has an answer and no refuted step, at most `size`.

    When there is none, all vote as in `Majority`. Where step rules find most mistakes this is hard
    to beat; where they find few it is little more than one completion that ended.
    """

    def ask(self) -> int:
        return 0 if any(map(_is_good, self._told)) else min(1, super().ask())

    def _chosen(self, told: Sequence[Candidate]) -> Candidate:
        return next(filter(_is_good, told), None) or _voted(told, [1.0] * len(told))


class Kind(NamedTuple):
    """A strategy that can be named."""

    build: Callable[[int | None], Strategy]
    """From the number in its name, 1 where it takes none. None: until a budget ends the run."""
    has_size: bool
    needs_verdicts: bool
    """It looks at `Candidate.is_refuted` or at `score`, so there must be a judge."""


STRATEGIES: dict[str, Kind] = {
    "first": Kind(lambda _: First(), has_size=False, needs_verdicts=False),
    "majority": Kind(Majority, has_size=True, needs_verdicts=False),
    "vetoed-majority": Kind(VetoedMajority, has_size=True, needs_verdicts=True),
    "resample": Kind(Resample, has_size=True, needs_verdicts=True),
    "best-of": Kind(BestOf, has_size=True, needs_verdicts=True),
    "weighted-majority": Kind(WeightedMajority, has_size=True, needs_verdicts=True),
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


def _voted(told: Sequence[Candidate], weights: Sequence[float]) -> Candidate:
    """The winner of the vote among `told`, which is not empty; the first where nobody votes."""
    won = winner([one.answer if _votes(one) else None for one in told], weights)
    return told[won or 0]

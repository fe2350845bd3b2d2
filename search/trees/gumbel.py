"""The root of a Gumbel search: through which of its children the next simulations go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle, islice

from cotree.search.halving import gumbel_noise, halving_phases, halving_scores
from cotree.search.selection import sampled_priors
from cotree.search.tree import Node
from cotree.search.tree_strategy import rng_at


class HalvingRoot:
    """Sequential Halving over steps that were drawn at the root.

    The schedule is that of `halving_phases`, less the first simulation of each candidate, which
    drew it. Candidates are ranked by `halving_scores` where a phase begins, so no simulation may be
    under way there; within a phase they take turns whatever comes back.

    Args:
        candidates: the root's children to choose among, one at least.
        siblings: all of the root's children, for the priors.
        num_simulations: left to spend.
        value: of a child, in [0, 1].
        seed: of the search. A candidate's noise depends on it and on the candidate's key alone.
    """

    def __init__(
        self,
        candidates: Sequence[Node],
        siblings: Sequence[Node],
        *,
        num_simulations: int,
        value: Callable[[Node], float],
        seed: int,
    ) -> None:
        shares = sampled_priors([one.count for one in siblings])
        self._priors = {one.id: p for one, p in zip(siblings, shares, strict=True)}
        self._noise = {one.id: gumbel_noise(rng_at(seed, "gumbel", one.key)) for one in candidates}
        self._value = value
        self._candidates = sorted(candidates, key=lambda one: one.key)
        self._phases = halving_phases(len(candidates), len(candidates) + num_simulations)
        first = self._phases[0]
        left = first.num_simulations - first.num_candidates
        self._phases[0] = first._replace(num_simulations=left)
        self._turns: list[Node] = []

    def next_turn(self, *, is_waiting: bool) -> Node | None:
        """The candidate whose turn it is; None: none before all is told, or none ever.

        Args:
            is_waiting: simulations are under way.
        """
        while not self._turns and self._phases:
            if is_waiting:
                return None
            considered, num_simulations = self._phases.pop(0)
            self._candidates = self.ranked()[:considered]
            self._turns = list(islice(cycle(self._candidates), num_simulations))
        return self._turns.pop(0) if self._turns else None

    def ranked(self) -> list[Node]:
        """Candidates that are left, the best first."""
        scores = halving_scores(
            [self._noise[one.id] for one in self._candidates],
            [one.visits for one in self._candidates],
            [self._value(one) for one in self._candidates],
            [self._priors[one.id] for one in self._candidates],
        )
        pairs = sorted(
            zip(scores, self._candidates, strict=True), key=lambda pair: (-pair[0], pair[1].key)
        )
        return [one for _, one in pairs]

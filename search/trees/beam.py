"""Beam search over reasoning steps, and diverse verifier tree search (DVTS)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cotree.search.tree import ROOT, Node
from cotree.search.trees.rounds import Rounds
from cotree.search.votes import best_scored, may_vote, voted, voters


@dataclass(frozen=True, kw_only=True)
class BeamSettings:
    """Of `Beam`."""

    width: int = 16
    """Steps that are drawn in a round (n)."""
    expansions: int = 4
    """Steps that are drawn after one state (m); width / expansions states are kept."""
    rounds: int = 40
    """Steps after which a beam ends, finished or not."""
    repeats: bool = True
    """Starts another beam with new draws when one has ended, until a budget ends the search."""
    diverse: bool = False
    """DVTS: width / expansions beams that keep one state each, instead of one that keeps all."""

    def __post_init__(self) -> None:
        for name in ("width", "expansions", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)} must be 1 or more.")
        if self.width % self.expansions:
            raise ValueError(
                f"width = {self.width} must be a multiple of expansions = {self.expansions}."
            )


@dataclass(slots=True)
class _Lane:
    """One beam; DVTS has several that know nothing of each other."""

    places: int
    """States that it may still keep."""
    states: list[int]
    draws: int
    """Steps to draw after each state in this round."""


class Beam(Rounds):
    """In each round, `expansions` steps after each kept state; the best of what they lead to stay.

    Refuted states are dropped, the others ordered by score. Where scores are equal, as those of
    rules mostly are, the first child of each state comes before any second one: by place in the
    tree alone, all that is kept would soon descend from one state.

    A finished completion among the best leaves the beam with its place, and one that is outranked
    stays a candidate of the tree. So a beam narrows, nothing is copied to fill it up, and what is
    unfinished is never selected. The selected completion is of those with the highest score, by
    vote.

    Source: Snell et al. 2024, arXiv:2408.03314, sec. 5.2 (beam search against a verifier); Beeching
        et al. 2024, "Scaling test-time compute with open models" (DVTS).
    """

    def __init__(self, settings: BeamSettings) -> None:
        super().__init__()
        self._settings = settings
        self._lanes: list[_Lane] = []
        self._num_rounds = 0
        """Of the present beam."""

    def best(self) -> int | None:
        return voted(best_scored(voters(self.tree)), "count")

    def _following(self, ends: Sequence[int | None]) -> list[int]:
        first = 0
        for lane in self._lanes:
            stop = first + lane.draws * len(lane.states)
            self._keep(lane, ends[first:stop])
            first = stop
        self._lanes = [lane for lane in self._lanes if lane.states]
        if not self._lanes or self._num_rounds >= self._settings.rounds:
            if ends and not self._settings.repeats:
                return []
            self._lanes = self._fresh_lanes()
            self._num_rounds = 0
        self._num_rounds += 1
        return [state for lane in self._lanes for state in lane.states for _ in range(lane.draws)]

    def _fresh_lanes(self) -> list[_Lane]:
        settings = self._settings
        kept = settings.width // settings.expansions
        lanes, places = (kept, 1) if settings.diverse else (1, kept)
        return [_Lane(places, [ROOT], places * settings.expansions) for _ in range(lanes)]

    def _keep(self, lane: _Lane, ends: Sequence[int | None]) -> None:
        """Moves a beam to the best of the states that a round brought."""
        # Two draws of one step are one state.
        distinct = [self.tree[end] for end in dict.fromkeys(ends) if end is not None]
        usable = [
            node for node in distinct if not node.is_refuted and (node.is_open or may_vote(node))
        ]
        best = _ranked(usable)[: lane.places]
        lane.states = [node.id for node in best if node.is_open]
        lane.places = len(lane.states) + lane.places - len(best)
        lane.draws = self._settings.expansions


def _ranked(nodes: Iterable[Node]) -> list[Node]:
    """The best first; see `Beam` for what is equally good. No matter in which order they come."""
    found: list[tuple[float, int, Node]] = []
    siblings: Counter[int] = Counter()
    for node in sorted(nodes, key=lambda node: (-(node.score or 0.0), node.key)):
        found.append((-(node.score or 0.0), siblings[node.parent], node))
        siblings[node.parent] += 1
    return [node for _, _, node in sorted(found, key=lambda one: (*one[:2], one[2].key))]

"""Monte Carlo tree self-refine: a tree of completions, each a revision of the one above it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from cotree.search.tree import ROOT, Node
from cotree.search.tree_strategy import Growing
from cotree.search.types import Job, Reply
from cotree.search.votes import voted, voters

_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class RefineSettings:
    """Of `Refine`."""

    completions: int | None = None
    """Jobs after which the search is done, the first completion and dropped ones included. None:
    only the budget ends it. There is no other rule: nothing here could see a right answer."""
    max_children: int = 3
    """Revisions of one completion."""
    exploration: float = 1.4
    """Weight of exploration (c), not negative."""

    def __post_init__(self) -> None:
        if self.completions is not None and self.completions < 1:
            raise ValueError(
                f"completions = {self.completions} must be 1 or more, or none for no limit."
            )
        if self.max_children < 1:
            raise ValueError(f"max_children = {self.max_children} must be 1 or more.")
        if not 0.0 <= self.exploration < math.inf:
            raise ValueError(f"exploration = {self.exploration} must be 0 or more, and finite.")


def refine_value(scores: Sequence[float], child_values: Sequence[float]) -> float:
    """What a completion is worth, by its own scores and by the best of its revisions.

        Q(a)  = (min R_a + mean R_a) / 2
        Q'(a) = (Q(a) + max over children b of Q(b)) / 2,    Q(a) without children

    Args:
        scores: R_a, one at least, in [0, 1].
        child_values: Q of its revisions.

    Source: Zhang et al. 2024, arXiv:2406.07394, sec. 3 (self-evaluation, backpropagation).
    """
    own = (min(scores) + fmean(scores)) / 2.0
    return (own + max(child_values)) / 2.0 if child_values else own


def refine_uct(value: float, visits: int, parent_visits: int, *, c: float) -> float:
    """How much a completion deserves another revision; the largest is chosen.

        Q'(a) + c * sqrt((ln N(parent) + 1) / (N(a) + epsilon))

    Args:
        value: Q'(a).
        visits: N(a), 1 at least.
        parent_visits: N of the completion that it revises; of the root for the first one.
        c: weight of exploration.

    Source: Zhang et al. 2024, arXiv:2406.07394, sec. 3 (update UCT).
    """
    return value + c * math.sqrt((math.log(parent_visits) + 1.0) / (visits + _EPSILON))


class Refine(Growing):
    """One completion, then revisions: each time of the completion with the highest UCT.

    One job at a time. A completion that was revised `max_children` times is not chosen again; when
    none is left to revise, another one is drawn at the root. A reply's score is backed up through
    all completions above it, which sets N; Q is of a completion's own scores. The selected
    completion is of those with the highest Q, by vote.

    Source: Zhang et al. 2024, arXiv:2406.07394. The limit on children is strict here: there, a
        completion that is better than all its revisions may have more.
    """

    def __init__(self, settings: RefineSettings) -> None:
        super().__init__()
        self._settings = settings
        self._scores: dict[int, list[float]] = {}
        """By the node that ends a completion, in the order in which they were told."""
        self._revised: dict[int, int] = {}
        """End of a completion -> end of the one that it revises; the root of a first one."""
        self._revisions: dict[int, list[int]] = {}

    def best(self) -> int | None:
        leaves = voters(self.tree)
        highest = max(map(self._own_value, leaves), default=0.0)
        return voted([leaf for leaf in leaves if self._own_value(leaf) == highest], "count")

    def _next(self) -> Job | None:
        if self._under_way or self._num_asked == self._settings.completions:
            return None
        able = [end for end in self._scores if self.tree[end].draws < self._settings.max_children]
        if not able:
            return self._job(ROOT, "rollout")
        return self._job(max(able, key=self._uct), "revise")

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        end = grown[-1]
        if end not in self._scores:
            self._revised[end] = job.node
            self._revisions.setdefault(job.node, []).append(end)
        self._scores.setdefault(end, []).append(reply.score)
        for node in self.tree.path(end):
            self.tree[node].visits += 1
            self.tree[node].value_sum += reply.score

    def _own_value(self, leaf: Node) -> float:
        return refine_value(self._scores[leaf.id], ())

    def _uct(self, end: int) -> float:
        below = [self._own_value(self.tree[one]) for one in self._revisions.get(end, ())]
        return refine_uct(
            refine_value(self._scores[end], below),
            self.tree[end].visits,
            self.tree[self._revised[end]].visits,
            c=self._settings.exploration,
        )

"""Depth-first search by resampling: what stands before a refuted step is kept, the rest is redrawn.

Where rules find most mistakes this is the baseline that is hard to beat; where they find none it
draws whole completions, one after the other.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cotree.search.tree import ROOT
from cotree.search.tree_strategy import Growing
from cotree.search.types import Job, Reply
from cotree.search.votes import may_vote, voted, voters


@dataclass(frozen=True, kw_only=True)
class ResampleSettings:
    """Of `Resample`."""

    tries: int = 4
    """Refuted continuations of a node after which it is given up: it may hold a mistake that no
    rule found."""
    votes: int | None = 1
    """Accepted completions that end the search. None: only the budget does."""
    accepted_score: float = 1.0
    """A finished completion with an answer is accepted from this score on."""

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ValueError(f"tries = {self.tries} must be 1 or more.")
        if self.votes is not None and self.votes < 1:
            raise ValueError(f"votes = {self.votes} must be 1 or more, or none for no limit.")
        if not 0.0 < self.accepted_score <= 1.0:
            raise ValueError(f"accepted_score = {self.accepted_score} must be above 0, at most 1.")


class Resample(Growing):
    """One rollout at a time, which stops at its first refuted step.

    The next one continues from the parent of that step. A node whose continuations were refuted
    `tries` times is given up; that counts as a refuted continuation of its parent, so the search
    backs up as far as it must. The root is never given up.

    A completion that ends without being accepted and without a refuted step tells nothing about
    where its mistake is: the next one starts at the root. So does the one after an accepted
    completion, so that accepted ones are independent of each other.
    """

    def __init__(self, settings: ResampleSettings) -> None:
        super().__init__()
        self._settings = settings
        self._at = ROOT
        self._refuted: Counter[int] = Counter()
        """Continuations of a node that were refuted or given up."""
        self._num_accepted = 0

    def best(self) -> int | None:
        # Scores weigh, so accepted completions outvote all others where judges give 0 and 1.
        return voted(voters(self.tree), "score")

    def _next(self) -> Job | None:
        if self._under_way or self._num_accepted == self._settings.votes:
            return None
        return self._job(self._at, "rollout", stops_when_refuted=True)

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        del job
        refuted = next((node for node in grown if self.tree[node].is_refuted), None)
        if refuted is not None:
            self._back_up(self.tree[refuted].parent)
            return
        end = self.tree[grown[-1]]
        if may_vote(end) and reply.score >= self._settings.accepted_score:
            self._num_accepted += 1
        self._at = ROOT

    def _gave_up(self, job: Job) -> None:
        self._back_up(job.node)

    def _back_up(self, node: int) -> None:
        """Goes on at a node after a continuation of it failed, or above it."""
        self._refuted[node] += 1
        while node != ROOT and self._refuted[node] >= self._settings.tries:
            node = self.tree[node].parent
            self._refuted[node] += 1
        self._at = node

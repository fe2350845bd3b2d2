"""Strategies over whole completions, as tree strategies: every completion starts at the root."""

from __future__ import annotations

from cotree.search.strategy import Candidate, Strategy
from cotree.search.tree import ROOT
from cotree.search.tree_strategy import Growing
from cotree.search.types import Job, Reply


class Completions(Growing):
    """A `Strategy` at work on a tree.

    It is told its candidates in the order in which they were asked for: one that arrives early
    waits for those before it. One that was given up is asked for again.
    """

    def __init__(self, strategy: Strategy, *, stops_when_refuted: bool) -> None:
        """Asks nothing yet.

        Args:
            strategy: fresh.
            stops_when_refuted: ends a completion after its first refuted step. It is cut then, so
                it answers nothing and cannot vote, and its budget goes to others.
        """
        super().__init__()
        self._strategy = strategy
        self._stops = stops_when_refuted
        self._early: dict[int, tuple[Candidate, int] | None] = {}
        self._told: list[tuple[Candidate, int]] = []
        self._next_told = 0

    def best(self) -> int | None:
        if not self._told:
            return None
        chosen = self._strategy.best()
        # By identity: two candidates may be equal in all that a strategy sees.
        node = next(node for candidate, node in self._told if candidate is chosen)
        return None if self.tree[node].is_open else node

    def _next(self) -> Job | None:
        outstanding = self._num_asked - self._next_told
        given_up = sum(one is None for one in self._early.values())
        if self._strategy.ask() <= outstanding - given_up:
            return None
        return self._job(ROOT, "rollout", stops_when_refuted=self._stops)

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        end = self.tree[grown[-1]]
        candidate = Candidate(
            self.tree.text(end.id),
            reply.answer,
            reply.num_tokens,
            end.is_finished,
            end.is_refuted,
            reply.score,
        )
        self._take(job.number, (candidate, end.id))

    def _gave_up(self, job: Job) -> None:
        self._take(job.number, None)

    def _take(self, number: int, found: tuple[Candidate, int] | None) -> None:
        self._early[number] = found
        while self._next_told in self._early:
            earliest = self._early.pop(self._next_told)
            self._next_told += 1
            # A strategy may be content before all that it asked for has arrived.
            if earliest is not None and self._strategy.ask() > 0:
                self._strategy.tell([earliest[0]])
                self._told.append(earliest)

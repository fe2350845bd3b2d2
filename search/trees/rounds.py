"""What step-wise strategies share that go on when a whole round of steps is in."""

from __future__ import annotations

from collections.abc import Sequence

from cotree.search.tree_strategy import Growing
from cotree.search.types import Job, Reply


class Rounds(Growing):
    """Asks for one step after each of several nodes, and chooses anew when all of it was told.

    A round has places, numbered in the order of the asks, so what follows does not depend on the
    order in which replies arrive. A strategy defines `_following` and `best`.
    """

    def __init__(self) -> None:
        super().__init__()
        self._starts: list[int] = []
        self._ends: list[int | None] = []
        self._place_of: dict[int, int] = {}
        self._is_over = False

    def _following(self, ends: Sequence[int | None]) -> list[int]:
        """The nodes to continue in the next round, one a place; none: the strategy is done.

        Args:
            ends: nodes that the round before brought, one a place; None where a job was given up.
                Empty before the first round.
        """
        raise NotImplementedError

    def _next(self) -> Job | None:
        if len(self._place_of) == len(self._starts) and not self._turn():
            return None
        place = len(self._place_of)
        job = self._job(self._starts[place], "step")
        self._place_of[job.number] = place
        return job

    def _turn(self) -> bool:
        """Begins the next round if it can; whether there is one."""
        if self._under_way or self._is_over:
            return False
        self._starts = self._following(self._ends)
        self._ends = [None] * len(self._starts)
        self._place_of = {}
        self._is_over = not self._starts
        return not self._is_over

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        del reply
        self._ends[self._place_of[job.number]] = grown[-1]
        for place, at in enumerate(grown):
            # Of several draws of one step, the first by number names it, whichever arrived first.
            key = (*self.tree[job.node].key, job.draw, place)
            self.tree[at].key = min(self.tree[at].key, key)

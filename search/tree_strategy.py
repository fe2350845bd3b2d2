"""The seam between a tree strategy and whatever generates for it.

    while not strategy.is_done:
        for job in strategy.ask(room):     # fewer, or none, while it waits for replies
            start(job)
        strategy.tell(next_reply())
    node = strategy.best()

A strategy holds no engine, no judge, no budget and no reference. It is a deterministic function of
what it is told: its random choices are seeded by its own seed and by a node's place in the tree.
"""

from __future__ import annotations

import random
from typing import Protocol

from cotree.search.tree import Tree
from cotree.search.types import Job, JobKind, Reply


class TreeStrategy(Protocol):
    """Spends generated tokens on one problem, and is used up by it."""

    @property
    def tree(self) -> Tree:
        """All that it was told."""
        ...

    @property
    def is_done(self) -> bool:
        """It has nothing under way, and will not ask again: its own rule ends it."""
        ...

    def ask(self, most: int) -> list[Job]:
        """Up to `most` further jobs, which are under way from now on.

        Fewer, or none, while it has to be told something first, and when it is done.
        """
        ...

    def tell(self, reply: Reply) -> None:
        """Takes the reply to a job under way, in any order.

        One that is not under way (told before, or dropped) changes nothing.
        """
        ...

    def drop(self, number: int) -> None:
        """Gives a job up that is under way: there will be no reply. Otherwise as for `tell`."""
        ...

    def best(self) -> int | None:
        """The end of the completion it prefers so far, at any time; None: there is none yet."""
        ...


class Growing:
    """What strategies share: numbers of jobs, those under way, and the growth of the tree.

    A strategy defines `_next`, `_grown` and `best`, and `_gave_up` where it keeps more than the
    tree.
    """

    def __init__(self) -> None:
        self.tree = Tree()
        self._under_way: dict[int, Job] = {}
        self._num_asked = 0
        self._is_exhausted = False

    @property
    def is_done(self) -> bool:
        return self._is_exhausted and not self._under_way

    @property
    def num_under_way(self) -> int:
        return len(self._under_way)

    def ask(self, most: int) -> list[Job]:
        jobs: list[Job] = []
        while len(jobs) < most and (job := self._next()) is not None:
            jobs.append(job)
        if not jobs and most > 0 and not self._under_way:
            self._is_exhausted = True
        return jobs

    def tell(self, reply: Reply) -> None:
        job = self._under_way.pop(reply.number, None)
        if job is None:
            return
        self._weigh(job, -1)
        self._grown(job, reply, self.tree.grow(job, reply))

    def drop(self, number: int) -> None:
        job = self._under_way.pop(number, None)
        if job is not None:
            self._weigh(job, -1)
            self._gave_up(job)

    def _next(self) -> Job | None:
        """The next job, made by `_job`; None: none before the next reply, or ever."""
        raise NotImplementedError

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        """Takes in a reply, whose steps are the nodes `grown` of the tree."""
        raise NotImplementedError

    def _gave_up(self, job: Job) -> None:
        """Takes in that a job brought nothing."""
        del job

    def _job(
        self,
        node: int,
        kind: JobKind,
        *,
        stops_when_refuted: bool = False,
        is_whole: bool = False,
    ) -> Job:
        """A new job, under way from now on."""
        here = self.tree[node]
        job = Job(self._num_asked, node, here.draws, kind, stops_when_refuted, is_whole)
        here.draws += 1
        self._num_asked += 1
        self._under_way[job.number] = job
        self._weigh(job, +1)
        return job

    def _weigh(self, job: Job, change: int) -> None:
        for node in self.tree.path(job.node):
            self.tree[node].inflight += change


def rng_at(seed: int, *place: object) -> random.Random:
    """Random numbers that depend on a seed and a place alone, on every machine alike.

    Args:
        seed: the search's.
        place: what they are for: words, and a node's key.
    """
    return random.Random(repr((seed, *place)))

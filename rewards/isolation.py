"""Reward functions in child processes that can be killed: no completion can hang or crash a run.

Children are separate interpreters (not forks: a fork copies locks that other threads hold) with
limits on memory and CPU time. The parent enforces the wall-clock limit with SIGKILL, which works
from any thread and against code that never returns to Python, where SIGALRM does neither.

What this is not: a sandbox for hostile code. Reward functions are yours; completions are data.
"""

import os
import queue
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from cotree.rewards.child import Child, WorkerStartError
from cotree.rewards.combine import combine
from cotree.rewards.outcomes import Outcome, short
from cotree.rewards.plan import CHUNK_ITEMS, Planner, outcomes_by, planned, planned_checks
from cotree.rewards.registry import Term, located
from cotree.rewards.signature import Item
from cotree.rewards.types import Problem, Reward, Ungraded
from cotree.rewards.worker import Setup

__all__ = ["CHUNK_ITEMS", "IsolatedPool", "Item", "Term", "WorkerStartError"]


class IsolatedPool:
    """Child processes that grade completions under time and memory limits, from any thread."""

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        workers: int,
        timeout_seconds: float,
        memory_bytes: int,
    ) -> None:
        """Starts the children and resolves the reward functions in each.

        Args:
            terms: the rewards whose weighted sum is computed. Those named by a file are read
                here, once, relative to the working directory.
            workers: child processes; each makes one call at a time.
            timeout_seconds: wall-clock limit of one call of a term that has no limit of its own.
            memory_bytes: address-space limit of one child.

        Raises:
            RewardLookupError: there is no such file.
            WorkerStartError: a term's name or options are wrong, or its import fails.
        """
        self._terms = tuple(located(term, Path.cwd()) for term in terms)
        timeouts = tuple(term.timeout_seconds or timeout_seconds for term in terms)
        setup = Setup(self._terms, timeouts, memory_bytes)
        self._owner = os.getpid()
        self._children = [Child(setup) for _ in range(workers)]
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grading")
        try:
            # Launch all, then wait: they import side by side.
            for child in self._children:
                child.launch()
            for child in self._children:
                child.await_ready()
                self._idle.put(child)
        except BaseException:
            self.close()
            raise

    def grade_many(self, items: Sequence[Item]) -> list[Reward | Ungraded]:
        """The reward of each (completion, problem), in the order given.

        An item that hangs, crashes its child or makes a function raise is treated as the term's
        `on_error` says; the items around it are not affected.

        Raises:
            WorkerStartError: a killed child's replacement could not start.
            RewardFailedError: a term failed whose `on_error` is `raise`.
        """
        return [combine(self._terms, outcomes) for outcomes in self.outcomes(items)]

    def outcomes(self, items: Sequence[Item]) -> list[list[Outcome]]:
        """The outcome of every term for each (completion, problem), both in the order given.

        Raises:
            WorkerStartError: a killed child's replacement could not start.
        """
        return self._over_chunks(items, planned)

    def check(self, problems: Sequence[Problem]) -> list[str]:
        """Why problems cannot be graded: one message for each that a reward's check refuses.

        The checks are those that `checked_by` attached; they run under the same limits, and are
        told the time limit that grading has.

        Raises:
            WorkerStartError: a killed child's replacement could not start.
        """
        found = self._over_chunks([("", problem) for problem in problems], planned_checks)
        return [
            f"{problem.id}, reference {short(problem.reference)}: {term.name}: {outcome.reason}"
            for problem, outcomes in zip(problems, found, strict=True)
            for term, outcome in zip(self._terms, outcomes, strict=True)
            if isinstance(outcome, Ungraded)
        ]

    def close(self) -> None:
        """Kills the children. Calls in flight fail; the pool cannot be used afterwards."""
        if os.getpid() != self._owner:
            return  # a fork that unwinds must not end the children of the process it came from
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.close()

    def __enter__(self) -> "IsolatedPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _over_chunks(self, items: Sequence[Item], planner: Planner) -> list[list[Outcome]]:
        if os.getpid() != self._owner:
            raise RuntimeError(
                f"this pool was made by process {self._owner}, and a fork of it has neither its "
                f"threads nor its children; make a pool in process {os.getpid()}."
            )
        share = -(-len(items) // max(1, len(self._children)))
        size = max(1, min(CHUNK_ITEMS, share))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        parts = self._threads.map(lambda chunk: self._with_a_child(chunk, planner), chunks)
        results = [outcomes for part in parts for outcomes in part]
        assert len(results) == len(items), (len(results), len(items))
        return results

    def _with_a_child(self, chunk: Sequence[Item], planner: Planner) -> list[list[Outcome]]:
        child = self._idle.get()
        try:
            return outcomes_by(child, chunk, planner)
        finally:
            self._idle.put(child)

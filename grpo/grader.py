"""The grader: completions in, groups of graded rollouts out. A failed grader is never a zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions

from cotree.grpo.config import Grading, RewardTerm
from cotree.grpo.types import Completion, Group, Problem, PromptTokens, Rollout
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.types import Ungraded

Sampled = tuple[Problem, PromptTokens, Sequence[Completion]]
"""One problem, its prompt and the completions sampled for it."""


class TooManyFailures(RuntimeError):  # noqa: N818 - reads as what it says in an except clause
    """More rollouts could not be graded than the run allows."""


class Grader:
    """Plain class, so tests need no Ray. `RemoteGrader` is the same thing as an actor."""

    def __init__(self, rewards: Sequence[RewardTerm], grading: Grading) -> None:
        self._rewards = tuple(rewards)
        self._grading = grading
        self._pool: IsolatedPool | None = None

    def start(self) -> None:
        """Starts the child processes, which resolve and check the reward functions.

        Not done on construction: an actor that fails there buries the reason in Ray's own report.

        Raises:
            WorkerStartError: a reward's name, options or imports are wrong.
        """
        self._pool = IsolatedPool(
            [Term(term.name, term.weight, term.options) for term in self._rewards],
            workers=self._grading.workers,
            timeout_seconds=self._grading.timeout_seconds,
            memory_bytes=self._grading.memory_bytes,
        )

    def grade(self, groups: Sequence[Sampled]) -> list[Group]:
        """The groups with a reward, or the reason for having none, on every completion.

        Raises:
            TooManyFailures: the share that could not be graded is above
                `grading.max_failed_frac`.
        """
        items = [
            (completion.text, problem)
            for problem, _, completions in groups
            for completion in completions
        ]
        if self._pool is None:
            raise RuntimeError("the grader is not running; call start() first.")
        results = self._pool.grade_many(items)
        self._refuse_too_many_failures([r for r in results if isinstance(r, Ungraded)], len(items))
        rewards = iter(results)
        return [
            Group(
                problem,
                prompt_ids,
                tuple(Rollout(completion, next(rewards)) for completion in completions),
            )
            for problem, prompt_ids, completions in groups
        ]

    def close(self) -> None:
        """Kills the child processes."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _refuse_too_many_failures(self, failed: Sequence[Ungraded], num_items: int) -> None:
        if len(failed) <= self._grading.max_failed_frac * num_items:
            return
        counts = Counter(ungraded.failure.value for ungraded in failed)
        shown = ", ".join(f"{count} {failure}" for failure, count in sorted(counts.items()))
        raise TooManyFailures(
            f"{len(failed)} of {num_items} completions could not be graded ({shown}); "
            f"grading.max_failed_frac = {self._grading.max_failed_frac:g}. The first reason: "
            f"{failed[0].reason}"
        )


# No CPU is reserved: the children do the work, and reserving one could leave none for a learner.
RemoteGrader = ray.remote(num_cpus=0, max_restarts=0)(Grader)


class GraderGroup:
    """The driver's side of the grading actor."""

    def __init__(self, actor: object, *, first_term: str) -> None:
        self._actor: Any = actor  # methods of a Ray handle are made at run time
        self.first_term = first_term
        """Name of the reward that decides what counts as correct."""

    @classmethod
    def start(cls, rewards: Sequence[RewardTerm], grading: Grading) -> GraderGroup:
        """Starts the actor and waits until its reward functions are resolved.

        Raises:
            WorkerStartError: as `Grader.start`.
        """
        group = cls(RemoteGrader.remote(rewards, grading), first_term=rewards[0].name)
        try:
            ray.get(group._actor.start.remote())
        except ray.exceptions.RayTaskError as error:
            group.stop()
            raise error.cause from error
        return group

    def grade(self, groups: Sequence[Sampled]) -> list[Group]:
        """As `Grader.grade`, with its exceptions as they are, not wrapped in Ray's."""
        try:
            return ray.get(self._actor.grade.remote(groups))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def stop(self) -> None:
        """Ends the actor; the grading processes die with it."""
        ray.kill(self._actor)

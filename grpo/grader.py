"""The grader: completions in, groups of graded rollouts out. A failed grader is never a zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

import ray
import ray.exceptions

from cotree.grpo.config import Grading, RewardTerm
from cotree.grpo.grader_group import RewardActor
from cotree.grpo.reward_terms import reward_terms
from cotree.grpo.types import Completion, Group, Problem, PromptTokens, Rollout
from cotree.rewards.combine import combine
from cotree.rewards.inline import InlineRewards
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.outcomes import Outcome
from cotree.rewards.registry import Executor, Term
from cotree.rewards.signature import Item
from cotree.rewards.types import Reward, Ungraded

Sampled = tuple[Problem, PromptTokens, Sequence[Completion]]
"""One problem, its prompt and the completions sampled for it."""


class TooManyFailures(RuntimeError):  # noqa: N818 - reads as what it says in an except clause
    """More rollouts could not be graded than the run allows."""


class Running(Protocol):
    """Reward functions that run somewhere: in child processes, here, or in an actor."""

    def outcomes(self, items: Sequence[Item]) -> list[list[Outcome]]: ...

    def close(self) -> None: ...


class Grader:
    """Plain class, so tests need no Ray. `RemoteGrader` is the same thing as an actor."""

    def __init__(self, terms: Sequence[Term], grading: Grading) -> None:
        self._terms = tuple(terms)
        self._grading = grading
        self._running: list[tuple[tuple[int, ...], Running]] = []
        """With the indices of the terms that each runs."""

    def start(self) -> None:
        """Starts what runs the reward functions, which resolves and checks them.

        Not done on construction: an actor that fails there buries the reason in Ray's own report.

        Raises:
            WorkerStartError: a reward's name, options or imports are wrong.
        """
        grading = self._grading
        try:
            if isolated := self._run_by("process"):
                pool = IsolatedPool(
                    [self._terms[index] for index in isolated],
                    workers=grading.workers,
                    timeout_seconds=grading.timeout_seconds,
                    memory_bytes=grading.memory_bytes,
                )
                self._running.append((isolated, pool))
            if inline := self._run_by("inline"):
                here = InlineRewards([self._terms[index] for index in inline])
                self._running.append((inline, here))
            for index in self._run_by("ray"):
                term = self._terms[index]
                seconds = term.timeout_seconds or grading.timeout_seconds
                self._running.append(((index,), RewardActor(term, timeout_seconds=seconds)))
        except BaseException:
            self.close()
            raise

    def grade(self, groups: Sequence[Sampled]) -> list[Group]:
        """The groups with a reward, or the reason for having none, on every completion.

        Raises:
            TooManyFailures: the share of completions on which a reward function failed is above
                `grading.max_failed_frac`.
            RewardFailedError: one failed whose `on_error` is `raise`.
        """
        if not self._running:
            raise RuntimeError("the grader is not running; call start() first.")
        items = [
            (completion.text, problem)
            for problem, _, completions in groups
            for completion in completions
        ]
        outcomes = self._outcomes(items)
        results = [
            combine(self._terms, found, combination=self._grading.combination) for found in outcomes
        ]
        self._refuse_too_many_failures(outcomes, results)
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
        """Ends what runs the reward functions."""
        for _, running in self._running:
            running.close()
        self._running = []

    def _run_by(self, executor: Executor) -> tuple[int, ...]:
        return tuple(i for i, term in enumerate(self._terms) if term.executor == executor)

    def _outcomes(self, items: Sequence[Item]) -> list[list[Outcome]]:
        """Of every term for each item, whoever runs the term."""
        results: list[list[Outcome]] = [[None] * len(self._terms) for _ in items]
        for indices, running in self._running:
            for result, found in zip(results, running.outcomes(items), strict=True):
                for index, outcome in zip(indices, found, strict=True):
                    result[index] = outcome
        return results

    def _refuse_too_many_failures(
        self, outcomes: Sequence[Sequence[Outcome]], results: Sequence[Reward | Ungraded]
    ) -> None:
        # Failures that count as `error_value` are failures all the same.
        failed = [
            result if isinstance(result, Ungraded) else None
            for found, result in zip(outcomes, results, strict=True)
            if isinstance(result, Ungraded) or any(isinstance(o, Ungraded) for o in found)
        ]
        if len(failed) <= self._grading.max_failed_frac * len(results):
            return
        counts: Counter[str] = Counter()
        reasons: list[str] = []
        for found in outcomes:
            for term, outcome in zip(self._terms, found, strict=True):
                if isinstance(outcome, Ungraded):
                    counts[f"{outcome.failure} of {term.name}"] += 1
                    reasons.append(f"{term.name}: {outcome.reason}")
        if not reasons:  # every function returned, and still there is no reward
            reasons = [result.reason for result in failed if result is not None]
            counts = Counter(result.failure.value for result in failed if result is not None)
        shown = ", ".join(f"{count} {failure}" for failure, count in sorted(counts.items()))
        raise TooManyFailures(
            f"{len(failed)} of {len(results)} completions could not be graded ({shown}); "
            f"grading.max_failed_frac = {self._grading.max_failed_frac:g}. The first reason: "
            f"{reasons[0]}"
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

        Rewards named by a file are read here, so that no other node needs the file.

        Raises:
            RewardLookupError: there is no such file.
            WorkerStartError: as `Grader.start`.
        """
        actor = RemoteGrader.remote(reward_terms(rewards), grading)
        group = cls(actor, first_term=rewards[0].name)
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
        """Ends the actor; the grading processes and reward actors die with it."""
        ray.kill(self._actor)

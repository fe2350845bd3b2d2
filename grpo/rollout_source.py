"""Graded groups for each step, sampled up to `max_staleness` steps ahead in a fixed order."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cotree.grpo.config_algorithm import Train, TreeRollouts
from cotree.grpo.generator import GeneratorGroup, PendingSamples, Sampling
from cotree.grpo.grader import GraderGroup
from cotree.grpo.phases import Phases
from cotree.grpo.problems import PromptOrder
from cotree.grpo.seeds import derive
from cotree.grpo.types import Group, Problem, PromptTokens, SampleRequest, TreePlan


@dataclass(slots=True)
class _InFlight:
    """One step's groups: being sampled, or (after a checkpoint or a resume) already graded."""

    requests: tuple[SampleRequest, ...]
    pending: PendingSamples | None
    groups: list[Group] | None = None


class RolloutSource:
    """Takes each prompt of the order once, and hands out each step's graded groups.

    Which weights sample a step is decided by position alone: step t is submitted right after the
    sync that follows step t - 1 - max_staleness, and a generator works in the order of submission.
    So the same run gives the same samples at any staleness, however fast its parts are.
    """

    def __init__(
        self,
        *,
        problems: Sequence[Problem],
        encode: Callable[[str], PromptTokens],
        generators: GeneratorGroup,
        graders: GraderGroup,
        train: Train,
        seed: int,
        phases: Phases,
    ) -> None:
        self._problems = problems
        self._encode = encode
        self._generators = generators
        self._graders = graders
        self._train = train
        self._seed = seed
        self._phases = phases
        self._order = PromptOrder(len(problems), seed)
        self._cursor = 0
        self._next_step = 0
        self._in_flight: deque[_InFlight] = deque()

    def take(self, step: int, *, version: int) -> list[Group]:
        """The graded groups of `step`, after submitting the steps that may run ahead of it."""
        last = min(step + self._train.rollout.max_staleness, self._train.num_steps - 1)
        while self._next_step <= last:
            self._in_flight.append(self._submit(self._next_step, version=version))
            self._next_step += 1
        return self._graded(self._in_flight.popleft())

    def take_more(self, step: int, *, version: int) -> list[Group]:
        """Another round of prompts for the same step, sampled now (dynamic sampling)."""
        return self._graded(self._submit(step, version=version))

    def state(self) -> tuple[dict[str, int], list[list[Group]]]:
        """Position in the order, and the groups sampled but not yet used: nothing is lost."""
        for flight in self._in_flight:
            flight.groups = self._graded(flight)
        position = {"cursor": self._cursor, "next_step": self._next_step}
        return position, [flight.groups or [] for flight in self._in_flight]

    def restore(self, position: dict[str, int], pending: Sequence[Sequence[Group]]) -> None:
        """Continues where `state` was taken."""
        self._cursor, self._next_step = position["cursor"], position["next_step"]
        self._in_flight = deque(_InFlight((), None, list(groups)) for groups in pending)

    def _submit(self, step: int, *, version: int) -> _InFlight:
        count = self._train.prompts_per_step
        positions = range(self._cursor, self._cursor + count)
        self._cursor += count
        requests = tuple(
            self._request(self._problems[self._order.at(position)], step, position)
            for position in positions
        )
        rollout = self._train.rollout
        sampling = Sampling(rollout.max_tokens, rollout.temperature)
        pending = self._generators.submit(requests, sampling, min_version=version)
        return _InFlight(requests, pending)

    def _request(self, problem: Problem, step: int, position: int) -> SampleRequest:
        rollout = self._train.rollout
        seeds = tuple(
            derive(self._seed, "train", step, position, problem.id, sample)
            for sample in range(rollout.group_size)
        )
        tree = None
        if isinstance(rollout, TreeRollouts):
            tree = TreePlan(rollout.chains, rollout.points, rollout.forks, rollout.branch)
        return SampleRequest(problem, self._encode(problem.prompt), seeds, tree)

    def _graded(self, flight: _InFlight) -> list[Group]:
        if flight.groups is not None:
            return flight.groups
        assert flight.pending is not None
        with self._phases("generate"):
            completions = flight.pending.healed_result()
        with self._phases("grade"):
            return self._graders.grade(
                [
                    (request.problem, request.prompt_ids, samples)
                    for request, samples in zip(flight.requests, completions, strict=True)
                ]
            )

"""Tests for grpo/rollout_source.py: the order of prompts, without an engine.

The fakes below stand for actors that answer at once; what is tested is pure bookkeeping.
"""

from collections.abc import Sequence

import pytest

from cotree.grpo.config_algorithm import Optimizer, Rollouts, Train, TreeRollouts
from cotree.grpo.phases import Phases
from cotree.grpo.rollout_source import RolloutSource
from cotree.grpo.types import Completion, Group, Problem, Rollout, SampleRequest, TreePlan
from cotree.rewards.types import Reward

PROBLEMS = [Problem(f"p{i}", f"question {i}", str(i), "test") for i in range(7)]


class Answered:
    def __init__(self, samples):
        self._samples = samples

    def healed_result(self):
        return self._samples


class RecordingGenerators:
    """Remembers what was submitted, and with which weights, in order."""

    def __init__(self):
        self.submitted: list[tuple[int, tuple[SampleRequest, ...]]] = []

    def submit(self, requests: Sequence[SampleRequest], sampling, *, min_version: int):
        self.submitted.append((min_version, tuple(requests)))
        return Answered(
            [
                tuple(Completion((1,), (0.0,), "a", (1,), "stop", min_version) for _ in r.seeds)
                for r in requests
            ]
        )


class PassingGraders:
    def grade(self, sampled):
        return [
            Group(problem, ids, tuple(Rollout(c, Reward(1.0, "match")) for c in completions))
            for problem, ids, completions in sampled
        ]


def source(
    generators: RecordingGenerators,
    *,
    staleness: int,
    steps: int = 6,
    rollout: Rollouts | TreeRollouts | None = None,
) -> RolloutSource:
    train = Train(
        num_steps=steps,
        prompts_per_step=2,
        rollout=rollout or Rollouts(group_size=3, max_staleness=staleness),
        optimizer=Optimizer(learning_rate=1e-4),
    )
    return RolloutSource(
        problems=PROBLEMS,
        encode=lambda text: tuple(map(ord, text)),
        generators=generators,
        graders=PassingGraders(),
        train=train,
        seed=5,
        phases=Phases(),
    )


def ids(groups: Sequence[Group]) -> list[str]:
    return [group.problem.id for group in groups]


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_each_prompt_of_an_epoch_is_used_exactly_once(staleness: int):
    generators = RecordingGenerators()
    feed = source(generators, staleness=staleness)
    used = [name for step in range(6) for name in ids(feed.take(step, version=step))]
    # 6 steps of 2 prompts are 12: one whole epoch of 7 and 5 different ones of the next.
    assert sorted(used[:7]) == sorted(problem.id for problem in PROBLEMS)
    assert len(set(used[7:])) == 5


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_step_t_is_sampled_by_the_weights_of_step_t_minus_staleness(staleness: int):
    generators = RecordingGenerators()
    feed = source(generators, staleness=staleness)
    for step in range(6):
        (version,) = {
            r.completion.policy_version for g in feed.take(step, version=step) for r in g.rollouts
        }
        assert version == max(0, step - staleness)


def test_seeds_do_not_depend_on_staleness_and_never_repeat():
    sync, ahead = RecordingGenerators(), RecordingGenerators()
    for generators, staleness in ((sync, 0), (ahead, 2)):
        feed = source(generators, staleness=staleness)
        for step in range(6):
            feed.take(step, version=step)
    requests = [request for _, batch in sync.submitted for request in batch]
    assert requests == [request for _, batch in ahead.submitted for request in batch]
    seeds = [seed for request in requests for seed in request.seeds]
    assert len(set(seeds)) == len(seeds) == 6 * 2 * 3


@pytest.mark.parametrize("staleness", [0, 2])
def test_a_resumed_source_continues_as_if_it_had_not_stopped(staleness: int):
    whole = source(RecordingGenerators(), staleness=staleness)
    expected = [whole.take(step, version=step) for step in range(6)]

    first = source(RecordingGenerators(), staleness=staleness)
    taken = [first.take(step, version=step) for step in range(3)]
    position, pending = first.state()
    second = source(RecordingGenerators(), staleness=staleness)
    second.restore(position, pending)
    taken += [second.take(step, version=step) for step in range(3, 6)]

    assert taken == expected


def test_no_prompt_is_sampled_beyond_the_last_step():
    generators = RecordingGenerators()
    feed = source(generators, staleness=4, steps=3)
    for step in range(3):
        feed.take(step, version=step)
    assert len(generators.submitted) == 3


def test_another_round_takes_new_prompts():
    feed = source(RecordingGenerators(), staleness=0)
    first, more = feed.take(0, version=0), feed.take_more(0, version=0)
    assert not set(ids(first)) & set(ids(more))


def test_a_tree_is_asked_for_with_a_seed_for_each_leaf():
    rollout = TreeRollouts(type="tree", chains=3, points=2, forks=2, branch="step")
    flat, trees = RecordingGenerators(), RecordingGenerators()
    source(flat, staleness=0, rollout=Rollouts(group_size=15)).take(0, version=0)
    source(trees, staleness=0, rollout=rollout).take(0, version=0)
    ((_, alone),), ((_, asked),) = flat.submitted, trees.submitted
    assert [request.tree for request in alone] == [None, None]
    assert [request.tree for request in asked] == [TreePlan(3, 2, 2, "step")] * 2
    assert [request.seeds for request in asked] == [request.seeds for request in alone]

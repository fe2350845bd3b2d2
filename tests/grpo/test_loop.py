"""Tests for grpo/loop.py: which groups a step learns from, without actors."""

import pytest
from evaluated import summary

from cotree.grpo.config_algorithm import DynamicSampling, Optimizer, Rollouts, Train
from cotree.grpo.evaluate import Accuracy, Evaluation
from cotree.grpo.loop import Parts, evaluation_stats, sample_step, step_batch, step_speed
from cotree.grpo.types import Completion, Group, Problem, Rollout
from cotree.rewards.types import Failure, Reward, Ungraded


def group(name: str, *values: float | None, stop: str = "stop") -> Group:
    """One group; None stands for a rollout that could not be graded."""
    rollouts = tuple(
        Rollout(
            Completion((5, 6), (-0.5, -0.5), "ab", (1, 2), stop, 3),
            Ungraded(Failure.TIMEOUT, "slow")
            if value is None
            else Reward(value, "", {"answer": value}),
        )
        for value in values
    )
    return Group(Problem(name, "q", "1", "test"), (1, 2, 3), rollouts)


class Rounds:
    """A source that hands out prepared rounds."""

    def __init__(self, *rounds: list[Group]) -> None:
        self._rounds = list(rounds)

    def take(self, step: int, *, version: int) -> list[Group]:
        return self._rounds.pop(0)

    take_more = take


def parts(*rounds: list[Group]) -> Parts:
    unused = dict.fromkeys(("learner", "sync", "evaluate", "save", "log", "phases"))
    return Parts(source=Rounds(*rounds), first_term="answer", **unused)


def train(**settings: object) -> Train:
    return Train(
        num_steps=1,
        prompts_per_step=2,
        rollout=Rollouts(group_size=2, max_tokens=8),
        optimizer=Optimizer(learning_rate=1e-4),
        **settings,
    )


def test_an_evaluation_is_logged_with_its_benchmarks():
    evaluation = Evaluation(
        accuracy=Accuracy(0.5, 0.4, 0.6, 20),
        groups=(),
        ungraded=0,
        truncated_frac=0.0,
        mean_tokens=9.0,
        benchmarks=(summary("gsm8k"),),
    )
    stats = evaluation_stats(evaluation)
    assert (stats["eval/accuracy"], stats["eval/low"], stats["eval/high"]) == (0.5, 0.4, 0.6)
    assert stats["eval/gsm8k/accuracy"] == 0.625  # see evaluated.summary
    assert stats["eval/gsm8k/high"] == 0.667


def test_a_constant_group_is_dropped_and_counted():
    groups, kept, stats = sample_step(
        train(), parts([group("a", 1.0, 0.0), group("b", 1.0, 1.0)]), step=0, version=3
    )
    assert [g.problem.id for g in groups] == ["a", "b"]
    assert [g.problem.id for g in kept] == ["a"]
    assert (stats["groups/constant"], stats["groups/kept"], stats["staleness"]) == (1, 1, 0)
    assert stats["accuracy"] == 0.75, "dropped groups still count in what is reported"


def test_an_ungraded_rollout_is_counted_and_never_a_zero():
    _, kept, stats = sample_step(
        train(), parts([group("a", 1.0, None), group("b", 1.0, 0.0)]), step=0, version=3
    )
    # "a" is left with one graded rollout, which has nothing to be compared with.
    assert [g.problem.id for g in kept] == ["b"]
    assert stats["ungraded/timeout"] == 1
    assert stats["accuracy"] == pytest.approx(2 / 3)


def test_dynamic_sampling_goes_on_until_there_are_enough_groups():
    sampling = train(dynamic_sampling=DynamicSampling(max_rounds=3))
    rounds = [
        [group("a", 1.0, 1.0), group("b", 0.0, 1.0)],
        [group("c", 0.0, 1.0), group("d", 0.0, 1.0)],
        [group("never", 0.0, 1.0)],
    ]
    _, kept, stats = sample_step(sampling, parts(*rounds), step=0, version=3)
    assert [g.problem.id for g in kept] == ["b", "c"], "no more than prompts_per_step"
    assert stats["sampling/rounds"] == 2


def test_stale_samples_are_refused():
    with pytest.raises(AssertionError, match="stale"):
        sample_step(train(), parts([group("a", 1.0, 0.0)]), step=0, version=4)


def test_a_step_without_anything_to_learn_from_is_skipped():
    assert step_batch(train(), [], first_term="answer") is None
    cut = group("a", 1.0, 0.0, stop="length")
    assert step_batch(train(mask_truncated=True), [cut], first_term="answer") is None
    assert step_batch(train(), [cut], first_term="answer") is not None


def test_speed_counts_prompts_for_the_learner():
    # 2 rollouts of 3 prompt and 2 completion tokens in half a second.
    speed = step_speed([group("a", 1.0, 0.0)], {"seconds/learn": 0.5})
    assert speed["tokens_per_second/learn"] == 20.0
    assert step_speed([], {"seconds/step": 1.0}) == {"seconds/step": 1.0}

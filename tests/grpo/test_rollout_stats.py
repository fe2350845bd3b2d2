"""Tests for grpo/rollout_stats.py."""

import pytest

from cotree.grpo.rollout_stats import rollout_stats
from cotree.grpo.types import Completion, Group, Problem, Rollout
from cotree.rewards.types import Failure, Reward, StepScore, Ungraded, Verdict

PROBLEM = Problem("p", "q", "1", "test")


def rollout(reward: Reward | Ungraded, *, tokens: int, stop: str = "stop") -> Rollout:
    ids = tuple(range(tokens))
    return Rollout(Completion(ids, (0.0,) * tokens, "", (0,) * tokens, stop, 0), reward)


def reward(answer: float, *verdicts: Verdict) -> Reward:
    steps = tuple(StepScore((i, i + 1), 0.0, verdict, "") for i, verdict in enumerate(verdicts))
    return Reward(answer / 2, "", {"answer": answer}, steps)


def test_numbers_by_hand():
    right = rollout(reward(1.0, Verdict.VERIFIED, Verdict.VERIFIED), tokens=2)
    wrong = rollout(reward(0.0, Verdict.REFUTED, Verdict.UNCHECKED), tokens=6, stop="length")
    stats = rollout_stats([Group(PROBLEM, (1,), (right, wrong))], first_term="answer")
    assert stats == {
        "reward/mean": 0.25,  # (1/2 + 0) / 2
        "reward/answer": 0.5,
        "accuracy": 0.5,
        "completion/mean_tokens": 4.0,
        "completion/truncated_frac": 0.5,
        "steps/verified_frac": 0.5,
        "steps/refuted_frac": 0.25,
        "steps/unchecked_frac": 0.25,
    }


def test_what_could_not_be_graded_is_in_no_mean():
    lost = rollout(Ungraded(Failure.TIMEOUT, "slow"), tokens=4)
    right = rollout(reward(1.0), tokens=4)
    stats = rollout_stats([Group(PROBLEM, (1,), (lost, right))], first_term="answer")
    assert stats["accuracy"] == 1.0
    assert rollout_stats([Group(PROBLEM, (1,), (lost,))], first_term="answer") == {}

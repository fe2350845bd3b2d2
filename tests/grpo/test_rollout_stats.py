"""Tests for grpo/rollout_stats.py."""

from dataclasses import replace

import pytest

from cotree.grpo.rollout_stats import rollout_stats
from cotree.grpo.types import Completion, Group, Problem, Rollout, Segment
from cotree.rewards.types import Failure, Reward, Status, StepScore, Ungraded, Verdict

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
        "status/no_answer_frac": 0.0,
        "status/parse_error_frac": 0.0,
        "steps/verified_frac": 0.5,
        "steps/refuted_frac": 0.25,
        "steps/unchecked_frac": 0.25,
        "sampling/generated_tokens": 8.0,
        "sampling/leaves_per_prompt": 2.0,
    }


def test_what_could_not_be_graded_is_in_no_mean():
    lost = rollout(Ungraded(Failure.TIMEOUT, "slow"), tokens=4)
    right = rollout(reward(1.0), tokens=4)
    stats = rollout_stats([Group(PROBLEM, (1,), (lost, right))], first_term="answer")
    assert stats["accuracy"] == 1.0
    assert stats["sampling/generated_tokens"] == 8.0  # drawn all the same
    assert rollout_stats([Group(PROBLEM, (1,), (lost,))], first_term="answer") == {
        "sampling/generated_tokens": 4.0,
        "sampling/leaves_per_prompt": 1.0,
    }


def test_shares_of_statuses_are_over_the_graded():
    statuses = [Status.NO_ANSWER, Status.OK, Status.PARSE_ERROR, Status.NO_ANSWER]
    rollouts = [
        rollout(Reward(0.0, "", {"answer": 0.0}, status=status), tokens=1) for status in statuses
    ]
    lost = rollout(Ungraded(Failure.CRASH, "lost"), tokens=1)
    stats = rollout_stats([Group(PROBLEM, (1,), (*rollouts, lost))], first_term="answer")
    assert (stats["status/no_answer_frac"], stats["status/parse_error_frac"]) == (0.5, 0.25)


def test_terms_that_do_not_apply_or_failed_are_counted_and_not_averaged():
    rewards = [
        Reward(1.0, "", {"math": 1.0, "style": 0.5}),
        Reward(0.0, "", {"style": 0.0}),  # `math` does not apply here
        Reward(0.0, "", {"math": 0.0, "style": -1.0}, failed={"style": Failure.TIMEOUT}),
    ]
    rollouts = tuple(rollout(reward, tokens=1) for reward in rewards)
    stats = rollout_stats([Group(PROBLEM, (1,), rollouts)], first_term="math")
    assert stats["accuracy"] == 0.5  # of the two that `math` judged
    assert stats["reward/math"] == 0.5
    assert stats["does_not_apply/math_frac"] == pytest.approx(1 / 3)
    assert stats["reward/style"] == pytest.approx(-0.5 / 3)
    assert stats["error_value/style_frac"] == pytest.approx(1 / 3)
    assert not {"does_not_apply/style_frac", "error_value/math_frac"} & set(stats)


def test_tokens_of_a_tree_count_once():
    def leaf(*segments: tuple[int, int]) -> Rollout:
        alone = rollout(reward(1.0), tokens=segments[-1][1])
        named = tuple(Segment(node, end) for node, end in segments)
        return replace(alone, completion=replace(alone.completion, segments=named))

    # A chain of 4 + 3 + 2 tokens, a fork of 5 after its first piece, one of 1 after its second,
    # and a completion of 6 tokens alone: 9 + 5 + 1 + 6. The same nodes again in another group.
    tree = (leaf((0, 4), (1, 7), (2, 9)), leaf((0, 4), (3, 9)), leaf((0, 4), (1, 7), (4, 8)))
    groups = [Group(PROBLEM, (1,), (*tree, rollout(reward(0.0), tokens=6)))] * 2
    stats = rollout_stats(groups, first_term="answer")
    assert stats["sampling/generated_tokens"] == 2 * 21
    assert stats["sampling/leaves_per_prompt"] == 4.0
    assert stats["completion/mean_tokens"] == (9 + 9 + 8 + 6) / 4

"""Tests for grpo/advantage.py: hand-derived numbers, then exact expectations by enumeration."""

import math

import pytest
import torch
from enumerable import (
    REWARDS,
    TABLE,
    every_group,
    group_probabilities,
    sequence_logprobs,
)

from cotree.grpo.advantage import outcome_advantages, process_advantages
from cotree.grpo.loss import clipped_surrogate, reinforce

BASELINES = ("group_mean", "leave_one_out", "batch_mean")
SCALES = ("none", "group_std", "batch_std")


def advantages_of(rewards, groups, *, baseline, scale):
    return outcome_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(groups),
        baseline=baseline,
        scale=scale,
    )


def test_numbers_by_hand():
    # Groups {1, 3} (mean 2, population std 1) and {0, 6} (mean 3, std 3). Batch mean 2.5.
    rewards, groups = [1.0, 3.0, 0.0, 6.0], [7, 7, 2, 2]
    cases = {
        ("group_mean", "none"): [-1, 1, -3, 3],
        ("leave_one_out", "none"): [1 - 3, 3 - 1, 0 - 6, 6 - 0],
        ("batch_mean", "none"): [-1.5, 0.5, -2.5, 3.5],
        ("group_mean", "group_std"): [-1, 1, -1, 1],
        # what the baseline left is -1 1 -3 3: mean 0, mean square (1+1+9+9)/4 = 5
        ("group_mean", "batch_std"): [x / math.sqrt(5) for x in (-1, 1, -3, 3)],
        # mean square of -1.5 0.5 -2.5 3.5 is (2.25+0.25+6.25+12.25)/4 = 5.25
        ("batch_mean", "batch_std"): [x / math.sqrt(5.25) for x in (-1.5, 0.5, -2.5, 3.5)],
        ("batch_mean", "group_std"): [-1.5, 0.5, -2.5 / 3, 3.5 / 3],
    }
    for (baseline, scale), expected in cases.items():
        got = advantages_of(rewards, groups, baseline=baseline, scale=scale)
        torch.testing.assert_close(
            got, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12
        )


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e6, 1 / 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rewards_give_exactly_zero(baseline, scale, value, dtype):
    # 7 * 0.1 is not 0.7 in floats: a naive mean and std would give advantages of +-1 here.
    rewards = torch.full((7,), value, dtype=dtype)
    got = outcome_advantages(rewards, torch.zeros(7).long(), baseline=baseline, scale=scale)
    assert got.tolist() == [0.0] * 7
    assert got.dtype == dtype


def test_rewards_that_differ_by_rounding_alone_are_equal():
    # 0.1 + 0.2 and 0.3 differ by 5.6e-17; dividing by that spread would give +-1.
    got = advantages_of([0.1 + 0.2, 0.3], [0, 0], baseline="group_mean", scale="group_std")
    assert got.tolist() == [0.0, 0.0]


def test_a_constant_group_is_zero_beside_one_that_is_not():
    got = advantages_of([1, 1, 0, 1], [0, 0, 1, 1], baseline="group_mean", scale="group_std")
    assert got.tolist() == [0.0, 0.0, -1.0, 1.0]


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize("scale", SCALES)
def test_shift_permutation_and_relabelling_change_nothing(baseline, scale):
    torch.manual_seed(0)
    rewards = torch.randn(12, dtype=torch.float64)
    groups = torch.arange(12) % 3
    kwargs = {"baseline": baseline, "scale": scale}
    got = outcome_advantages(rewards, groups, **kwargs)

    shifted = outcome_advantages(rewards + 5, groups, **kwargs)
    order = torch.randperm(12)
    permuted = outcome_advantages(rewards[order], groups[order], **kwargs)
    relabelled = outcome_advantages(rewards, 100 - 7 * groups, **kwargs)
    torch.testing.assert_close(shifted, got, rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted, got[order], rtol=0, atol=1e-12)
    torch.testing.assert_close(relabelled, got, rtol=0, atol=1e-12)
    if scale == "none":
        twice = outcome_advantages(2 * rewards, groups, **kwargs)
        torch.testing.assert_close(twice, 2 * got, rtol=0, atol=1e-12)
    else:
        twice = outcome_advantages(2 * rewards, groups, **kwargs)
        torch.testing.assert_close(twice, got, rtol=0, atol=1e-12)


def test_scaled_advantages_have_unit_mean_square_at_any_group_size():
    for size in (2, 3, 8):
        rewards = torch.arange(size, dtype=torch.float64) ** 2
        got = outcome_advantages(
            rewards, torch.zeros(size).long(), baseline="group_mean", scale="group_std"
        )
        torch.testing.assert_close(float(got.square().mean()), 1.0, rtol=1e-12, atol=0)


def test_leave_one_out_refuses_a_group_of_one():
    with pytest.raises(ValueError, match="at least 2 graded rollouts"):
        advantages_of([1, 2, 3], [0, 0, 1], baseline="leave_one_out", scale="none")


def test_rewards_must_be_finite_and_shaped_alike():
    with pytest.raises(ValueError, match="finite"):
        advantages_of([1.0, math.nan], [0, 0], baseline="group_mean", scale="none")
    with pytest.raises(ValueError, match=r"must both be \[B\]"):
        advantages_of([1.0, 2.0], [0], baseline="group_mean", scale="none")


def true_gradient():
    table = TABLE.clone().requires_grad_()
    expected_reward = (sequence_logprobs(table).sum(-1).exp() * REWARDS).sum()
    return torch.autograd.grad(-expected_reward, table)[0]  # losses descend: minus


def expected_gradient(baseline, *, size, surrogate):
    """Exact expectation, over all groups of `size`, of the gradient of the group's mean loss."""
    table = TABLE.clone().requires_grad_()
    sequences, labels = every_group(size)
    logprobs = sequence_logprobs(table)[sequences]
    if baseline is None:
        advantages = REWARDS[sequences]
    elif baseline == "batch_mean":  # the batch is the group: one call each
        advantages = torch.cat(
            [
                outcome_advantages(rewards, torch.arange(size), baseline="batch_mean", scale="none")
                for rewards in REWARDS[sequences].view(-1, size)
            ]
        )
    else:
        advantages = outcome_advantages(REWARDS[sequences], labels, baseline=baseline, scale="none")
    per_rollout = surrogate(logprobs, advantages).sum(-1) / size
    weights = group_probabilities(table, sequences, size=size)
    return torch.autograd.grad((weights * per_rollout).sum(), table)[0]


def on_policy_clipped(logprobs, advantages):
    return clipped_surrogate(logprobs, logprobs.detach(), advantages, clip_low=0.2, clip_high=0.2)


@pytest.mark.parametrize("surrogate", [reinforce, on_policy_clipped])
@pytest.mark.parametrize("size", [2, 3])
def test_expected_gradients_against_the_true_one(size, surrogate):
    # Over all 9^G groups, weighted by their probabilities; there is no sampling error.
    truth = true_gradient()
    assert truth.abs().max() > 0.1  # the comparison below is not 0 == 0

    def close(baseline, factor):
        got = expected_gradient(baseline, size=size, surrogate=surrogate)
        torch.testing.assert_close(got, factor * truth, rtol=0, atol=1e-12)

    close(None, 1.0)  # no baseline: unbiased
    close("leave_one_out", 1.0)  # unbiased
    close("group_mean", (size - 1) / size)  # each reward is 1/G of its own baseline
    close("batch_mean", (size - 1) / size)  # likewise, with the batch as the group


def test_steps_that_end_in_one_token_are_both_credited_to_it():
    # mean 0, std sqrt((4 + 1 + 1) / 3) = sqrt(2): +2, -1 and -1. The last two end in token 2.
    for discount in (0.0, 0.5, 1.0):
        (got,) = process_advantages([[2.0, -1.0, -1.0]], [[1, 2, 2]], [4], [0], discount=discount)
        late = -2 / math.sqrt(2)
        early = 2 / math.sqrt(2) + discount * late
        torch.testing.assert_close(got, torch.tensor([early, early, late, 0.0]).double())


def test_process_numbers_by_hand():
    # One group, step values 1, 0 and -1: mean 0, population std sqrt(2/3), so v' = +-s, 0 with
    # s = sqrt(3/2). Rollout 0: steps end at tokens 1 (v = 1) and 3 (v = 0), T = 5.
    #   tokens 0..1: s + 0; tokens 2..3: 0; token 4, after the last step: 0.
    # Rollout 1: one step ends at token 0 (v = -1), T = 2.
    s = math.sqrt(1.5)
    first, second, third = process_advantages(
        [[1.0, 0.0], [-1.0], []], [[1, 3], [0], []], [5, 2, 3], [4, 4, 4], discount=1.0
    )
    torch.testing.assert_close(first, torch.tensor([s, s, 0, 0, 0], dtype=torch.float64))
    torch.testing.assert_close(second, torch.tensor([-s, 0], dtype=torch.float64))
    assert third.tolist() == [0.0, 0.0, 0.0]


def test_process_matches_the_papers_double_sum():
    # A_it = sum over steps j with index(j) >= t of (v_ij - mean) / std, written as it reads.
    generator = torch.Generator().manual_seed(1)
    values = [torch.randn(n, generator=generator).tolist() for n in (3, 1, 4, 2)]
    ends = [[2, 5, 6], [0], [0, 1, 1, 7], [3, 4]]
    lengths, groups = [7, 3, 9, 5], [0, 0, 1, 1]
    got = process_advantages(values, ends, lengths, groups, discount=1.0)
    for i in range(4):
        pool = [v for j in range(4) if groups[j] == groups[i] for v in values[j]]
        mean = sum(pool) / len(pool)
        std = math.sqrt(sum((v - mean) ** 2 for v in pool) / len(pool))
        expected = [
            sum((v - mean) / std for v, e in zip(values[i], ends[i], strict=True) if e >= t)
            for t in range(lengths[i])
        ]
        torch.testing.assert_close(
            got[i], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12
        )


def test_discount_zero_credits_each_token_with_its_own_step_alone():
    # Values -1, 1, 1, -1: mean 0, std 1. Steps end at tokens 1, 3, 4 and 4 of 6: the last two
    # share token 4 (1 - 1 = 0), and token 5 is after all of them.
    (got,) = process_advantages([[-1.0, 1.0, 1.0, -1.0]], [[1, 3, 4, 4]], [6], [0], discount=0.0)
    assert got.tolist() == [-1.0, -1.0, 1.0, 1.0, 0.0, 0.0]
    # At 1 the wrong first step is paid for the right ones after it: -1 + 1 + 1 - 1 = 0.
    (summed,) = process_advantages([[-1.0, 1.0, 1.0, -1.0]], [[1, 3, 4, 4]], [6], [0], discount=1.0)
    assert summed.tolist() == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    # At 1/2: -1 + 1/2 + 0 = -1/2; 1 + 0 = 1; 0.
    (half,) = process_advantages([[-1.0, 1.0, 1.0, -1.0]], [[1, 3, 4, 4]], [6], [0], discount=0.5)
    assert half.tolist() == [-0.5, -0.5, 1.0, 1.0, 0.0, 0.0]


def test_equal_step_values_give_exactly_zero():
    got = process_advantages(
        [[0.1] * 3, [0.1] * 4], [[0, 1, 2], [0, 1, 2, 3]], [3, 4], [0, 0], discount=1.0
    )
    assert [x for row in got for x in row.tolist()] == [0.0] * 7


def test_groups_do_not_see_each_others_steps():
    alone = process_advantages([[1.0], [2.0]], [[0], [0]], [1, 1], [0, 0], discount=1.0)
    beside = process_advantages(
        [[1.0], [2.0], [50.0]], [[0], [0], [0]], [1, 1, 1], [0, 0, 1], discount=1.0
    )
    assert [a.tolist() for a in alone] == [b.tolist() for b in beside[:2]]
    assert beside[2].tolist() == [0.0]


@pytest.mark.parametrize("ends", [[1, 0], [0, 3], [-1, 0]])
def test_steps_out_of_order_or_outside_are_refused(ends):
    with pytest.raises(ValueError, match="must rise within"):
        process_advantages([[1.0, 2.0]], [ends], [3], [0], discount=1.0)


def test_step_lists_of_different_length_are_refused():
    with pytest.raises(ValueError, match="2 step values but 1 last tokens"):
        process_advantages([[1.0, 2.0]], [[0]], [3], [0], discount=1.0)
    with pytest.raises(ValueError, match="zip"):
        process_advantages([[1.0]], [[0]], [3, 4], [0], discount=1.0)
    with pytest.raises(ValueError, match="finite"):
        process_advantages([[math.inf]], [[0]], [3], [0], discount=1.0)

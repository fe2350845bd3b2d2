"""Tests for kernels/expert_bias.py."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cotree.kernels.expert_bias import max_violation, updated_bias

LOADS = st.lists(st.integers(0, 1000), min_size=2, max_size=16)


def test_a_step_goes_up_for_a_light_expert_down_for_a_heavy_one_and_nowhere_for_the_mean():
    # Mean (6 + 1 + 3 + 2) / 4 = 3.
    bias = torch.tensor([0.5, 0.0, -0.25, 0.125])
    moved = updated_bias(bias, torch.tensor([6, 1, 3, 2]), rate=0.25)
    assert moved.tolist() == [0.25, 0.25, -0.25, 0.375]
    assert bias.tolist() == [0.5, 0.0, -0.25, 0.125]


@given(LOADS, st.integers(1, 100), st.randoms(use_true_random=False))
def test_a_step_follows_the_experts_order_and_ignores_the_unit_of_the_loads(loads, unit, random):
    counts, bias = torch.tensor(loads), torch.arange(len(loads), dtype=torch.float64)
    moved = updated_bias(bias, counts, rate=0.5)
    assert torch.equal(updated_bias(bias, counts * unit, rate=0.5), moved)
    order = list(range(len(loads)))
    random.shuffle(order)
    assert torch.equal(updated_bias(bias[order], counts[order], rate=0.5), moved[order])


@given(LOADS)
def test_no_rate_and_an_even_load_leave_the_bias(loads):
    bias = torch.linspace(-1, 1, len(loads))
    assert torch.equal(updated_bias(bias, torch.tensor(loads), rate=0.0), bias)
    assert torch.equal(updated_bias(bias, torch.full((len(loads),), 7), rate=0.1), bias)


def test_a_float_mean_is_not_rounded_away_in_large_counts():
    # 2^25 and 2^25 + 1 are one number in float32; the mean lies between them.
    loads = torch.tensor([2**25, 2**25 + 1])
    assert updated_bias(torch.zeros(2), loads, rate=1.0).tolist() == [1.0, -1.0]


def test_a_bias_that_would_round_the_step_away_is_refused():
    with pytest.raises(ValueError, match="float32"):
        updated_bias(torch.ones(2, dtype=torch.bfloat16), torch.tensor([1, 2]), rate=1e-3)


@pytest.mark.parametrize("shape", [(3,), (2, 1), ()], ids=str)
def test_loads_of_other_experts_are_refused(shape):
    with pytest.raises(ValueError, match=r"bias \[E\] and loads \[E\]"):
        updated_bias(torch.zeros(2), torch.zeros(shape), rate=0.1)


def test_the_violation_is_what_the_busiest_expert_has_above_its_share():
    assert max_violation(torch.tensor([5, 5, 5])) == 0.0
    assert max_violation(torch.tensor([6, 1, 3, 2])) == 1.0  # 6 / 3 - 1
    # All tokens of 4 experts on one: E / k - 1 with k = 1.
    assert max_violation(torch.tensor([0, 9, 0, 0])) == 3.0
    with pytest.raises(ValueError, match="none was counted"):
        max_violation(torch.zeros(4, dtype=torch.int64))


def _violation_of_a_skewed_router(*, rate: float, updates: int) -> float:
    """The last of so many batches' violation: 64 experts, 6 a token, scores that favour some."""
    random = torch.Generator().manual_seed(0)
    router = torch.randn(64, 32, generator=random) * 32**-0.5
    common = torch.randn(32, generator=random)  # what all tokens share skews the router
    bias, violation = torch.zeros(64), 0.0
    for _ in range(updates):
        tokens = torch.randn(2048, 32, generator=random) + common
        scores = torch.sigmoid(tokens @ router.T)
        loads = torch.bincount((scores + bias).topk(6).indices.flatten(), minlength=64)
        violation = max_violation(loads)
        bias = updated_bias(bias, loads, rate=rate)
    return violation


def test_updates_even_out_a_skewed_router_and_without_them_it_stays_skewed():
    # Scores spread over about 0.3, so steps of 0.01 need some 50 updates.
    assert _violation_of_a_skewed_router(rate=0.0, updates=80) > 3.0
    assert _violation_of_a_skewed_router(rate=0.01, updates=80) < 0.4

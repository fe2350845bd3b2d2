"""Tests for grpo/evaluation/paired.py: enumeration, hand-made examples, error and power."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.evaluation.paired import (
    EXACT_UP_TO,
    mcnemar_p_value,
    paired_difference,
    sign_flip_p_value,
)

quarters = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
pairs = st.lists(st.tuples(quarters, quarters), min_size=1, max_size=40)


def test_mcnemar_by_hand():
    # 7 problems differ: P(X <= 1) = (1 + 7) / 128, twice that; P(X = 0) = 1 / 64 of 6, twice that.
    assert mcnemar_p_value(6, 1) == mcnemar_p_value(1, 6) == 16 / 128
    assert mcnemar_p_value(6, 0) == 2 / 64
    assert mcnemar_p_value(3, 3) == mcnemar_p_value(0, 0) == 1.0
    with pytest.raises(ValueError, match="counts start at 0"):
        mcnemar_p_value(-1, 3)


def test_mcnemar_of_thousands_does_not_overflow():
    # 1,100 heads of 2,000: z = (100 - 1/2) / sqrt(500) = 4.4498, two-sided 8.6e-6.
    assert mcnemar_p_value(1100, 900) == pytest.approx(8.6e-6, rel=0.02)


@given(st.integers(0, 16), st.integers(0, 16))
def test_sign_flips_of_zeros_and_ones_are_mcnemars_test(better: int, worse: int):
    test, p_value = sign_flip_p_value([1.0] * better + [-1.0] * worse + [0.0] * 3)
    assert test == "exact sign flips"
    assert p_value == pytest.approx(mcnemar_p_value(better, worse), abs=1e-12)


@given(st.lists(st.sampled_from([-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75]), max_size=9))
def test_exact_sign_flips_are_all_sign_flips(differences: list[float]):
    sums = [
        abs(sum(sign * d for sign, d in zip(signs, differences, strict=True)))
        for signs in itertools.product([-1, 1], repeat=len(differences))
    ]
    expected = sum(size >= abs(sum(differences)) for size in sums) / len(sums)
    assert sign_flip_p_value(differences)[1] == pytest.approx(expected, abs=1e-12)


def test_sums_that_differ_by_rounding_only_are_ties():
    # Half of the 4 flips of two equal sizes have the observed size 0.3 + 0.3; 0.1 + 0.2 + 0.3 is
    # reached by 2 of 8 flips, whichever order it is added in.
    assert sign_flip_p_value([0.3, 0.3])[1] == 0.5
    for order in itertools.permutations([0.1, 0.2, 0.3]):
        assert sign_flip_p_value(order)[1] == 0.25


@pytest.mark.parametrize(("better", "worse"), [(26, 14), (22, 18), (60, 30)])
def test_random_sign_flips_agree_with_the_closed_form(better: int, worse: int):
    # 20,000 draws: a standard error of at most 0.0035.
    assert better + worse > EXACT_UP_TO
    test, p_value = sign_flip_p_value([0.25] * better + [-0.25] * worse)
    assert test == "random sign flips"
    assert p_value == pytest.approx(mcnemar_p_value(better, worse), abs=0.012)


def test_a_random_p_value_is_never_zero():
    assert sign_flip_p_value([0.5] * 50)[1] == 1 / 20_001


def test_a_comparison_worked_out_by_hand():
    # 8 problems, 4 better by 1. N = 9, V = (4 + 1) / 9 - (4/9)^2 = 0.358025, t_8 = 2.306004:
    # half = 2.306004 * sqrt(0.358025 / 9) = 0.459940. p = 2 / 2^4.
    # s^2 = 8/7 * 1/4, (1.959964 + 0.841621) * 0.534522 / sqrt(8) = 0.529451.
    found = paired_difference([0.0] * 6 + [1.0] * 2, [1.0] * 4 + [0.0] * 2 + [1.0] * 2)
    assert (found.n, found.difference, found.num_better, found.num_worse) == (8, 0.5, 4, 0)
    assert found.low == pytest.approx(0.5 - 0.459940, abs=1e-5)
    assert found.high == pytest.approx(0.5 + 0.459940, abs=1e-5)
    assert (found.test, found.p_value) == ("exact McNemar", 2 / 16)
    assert found.minimum_detectable == pytest.approx(0.529451, abs=1e-5)


def test_two_evaluations_that_agree_everywhere_are_not_proved_equal():
    # N = 31, V = h^2 / 31 = 1/31: half = t_30 sqrt(1/31 / 31) = 2.042272 / 31.
    found = paired_difference([1.0, 0.0] * 15, [1.0, 0.0] * 15)
    assert (found.difference, found.p_value, found.minimum_detectable) == (0.0, 1.0, None)
    assert found.high == -found.low == pytest.approx(2.042272 / 31, abs=1e-6)


def test_values_between_0_and_1_get_sign_flips():
    # Differences 1/4, 1/4, 1/2 of one sign: 2 of 8 flips.
    found = paired_difference([0.0, 0.25, 0.5], [0.25, 0.5, 1.0])
    assert (found.test, found.p_value) == ("exact sign flips", 0.25)


@given(pairs)
def test_the_interval_holds_the_difference_and_stays_inside(values: list[tuple[float, float]]):
    a, b = zip(*values, strict=True)
    found = paired_difference(a, b)
    assert -1.0 <= found.low <= found.difference <= found.high <= 1.0
    assert found.low < found.high
    assert 0.0 < found.p_value <= 1.0


@given(pairs, st.randoms(use_true_random=False))
def test_neither_order_nor_direction_changes_the_comparison(
    values: list[tuple[float, float]], random
):
    a, b = zip(*values, strict=True)
    found = paired_difference(a, b)
    shuffled = random.sample(values, len(values))
    assert paired_difference(*zip(*shuffled, strict=True)) == found
    turned = paired_difference(b, a)
    assert (turned.difference, turned.low, turned.high) == (
        -found.difference,
        -found.high,
        -found.low,
    )
    assert (turned.p_value, turned.num_better) == (found.p_value, found.num_worse)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [], "at least one problem"),
        ([0.5], [0.5, 1.0], "a has 1 problems, b has 2"),
        ([0.5, 1.5], [0.5, 1.0], "1.5 is not a share"),
        ([0.5, 0.5], [0.5, -0.5], "-0.5 is not a share"),
    ],
)
def test_what_cannot_be_paired_is_refused(a: list[float], b: list[float], message: str):
    with pytest.raises(ValueError, match=message):
        paired_difference(a, b)


def figures(gain: float, *, num_pairs: int, seed: int) -> tuple[float, float, float]:
    """Shares of pairs of evaluations found different, and covered; mean detectable difference.

    83 problems with 4 samples each; b solves each more often than a, by `gain` on average, and
    by 0.1 more or less on its own account.
    """
    rng = np.random.default_rng(seed)
    found = held = 0
    reach = []
    for _ in range(num_pairs):
        rates = rng.uniform(0.2, 0.6, size=83)
        moved = rates + gain + rng.choice([-0.1, 0.1], size=83)
        result = paired_difference(
            (rng.binomial(4, rates) / 4).tolist(), (rng.binomial(4, moved) / 4).tolist()
        )
        found += result.p_value <= 0.05
        held += result.low <= gain <= result.high
        reach.append(result.minimum_detectable)
    return found / num_pairs, held / num_pairs, float(np.mean(reach))


def test_equal_policies_are_told_apart_one_time_in_twenty():
    # Standard error over 500 pairs: 1 point.
    found, held, _ = figures(0.0, num_pairs=500, seed=0)
    assert 0.025 <= found <= 0.075
    assert 0.925 <= held <= 0.975


def test_the_detectable_difference_is_found_four_times_in_five():
    # The standard deviation of a problem's difference: of 4 samples each side, mean rate 0.4 and
    # variance 0.4^2 / 12; b's rate has variance 0.1^2 more, which is also that of the gap. With a
    # gain g: E p(1-p) = 0.4 * 0.6 - 0.0133 = 0.2267 of a and (0.4+g)(0.6-g) - 0.0233 of b. At
    # g = 0.11, (0.2267 + 0.2266) / 4 + 0.01 = 0.1233 = 0.3512^2; 2.801585 * 0.3512 / sqrt(83)
    # = 0.108.
    found, held, reach = figures(0.108, num_pairs=500, seed=1)
    assert reach == pytest.approx(0.108, abs=0.002)
    # Standard error over 500 pairs: 1.8 points.
    assert 0.75 <= found <= 0.85
    assert 0.925 <= held <= 0.975

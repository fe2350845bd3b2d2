"""Tests for grpo/evaluation/intervals.py: hand-made examples, properties, and coverage."""

import itertools
import math
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.evaluation.intervals import (
    Z,
    mean_interval,
    run_error,
    student_t_quantile,
    wilson_interval,
)

shares = st.lists(st.sampled_from([index / 16 for index in range(17)]), min_size=1, max_size=40)


def test_wilson_interval_of_half_of_a_hundred():
    # p = 0.5, n = 100, z = 1.959964: center = 0.5,
    # half = z / (1 + z^2 / 100) * sqrt(0.25 / 100 + z^2 / 40000) = 0.0961
    low, high = wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_nothing_solved_is_not_an_empty_interval():
    # p = 0: center = half = z^2 / 2n / (1 + z^2 / n), so the interval is [0, z^2 / (n + z^2)].
    expected = (0.0, pytest.approx(3.841459 / 33.841459, abs=1e-6))
    assert wilson_interval(0, 30) == expected
    assert mean_interval([0.0] * 30) == (0.0, *expected)
    assert wilson_interval(30, 30)[1] == mean_interval([1.0] * 30).high == 1.0


@pytest.mark.parametrize(("successes", "n"), [(1, 0), (-1, 3), (4, 3)])
def test_wilson_interval_refuses_impossible_counts(successes: int, n: int):
    with pytest.raises(ValueError, match="count them among at least 1 problem"):
        wilson_interval(successes, n)


def test_values_between_0_and_1_worked_out_by_hand():
    # n = 4, p = 0.5, B = 4 * 0.25 = 1, sum (v - p)^2 = 0.5: r = 4/3 * 0.5 / 1 = 2/3,
    # w = 1 / (1 + 9) = 0.1, d = 0.1 + 0.9 * 2/3 = 0.7,
    # q = 1.959964 + (3.182446 - 1.959964) * 0.3 = 2.326709, q^2 = 5.413573,
    # n / d = 5.714286, half = q / (1 + q^2 d / n) * sqrt(0.25 d / n + q^2 d^2 / 4n^2)
    #                        = 2.326709 / 1.947375 * sqrt(0.043750 + 0.041448) = 0.348743
    estimate = mean_interval([0.0, 0.5, 0.5, 1.0])
    assert estimate == (
        0.5,
        pytest.approx(0.5 - 0.348743, abs=1e-6),
        pytest.approx(0.5 + 0.348743, abs=1e-6),
    )


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_of_zeros_and_ones_it_is_wilsons_interval(solved: list[bool]):
    estimate = mean_interval([float(value) for value in solved])
    assert (estimate.low, estimate.high) == wilson_interval(sum(solved), len(solved))
    assert estimate.value == sum(solved) / len(solved)


@given(shares)
def test_the_interval_holds_the_mean_has_a_width_and_stays_inside_0_to_1(values: list[float]):
    value, low, high = mean_interval(values)
    assert value == fmean(values)
    assert 0.0 <= low <= value <= high <= 1.0
    assert high > low


@given(shares, st.randoms(use_true_random=False))
def test_neither_the_order_of_problems_nor_the_name_of_success_matters(values: list[float], random):
    value, low, high = mean_interval(values)
    assert mean_interval(random.sample(values, len(values))) == (value, low, high)
    mirrored = mean_interval([1.0 - v for v in values])
    assert mirrored == pytest.approx((1.0 - value, 1.0 - high, 1.0 - low), abs=1e-12)


@given(shares)
def test_more_problems_of_the_same_kind_narrow_it(values: list[float]):
    once, often = mean_interval(values), mean_interval(values * 4)
    assert often.high - often.low < once.high - once.low


def test_equal_values_inside_leave_an_interval():
    # n = 30, p = 0.5, B = 7.5, r = 0: d = w = 1 / (1 + 9 * 56.25) = 0.0019714, q = 2.045061,
    # n / d = 15217.5, half = q / (1 + q^2 d / n) * sqrt(0.25 d / n) = 0.00829 (the rest is small).
    value, low, high = mean_interval([0.5] * 30)
    assert (value - low, high - value) == (pytest.approx(0.00829, abs=1e-5),) * 2


def test_one_problem_counts_as_one_coin_toss():
    # z^2 / (1 + z^2) = 0.793451: [0, 0.793451] of a failure. Of 1/2: center 1/2,
    # half = z / (1 + z^2) * sqrt(0.25 + z^2 / 4) = z / 2 / sqrt(1 + z^2) = 0.445379.
    assert mean_interval([0.0]) == (0.0, 0.0, pytest.approx(0.793451, abs=1e-6))
    assert mean_interval([0.5]).high == pytest.approx(0.945379, abs=1e-6)


def test_samples_of_one_problem_do_not_count_as_problems():
    few = mean_interval([fmean(row) for row in ([True] * 2, [False] * 2)])
    many = mean_interval([fmean(row) for row in ([True] * 50, [False] * 50)])
    assert few == many == (0.5, *wilson_interval(1, 2))


@pytest.mark.parametrize("values", [[], [0.5, 1.01], [-0.1], [0.5, math.nan]])
def test_what_is_not_a_share_is_refused(values: list[float]):
    with pytest.raises(ValueError, match=r"at least one problem|not a share"):
        mean_interval(values)


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [
        # Tables of Student's t, two-sided 5 %.
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (5, 2.5706),
        (10, 2.2281),
        (29, 2.0452),
        (30, 2.0423),
        (100, 1.9840),
        (1000, 1.9623),
    ],
)
def test_quantiles_of_student_t_are_those_of_tables(degrees: int, quantile: float):
    assert student_t_quantile(degrees) == pytest.approx(quantile, abs=5.1e-5)


def test_student_t_needs_two_observations():
    with pytest.raises(ValueError, match="two observations"):
        student_t_quantile(0)


def covered(n: int, k: int, shape: float, mean: float, seed: int) -> tuple[float, float]:
    """Coverage of `mean_interval` and of mean +- z s / sqrt(n) over 1,000 benchmarks.

    The truth is drawn around `mean`, so that its place between multiples of 1/n averages out.
    """
    rng = np.random.default_rng(seed)
    odds = math.log(mean / (1.0 - mean)) + rng.uniform(-0.5, 0.5, size=(1000, 1))
    truths = 1.0 / (1.0 + np.exp(-odds))
    rates = rng.beta(truths * shape, (1.0 - truths) * shape, size=(1000, n))
    hits = plain = 0
    for values, true in zip(rng.binomial(k, rates) / k, truths[:, 0], strict=True):
        estimate = mean_interval(values.tolist())
        hits += estimate.low <= true <= estimate.high
        plain += abs(values.mean() - true) <= Z * values.std(ddof=1) / math.sqrt(n)
    return hits / 1000, plain / 1000


@pytest.mark.parametrize(
    ("n", "k", "shape", "mean"),
    [(30, 1, 2.0, 0.1), (30, 16, 0.5, 0.1), (40, 4, 2.0, 0.3), (83, 16, 2.0, 0.9)],
)
def test_coverage_is_95_percent_where_the_plain_interval_may_miss(
    n: int, k: int, shape: float, mean: float
):
    # Standard error of a coverage over 1,000 benchmarks: 0.7 points.
    ours, plain = covered(n, k, shape, mean, seed=1)
    assert 0.93 <= ours <= 0.97
    assert ours > plain


def test_the_plain_interval_misses_by_far_at_a_low_solve_rate():
    ours, plain = covered(30, 1, 2.0, 0.1, seed=2)
    assert ours > 0.93
    assert plain < 0.91


def test_run_error_of_two_problems_by_hand():
    # s^2 = 1 * 1 / (2 * 1) = 1/2 and 2 * 2 / (4 * 3) = 1/3: sqrt(1/2 / 2 + 1/3 / 4) / 2 = 0.288675
    rows = [[True, False], [True, True, False, False]]
    assert run_error(rows) == pytest.approx(0.288675, abs=1e-6)


def test_a_problem_with_one_sample_is_given_the_variance_of_the_others():
    # s^2 = 1/2 of the first, and so of the second: sqrt(1/2 / 2 + 1/2 / 1) / 2 = 0.433013
    assert run_error([[True, False], [True]]) == pytest.approx(0.433013, abs=1e-6)


def test_run_error_is_unbiased():
    # Over all outcomes of problems solved with 0.3 and 0.8, in 2 and 3 samples, the mean of its
    # square is the variance of avg@k: (0.3 * 0.7 / 2 + 0.8 * 0.2 / 3) / 4.
    expected = 0.0
    for outcome in itertools.product([False, True], repeat=5):
        rates = [0.3, 0.3, 0.8, 0.8, 0.8]
        chance = math.prod(p if won else 1 - p for p, won in zip(rates, outcome, strict=True))
        error = run_error([outcome[:2], outcome[2:]])
        assert error is not None
        expected += chance * error**2
    assert expected == pytest.approx((0.3 * 0.7 / 2 + 0.8 * 0.2 / 3) / 4)


def test_run_error_needs_two_samples_of_some_problem():
    assert run_error([[True], [False]]) is None
    assert run_error([[True, True], [False, False]]) == 0.0


@pytest.mark.parametrize("rows", [[], [[True, False], []]])
def test_run_error_refuses_problems_without_samples(rows: list[list[bool]]):
    with pytest.raises(ValueError, match="at least one graded sample"):
        run_error(rows)

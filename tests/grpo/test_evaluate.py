"""Tests for grpo/evaluate.py."""

import pytest

from cotree.grpo.evaluate import accuracy_interval, wilson_interval


def test_wilson_interval_of_a_known_example():
    # p = 0.5, n = 100, z = 1.959964: center = 0.5,
    # half = z / (1 + z^2 / 100) * sqrt(0.25 / 100 + z^2 / 40000) = 0.0961
    low, high = wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))


def test_an_interval_never_leaves_0_to_1_nor_collapses_at_its_ends():
    # p = 0: center = half = z^2 / 2n / (1 + z^2 / n), so the interval is [0, z^2 / (n + z^2)].
    low, high = wilson_interval(0, 10)
    assert low == pytest.approx(0.0)
    assert high == pytest.approx(3.8415 / 13.8415, abs=1e-4)
    assert wilson_interval(10, 10)[1] == pytest.approx(1.0)


def test_samples_of_one_problem_do_not_count_as_independent():
    # Two problems, one always right and one always wrong: however often each is sampled, there
    # are two observations, 0 and 1, with mean 0.5 and standard error sqrt(0.5 / 2) = 0.5.
    few = accuracy_interval([[True] * 2, [False] * 2])
    many = accuracy_interval([[True] * 50, [False] * 50])
    assert few == many
    assert (few.low, few.high, few.n) == (0.0, 1.0, 2)


def test_a_problem_without_a_graded_sample_is_refused():
    with pytest.raises(ValueError, match="at least one graded sample"):
        accuracy_interval([[True], []])

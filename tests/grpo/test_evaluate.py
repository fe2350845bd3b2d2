"""Tests for grpo/evaluate.py."""

import pytest

from cotree.grpo.evaluate import accuracy_interval


def test_samples_of_one_problem_do_not_count_as_independent():
    # Two problems, one always right and one always wrong: however often each is sampled, there
    # are two observations, 0 and 1: Wilson's interval of 1 in 2. With z^2 = 3.8415: center 0.5,
    # half = 1.96 / (1 + 3.8415 / 2) * sqrt(0.25 / 2 + 3.8415 / 16) = 0.4055.
    few = accuracy_interval([[True] * 2, [False] * 2])
    many = accuracy_interval([[True] * 50, [False] * 50])
    assert few == many
    assert (few.low, few.high) == (pytest.approx(0.0945, abs=1e-4), pytest.approx(0.9055, abs=1e-4))
    assert few.n == 2


def test_a_problem_without_a_graded_sample_is_refused():
    with pytest.raises(ValueError, match="at least one graded sample"):
        accuracy_interval([[True], []])

"""Tests for grpo/evaluate.py."""

import pytest

from cotree.grpo.evaluate import accuracy_interval


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

"""Tests for rewards/steps/repetition.py."""

import pytest
from cpu_time import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.repetition import repetition
from cotree.rewards.steps.traces import generated_trace
from cotree.rewards.types import Problem

PROBLEM = Problem("p", "", "", "test")


def test_the_formula_by_hand():
    # 8 pieces "a b a b a b a b", n = 2: 7 bigrams, 2 distinct, 5/7 repeated; allowed 3/7.
    reward = repetition("a b " * 4, PROBLEM, n=2, allowed_frac=3 / 7)
    assert reward.value == pytest.approx(-(5 / 7 - 3 / 7) / (1 - 3 / 7))


@pytest.mark.parametrize("phrase", ["the cat sat on the mat. ", "ab" * 7, "我们", "1 = 1\n", "?!"])
def test_a_loop_costs_nearly_all_however_it_is_written(phrase: str):
    looped = phrase * 200
    assert repetition(looped, PROBLEM).value < -0.9
    assert repetition("  \n\t".join(looped.upper()), PROBLEM).value < -0.9


def test_worked_solutions_are_free():
    for seed in range(50):
        trace = generated_trace(seed, num_lines=8, wrong=False)
        assert repetition(trace.text, PROBLEM).value == 0.0


@given(st.text(alphabet="ab 我\n", max_size=300), st.integers(1, 6))
@settings(max_examples=100)
def test_no_text_is_paid_and_none_costs_more_than_one(text: str, n: int):
    assert -1.0 <= repetition(text, PROBLEM, n=n).value <= 0.0


def test_long_texts_take_linear_time():
    text = "word " * 100_000
    assert cpu_seconds(lambda: repetition(text, PROBLEM)) < 5.0


@pytest.mark.parametrize(("n", "allowed"), [(0, 0.5), (3, 1.0), (3, -0.1)])
def test_wrong_options_are_errors(n: int, allowed: float):
    with pytest.raises(ValueError, match="must be at least 1"):
        repetition("", PROBLEM, n=n, allowed_frac=allowed)

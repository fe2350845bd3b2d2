"""Tests for rewards/steps/length.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.steps.length import Ramp, Unit, length
from cotree.rewards.types import Problem

PROBLEM = Problem("p", "", "", "test")


@pytest.mark.parametrize(
    ("count", "ramp", "value"),
    [
        (0, "linear", 0.0),
        (80, "linear", 0.0),
        (85, "linear", -0.25),  # 5 of the buffer's 20
        (90, "linear", -0.5),
        (90, "cosine", -0.5),
        (85, "cosine", -0.1464466),  # (1 - cos(pi / 4)) / 2
        (100, "linear", -1.0),
        (5000, "linear", -1.0),
    ],
)
def test_the_penalty_falls_over_the_buffer(count: int, ramp: Ramp, value: float):
    reward = length("x" * count, PROBLEM, limit=100, buffer=20, ramp=ramp)
    assert reward.value == pytest.approx(value)


def test_words_are_what_white_space_separates():
    assert length("a b\nc " * 10, PROBLEM, limit=40, buffer=20, unit="words").value == -0.5


@given(st.text(), st.sampled_from(["characters", "words"]), st.sampled_from(["linear", "cosine"]))
def test_no_text_is_paid_for_its_length(text: str, unit: Unit, ramp: Ramp):
    assert -1.0 <= length(text, PROBLEM, limit=9, buffer=4, unit=unit, ramp=ramp).value <= 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 5, "buffer": 0}, "buffer = 0"),
        ({"limit": 5, "buffer": 6}, "buffer = 6"),
        ({"limit": 5, "buffer": 1, "unit": "tokens"}, "'tokens' is not"),
        ({"limit": 5, "buffer": 1, "ramp": "step"}, "'step' is not"),
    ],
)
def test_wrong_options_are_errors(options: dict[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        length("", PROBLEM, **options)  # pyright: ignore[reportArgumentType]

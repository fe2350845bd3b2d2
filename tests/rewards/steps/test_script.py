"""Tests for rewards/steps/script.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.script import script
from cotree.rewards.types import Problem

PROBLEM = Problem("p", "", "", "test")


@pytest.mark.parametrize(
    ("text", "allowed", "value"),
    [
        ("So x = 5, naïve α ≤ π. ✓ 🙂 12 ½", "latin greek", 0.0),
        ("ab 我们", "latin", -0.5),
        ("ab 我们", "latin cjk", 0.0),
        ("привет", "latin", -1.0),
        ("ℍ 𝔵 ﬁ Å", "latin", 0.0),  # mathematical letters, a ligature, the Angstrom sign
        ("ひらがな", "hiragana", 0.0),
        ("12 + 3 = 15", "latin", 0.0),
        ("", "latin", 0.0),
    ],
)
def test_the_share_of_other_letters_is_the_penalty(text: str, allowed: str, value: float):
    assert script(text, PROBLEM, allowed=allowed).value == value


def test_a_share_can_be_allowed():
    text = "abc 我"
    assert script(text, PROBLEM, allowed_frac=0.25).value == 0.0
    assert script(text, PROBLEM, allowed_frac=0.24).value == -0.25


@pytest.mark.parametrize("allowed", ["", "latn", "latin klingon"])
def test_unknown_scripts_are_refused(allowed: str):
    with pytest.raises(ValueError, match="must name scripts"):
        script("a", PROBLEM, allowed=allowed)


def test_a_share_outside_its_range_is_refused():
    with pytest.raises(ValueError, match="allowed_frac"):
        script("a", PROBLEM, allowed_frac=1.5)


@given(st.text())
@settings(max_examples=200)
def test_any_text_gives_a_value_in_range(text: str):
    assert -1.0 <= script(text, PROBLEM).value <= 0.0

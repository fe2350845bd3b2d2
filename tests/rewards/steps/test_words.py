"""Tests for rewards/steps/words.py."""

import pytest

from cotree.rewards.steps.words import stem


@pytest.mark.parametrize(
    ("plural", "singular"),
    [
        ("apples", "apple"),
        ("boxes", "box"),
        ("Pennies", "penny"),
        ("dress", "dress"),
        ("inches", "inch"),
        ("sheep", "sheep"),
    ],
)
def test_a_plural_and_its_singular_have_one_stem(plural: str, singular: str):
    assert stem(plural) == stem(singular)


@pytest.mark.parametrize(("one", "other"), [("apple", "pear"), ("hour", "minute")])
def test_different_units_have_different_stems(one: str, other: str):
    assert stem(one) != stem(other)

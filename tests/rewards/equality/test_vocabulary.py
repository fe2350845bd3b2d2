"""Tests for rewards/equality/vocabulary.py."""

import pytest

from cotree.rewards.equality.vocabulary import is_word, split_function


@pytest.mark.parametrize(
    "run", ["odd", "Monday", "Yes", "ellipse", "undefined", "DNE", "Navin", "infinitely"]
)
def test_words(run: str):
    assert is_word(run)


@pytest.mark.parametrize(
    "run", ["x", "xy", "ab", "abc", "BC", "NO", "ABCD", "abcd", "wxyz", "mnpq", "kx"]
)
def test_products(run: str):
    assert not is_word(run)


def test_functions_are_found_in_runs_of_letters():
    assert split_function("xsiny") == ("x", "sin", "y")
    assert split_function("nlogn") == ("n", "log", "n")
    assert split_function("since") is None

"""Tests for rewards/steps/amounts.py."""

from fractions import Fraction

import pytest

from cotree.rewards.steps.amounts import (
    Amount,
    UnreadableError,
    added,
    divided,
    factorial,
    literal,
    multiplied,
    power,
    root,
)
from cotree.rewards.steps.tokens import tokens


def number(text: str) -> Amount:
    (token,) = tokens(text)
    return literal(token)


@pytest.mark.parametrize("text", ["0.33", "16.67", "0.66", "0.14", "3.333"])
def test_cut_off_and_rounded_fractions_are_known_by_their_digits(text: str):
    assert number(text).recurring


@pytest.mark.parametrize("text", ["5", "0.5", "0.25", "12.30", "99.99"])
def test_other_numerals_are_exact(text: str):
    assert not number(text).recurring


def test_errors_of_decimals_add_up():
    # 0.33 and 0.67 are each known to 0.01; 0.33 * 3 to 3 * 0.01.
    assert added(number("0.33"), number("0.67"), 1).error == Fraction(2, 100)
    assert multiplied(number("0.33"), number("3")).error == Fraction(3, 100)
    # 1 / 0.33: q = 100/33, error = q * 0.01 / (0.33 - 0.01) = 100/33 / 32.
    assert divided(number("1"), number("0.33")).error == Fraction(100, 33) / 32


@pytest.mark.parametrize(
    "compute",
    [
        lambda: divided(number("1"), number("0")),
        lambda: power(number("0"), Fraction(-1)),
        lambda: power(number("9"), Fraction(10**6)),
        lambda: power(number("2"), Fraction(1, 2)),
        lambda: power(power(number("9"), Fraction(250)), Fraction(250)),
        lambda: factorial(number("61")),
        lambda: factorial(number("2.5")),
        lambda: root(number("2")),
    ],
)
def test_what_has_no_bounded_exact_value_is_unreadable(compute):  # pyright: ignore
    with pytest.raises(UnreadableError):
        compute()

"""Tests for rewards/equality/numerals.py."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.equality.nodes import Number
from cotree.rewards.equality.numerals import MAX_DIGITS, number, repeating


@settings(max_examples=200)
@given(st.integers(0, 10**12), st.text("0123456789", min_size=1, max_size=8))
def test_grouped_and_plain_numerals_are_the_same(whole: int, shown: str):
    expected = Number(Fraction(f"{whole}.{shown}"), len(shown))
    spellings = [f"{whole}.{shown}", f"{whole:,}.{shown}", f"{whole:,}.{shown}".replace(",", " ")]
    assert [number(text) for text in spellings] == [expected] * 3


@settings(max_examples=100)
@given(st.text("0123456789", max_size=5), st.text("0123456789", min_size=1, max_size=5))
def test_a_repeating_decimal_is_the_limit_of_its_expansion(fixed: str, period: str):
    found = repeating(rf"0.{fixed}\overline{{{period}}}", 0)
    assert found is not None
    shown = Fraction(f"0.{fixed}{period * 40}")
    assert 0 <= found[0].value - shown <= Fraction(1, 10 ** (len(fixed) + 40 * len(period)))


def test_exponents_move_the_point():
    assert number("1.25e3") == Number(Fraction(1250))
    assert number("1.25e1") == Number(Fraction(25, 2), 1)
    assert number("5e-3") == Number(Fraction(1, 200))
    assert number("1.5e-3") == Number(Fraction(3, 2000), 4)


@pytest.mark.parametrize(
    "text", ["9" * (MAX_DIGITS + 1), "1e1001", "1e-999999999999", "1." + "0" * 2_000]
)
def test_numerals_beyond_the_bound_are_refused(text: str):
    with pytest.raises(ValueError, match="allowed"):
        number(text)

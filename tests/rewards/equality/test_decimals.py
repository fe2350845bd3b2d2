"""Tests for rewards/equality/decimals.py."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.equality.decimals import MIN_DIGITS, decimals_agree, last_place
from cotree.rewards.equality.parser import parse


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("12", None),
        ("2.50", Fraction(1, 100)),
        ("-2.5", Fraction(1, 10)),
        (r"41.4\%", Fraction(1, 1000)),
        (r"1.23 \times 10^5", Fraction(1000)),
        (r"5.4 \text{ cm}", Fraction(1, 10)),
        (r"\frac{1}{2}", None),
    ],
)
def test_the_worth_of_the_last_digit(text: str, place: Fraction | None):
    assert last_place(parse(text)) == place


@given(st.integers(-(10**9), 10**9), st.integers(1, 10**6), st.integers(2, 6))
def test_a_fraction_agrees_with_its_rounding_and_not_with_its_neighbors(
    n: int, d: int, places: int
):
    value, scale = Fraction(n, d), 10**places
    rounded = round(value * scale)
    if rounded % scale == 0 or abs(value * scale - rounded) * 2 == 1:
        return  # an integer is exact, and a tie may be rounded either way
    fraction = parse(f"{n}/{d}")
    for wrong in (-1, 0, 1):
        shown = Fraction(rounded + wrong, scale)
        if shown.denominator == 1:
            continue
        text = f"{'-' if shown < 0 else ''}{abs(rounded + wrong) // scale}"
        text += f".{abs(rounded + wrong) % scale:0{places}d}"
        assert decimals_agree(parse(text), fraction) is (wrong == 0)


@given(st.integers(1, 10**6), st.sampled_from([3, 7, 9, 11, 13]), st.integers(1, 12))
def test_an_endless_fraction_takes_six_right_digits_and_no_fewer(n: int, d: int, digits: int):
    value = Fraction(n, d)
    if value.denominator == 1:
        return
    places = max(digits - len(str(n // d)), 1)
    cut = value * 10**places // 1
    text = f"{cut // 10**places}.{cut % 10**places:0{places}d}"
    shown = len(str(cut))
    agrees = decimals_agree(parse(f"{n}/{d}"), parse(text))
    assert agrees is (shown >= MIN_DIGITS)


@given(st.integers(-(10**6), 10**6), st.integers(1, 12), st.integers(1, 9))
def test_an_integer_is_met_by_nothing_near_it(n: int, places: int, digit: int):
    assert decimals_agree(parse(str(n)), parse(f"{n}.{'0' * places}")) is True
    assert decimals_agree(parse(str(n)), parse(f"{n}.{'0' * places}{digit}")) is False
    assert (
        decimals_agree(parse(f"{n}.{'0' * places}"), parse(f"{n}.{'0' * places}{digit}")) is False
    )


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("0.5", "0.54", False),  # one place: exact
        ("0.25", "0.254", True),
        ("12.3", "12.345", True),  # three digits
        ("16386.17", "16386.164", False),
        ("3.14", r"\pi", True),
        (r"\pi", "3.14", False),
        (r"\pi", "3.14159", True),
        (r"\pi", "3.14160", False),
        (r"\frac18", "0.1250001", False),
        (r"\sqrt{2}", r"\sqrt{3}", None),
        ("x", "0.5", None),
    ],
)
def test_verdicts(reference: str, answer: str, verdict: bool | None):
    assert decimals_agree(parse(reference), parse(answer)) is verdict

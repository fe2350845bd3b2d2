"""Tests for rewards/equality/approximation.py."""

import math
from fractions import Fraction

import pytest

from cotree.rewards.equality.approximation import approximate, far_apart
from cotree.rewards.equality.parser import parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"\sqrt2", math.sqrt(2)),
        (r"\frac{\pi}{2} + 1", math.pi / 2 + 1),
        (r"\sin 1", math.sin(1)),
        ("e^2", math.e**2),
        (r"30^\circ", math.pi / 6),
        (r"-\ln 3", -math.log(3)),
        ("12", 12.0),
    ],
)
def test_constants(text: str, value: float):
    found = approximate(parse(text))
    assert found is not None
    assert abs(found - Fraction(value)) < Fraction(1, 10**14)


@pytest.mark.parametrize(
    "text",
    ["x", "f(2)", r"\sqrt{-1}", r"\infty", "1/0", "9^{9^{9}}", r"\text{odd}", "(1, 2)", "2i"],
)
def test_what_has_no_real_value(text: str):
    assert approximate(parse(text)) is None


@pytest.mark.parametrize(
    ("left", "right"),
    [("x + 1", "x + 2"), (r"\sqrt2", "1.4142135623"), (r"\frac{1}{2004!}", r"\frac{1}{2004! + 1}")],
)
def test_clear_differences_are_seen(left: str, right: str):
    clear = left != r"\frac{1}{2004!}"  # too small a number, and too small a difference
    assert far_apart(parse(left), parse(right)) is clear


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(x+1)^2", "x^2+2x+1"),
        (r"\sin^2 x + \cos^2 x", "1"),
        ("10^{30} + x - 10^{30}", "x"),
        (r"\sqrt{-1-x^2}", "x"),  # no real value
        ("9^{9^{9}}", "1"),  # beyond the bounds
        (r"\sum_{k=1}^{190}\sum_{j=1}^{190} k j", "1"),
    ],
)
def test_equal_and_unknown_values_are_not_apart(left: str, right: str):
    assert not far_apart(parse(left), parse(right))

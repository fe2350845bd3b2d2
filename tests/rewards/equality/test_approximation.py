"""Tests for rewards/equality/approximation.py."""

import math
from fractions import Fraction

import pytest

from cotree.rewards.equality.approximation import approximate
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

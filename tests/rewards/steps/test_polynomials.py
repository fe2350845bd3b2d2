"""Tests for rewards/steps/polynomials.py."""

from fractions import Fraction

import pytest

from cotree.rewards.steps.amounts import UnreadableError
from cotree.rewards.steps.polynomials import (
    are_proportional,
    degree,
    difference,
    equation,
    expression,
    symbols,
)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(x + 1)^2", "x^2 + 2x + 1"),
        ("(x - y)(x + y)", "x^2 - y^2"),
        (r"\frac{x + 1}{2}", "x/2 + 0.5"),
        ("2x - (x - 1)", "x + 1"),
        ("xy - yx", "0"),
    ],
)
def test_equal_polynomials_have_equal_forms(left: str, right: str):
    assert expression(left) == expression(right)
    assert difference(expression(left), expression(right)) == {}


@pytest.mark.parametrize(
    "text",
    ["1/x", r"\sqrt{x}", "x^y", "x^{100}", "(x+1)^{12}(x+2)", "x < 3", "so be it", "(" * 90 + "x",
     "x" * 500, r"\frac{1}{0}", "(a+b+c+d+e+f+g)^9", "9^{12}" * 30],
)  # fmt: skip
def test_other_texts_are_refused(text: str):
    with pytest.raises(UnreadableError):
        expression(text)


def test_an_equation_has_two_sides_and_an_expression_none():
    assert equation("x = 3") == ({(("x", 1),): 1}, {(): 3})
    assert equation("x + 3") is None
    with pytest.raises(UnreadableError, match="no single equality"):
        equation("1 < x < 3")


def test_degree_and_symbols():
    assert degree(expression("x^2 y + 1")) == 3
    assert symbols(expression("x^2 y + 1 - z + z")) == {"x", "y"}


def test_proportional_means_equal_roots():
    assert are_proportional(expression("2x - 4"), expression("x - 2"))
    assert not are_proportional(expression("2x - 4"), expression("x - 3"))
    assert not are_proportional(expression("2x - 4"), expression("2x"))
    assert expression("x/3")[(("x", 1),)] == Fraction(1, 3)

"""Tests for rewards/equality/numeric.py, against Python's complex arithmetic."""

import pytest
from hypothesis import assume, given, settings
from random_expressions import expressions, value

from cotree.rewards.equality.functions import BeyondError
from cotree.rewards.equality.nodes import Node
from cotree.rewards.equality.numeric import POINT_BITS, Evaluator, UndefinedError
from cotree.rewards.equality.parser import parse

AT = {"x": 3, "y": 5, "k": 2}
POINT = {name: number << POINT_BITS for name, number in AT.items()}


def evaluated(node: Node, *, real: bool = False, budget: int = 10_000):
    return Evaluator(digits=40, point=POINT, real=real, budget=budget).value(node)


@settings(max_examples=200)
@given(expressions)
def test_values_agree_with_complex_arithmetic(node: Node):
    try:
        expected = value(node, AT)
    except (ZeroDivisionError, OverflowError):
        assume(False)
    assume(abs(expected) < 1e9)
    try:
        found = evaluated(node)
    except UndefinedError:
        return
    assert abs(complex(found) - expected) <= 1e-6 * max(1, abs(expected))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\arctan 1", 0.7853981633974483),
        (r"\csc x", 7.086167395737187),
        ("k!", 2),
        ("0.5!", 0.886226925452758),
        (r"\log_k 10", 3.321928094887362),
        (r"\sum_{i=1}^{4}i^2", 30),
        (r"\prod_{i=1}^{4}i", 24),
        (r"\operatorname{cis}\pi", -1),
        (r"\sqrt[3]{-8}", -2),
    ],
)
def test_functions(text: str, expected: float):
    assert abs(complex(evaluated(parse(text))) - expected) < 1e-14


@pytest.mark.parametrize("text", [r"\sqrt{-1}", r"\ln(-x)", r"\arcsin x", "i", "(-1)^{0.5}"])
def test_what_is_not_real_is_undefined_among_the_reals_only(text: str):
    with pytest.raises(UndefinedError):
        evaluated(parse(text), real=True)
    assert complex(evaluated(parse(text))).imag != 0


@pytest.mark.parametrize(
    "text", ["1/0", "0^0", "(-1)!", r"\ln 0", r"\frac{1}{x-3}", r"\infty-\infty"]
)
def test_poles_are_undefined(text: str):
    with pytest.raises(UndefinedError):
        evaluated(parse(text))


@pytest.mark.parametrize(
    "text", ["9^{9^{9}}", "(10^9)!", r"e^{10^9}", r"\sin(10^{99})", "x" + "+x" * 900]
)
def test_too_much_work_is_refused(text: str):
    with pytest.raises(BeyondError):
        evaluated(parse(text), budget=500)


def test_a_bound_variable_has_no_value_outside():
    inside = evaluated(parse(r"\sum_{x=1}^{3}x+x"))
    assert inside == 1 + 2 + 3 + AT["x"]

"""Tests for rewards/equality/relations.py."""

import pytest

from cotree.rewards.equality.nodes import Relation
from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.relations import (
    is_name,
    named,
    same_equation,
    same_inequality,
    value_of_equation,
)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("5", None, "5"),
        ("x = 5", "x", "5"),
        ("5 = x", "x", "5"),
        ("x = 5 + 6 = 11", "x", "11"),
        ("2 + 3 = 5", None, "5"),
        ("f(x) = x + 1", "f(x)", "x + 1"),
        ("(p, q) = (3, 2)", "(p, q)", "(3, 2)"),
        (r"\frac{NO}{BO} = 3", r"\frac{NO}{BO}", "3"),
        (r"x \approx 0.577", "x", "0.577"),
        (r"x = \frac13 \approx 0.33", "x", r"\frac13"),
        (r"\frac13 \approx 0.33", None, r"\frac13"),
        ("x + y = 3", None, "x + y = 3"),
        ("2x = 6", None, "2x = 6"),
    ],
)
def test_a_value_and_its_name(text: str, name: str | None, value: str):
    found = named(parse(text))
    assert found.name == (None if name is None else parse(name))
    assert found.value == parse(value)


@pytest.mark.parametrize("text", ["x", "AB", "f(2)", "a_1", "P(A)", "(x, y)", r"\frac{AB}{CD}"])
def test_names(text: str):
    assert is_name(parse(text))


@pytest.mark.parametrize("text", ["5", "-x", "2x", "x + y", r"\sin 2", r"\pi", "x^2 + 1", "x > 1"])
def test_what_names_nothing(text: str):
    assert not is_name(parse(text))


def test_an_expression_may_be_given_a_number_but_not_zero():
    assert value_of_equation(parse("m + n = 7")) == parse("7")
    assert value_of_equation(parse("x + y = 0")) is None
    assert value_of_equation(parse("x = y")) is None
    assert value_of_equation(parse("7")) is None


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x+y=3", "2x+2y=6", True),
        ("x+y=3", "-x-y+3=0", True),
        ("x^2/4 + y^2/3 = 1", "3x^2 + 4y^2 = 12", True),
        (r"\sqrt2 x = 2", r"x = \sqrt2", True),
        ("x+y=3", "x+y=4", False),
        ("x+y=3", "x-y=3", False),
        ("x+y=3", "(x+y-3)(x-1)=0", False),
        ("2x+3y=0", "0=0", False),
        ("x=x", "x=x+0", False),  # says nothing
        ("x+y=3", "x+y>3", False),
    ],
)
def test_equations_up_to_a_constant_factor(left: str, right: str, same: bool):
    assert same_equation(parse(left), parse(right)) is same
    assert same_equation(parse(right), parse(left)) is same


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x + y < 3", "2x + 2y < 6", True),
        ("x + y < 3", "6 > 2x + 2y", True),
        ("x + y < 3", "-x - y > -3", True),
        ("x + y < 3", "-x - y < -3", False),
        ("x + y < 3", r"x + y \le 3", False),
        ("x + y < 3", "x + y < 4", False),
    ],
)
def test_inequalities_up_to_a_positive_factor(left: str, right: str, same: bool):
    first, second = parse(left), parse(right)
    assert isinstance(first, Relation)
    assert isinstance(second, Relation)
    assert same_inequality(first, second) is same

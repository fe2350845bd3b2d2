"""Tests for rewards/steps/evaluation.py; hypothesis builds expressions whose values are known."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.amounts import UnreadableError
from cotree.rewards.steps.evaluation import Reading, amount, readings
from cotree.rewards.steps.tokens import tokens


def value(text: str, reading: Reading | None = None) -> Fraction:
    return amount(tokens(text), reading or Reading(), {}).value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("2(3 + 4)", 14),
        ("(2)(3)", 6),
        ("10 - 4 - 3", 3),
        ("24 / 4 / 2", 3),
        ("2 * -3", -6),
        ("-2^2", -4),
        ("2^3^2", 512),
        ("2^{-1}", Fraction(1, 2)),
        ("5!", 120),
        ("3²", 9),
        (r"\frac{1}{2} + \frac13", Fraction(5, 6)),
        (r"\sqrt{16} + 1", 5),
        ("2 1/3", Fraction(7, 3)),
        (r"2\frac{1}{3}", Fraction(7, 3)),
        ("25%", Fraction(1, 4)),
        ("$5 + $3", 8),
        ("5 apples + 3 apples", 8),
        (r"5\text{ cm}^2 * 2", 10),
        ("60 miles/hour * 2", 120),
    ],
)
def test_values(text: str, expected: Fraction):
    assert value(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2 +",
        "* 3",
        "2 3",
        "(2 + 3",
        "1/2(4)",
        "1/0",
        r"\sqrt{2}",
        "x",
        "9^9^9",
        "9^{99999}",
        "(10^250)^250",
        "100!",
        "5 of them",
        "3 times 4",
        "(" * 200 + "1" + ")" * 200,
        "2^" * 100 + "2",
        "1+" * 300 + "1",
    ],
)
def test_what_is_no_bounded_expression_is_unreadable(text: str):
    with pytest.raises(UnreadableError):
        value(text)


def test_every_reading_of_an_ambiguous_side_is_listed_the_strict_one_first():
    side = tokens("60 / 5 * 4")
    found = [amount(side, reading, {}).value for reading in readings(side)]
    assert found[0] == 48
    assert 3 in found
    nested = tokens("25 / 1/3")
    assert 75 in [amount(nested, reading, {}).value for reading in readings(nested)]


def expressions() -> st.SearchStrategy[tuple[str, Fraction]]:
    """Text with full brackets, and its value by another route than the parser's."""
    leaves = st.integers(0, 99).map(lambda n: (str(n), Fraction(n)))

    def joined(
        children: st.SearchStrategy[tuple[str, Fraction]],
    ) -> st.SearchStrategy[tuple[str, Fraction]]:
        def join(parts: tuple[tuple[str, Fraction], str, tuple[str, Fraction]]):
            (a, x), operator, (b, y) = parts
            if operator == "/" and y == 0:
                operator = "+"
            results = {"+": x + y, "-": x - y, "*": x * y, "/": x / y if y else x}
            return f"({a} {operator} {b})", results[operator]

        return st.tuples(children, st.sampled_from("+-*/"), children).map(join)

    return st.recursive(leaves, joined, max_leaves=8)


@given(expressions())
@settings(max_examples=300)
def test_bracketed_expressions_have_their_value(expression: tuple[str, Fraction]):
    text, expected = expression
    assert value(text) == expected

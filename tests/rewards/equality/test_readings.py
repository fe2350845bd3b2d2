"""Tests for rewards/equality/readings.py."""

import pytest

from cotree.rewards.equality.nodes import Node, Quantity
from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.readings import explained, measured_as, reading


@pytest.mark.parametrize(
    ("text", "other", "read"),
    [
        ("2 to 3", "2:3", "2:3"),
        (r"2 \text{ to } 3", "4:6", "2:3"),
        ("2 to 3", "23", "2 to 3"),
        ("100,200,300", "1, 2, 3", "100, 200, 300"),
        ("100,200,300", "100200300", "100,200,300"),
        ("x + 1", "2:3", "x + 1"),
    ],
)
def test_the_other_side_tells_how_to_read_a_text(text: str, other: str, read: str):
    assert reading(text, parse(text), parse(other)) == read


@pytest.mark.parametrize(
    ("answer", "beside", "read"),
    [
        ("C_6^2", "15", r"\binom{6}{2}"),
        ("C(6,2)", "15", r"\binom{6}{2}"),
        ("C_n^k", r"\frac{n!}{k!(n-k)!}", r"\binom{n}{k}"),
        ("A_5^2", "20", r"\binom{5}{2}\cdot2!"),
        ("C_6^2", "C_6", "C_6^2"),  # a C beside a C is that C
        (r"\overline{AB}", "12", "AB"),
        (r"\overline{AB}", r"\overline{CD}", r"\overline{AB}"),
        (r"\sin x+c", r"\sin x+C", r"\sin x+C"),
        ("cx", "Cx", "cx"),  # no added constant
        ("x+c", "C+c", "x+c"),
    ],
)
def test_notation_is_explained_by_the_other_side(answer: str, beside: str, read: str):
    assert explained(parse(beside), parse(answer))[1] == parse(read)


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("36 m^2", "square meters", "36"),
        ("1.5 h", "hours", "1.5"),
        ("2x m", "meters", "2x"),
        ("5 m", "cm", None),
        ("5 x", "cm", None),
        ("m", "meters", None),
        ("5 h", "apples", None),
    ],
)
def test_letters_of_the_very_unit_are_a_unit(text: str, unit: str, value: str | None):
    wanted: Node | None = None if value is None else Quantity(parse(value), unit)
    assert measured_as(parse(text), unit) == wanted

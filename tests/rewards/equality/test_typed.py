"""Tests for rewards/equality/typed.py: what the tables of test_answers.py leave out."""

import pytest

from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.typed import (
    MAX_LEVELS,
    MAX_SCALARS,
    Comparison,
    TooMuchWorkError,
    kind,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("5", "number"),
        (r"\frac{1}{2}", "symbolic"),
        ("x > 5", "interval"),
        ("(1,2]", "interval"),
        ("(1,2)", "point"),
        ("1,2", "list"),
        (r"\{1\}", "list"),
        ("x = 5", "equation"),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", "matrix"),
        (r"\text{Monday}", "words"),
        ("3:4", "ratio"),
        ("11_2", "base"),
        (r"5\%", "percent"),
        (r"5^\circ", "degrees"),
        (r"5 \text{ cm}", "unit"),
    ],
)
def test_the_kind_of_a_reference(text: str, name: str):
    assert kind(parse(text)) == name


def test_the_work_is_bounded():
    # Two listings of unequal expressions: every pair has to be compared symbolically.
    count = MAX_SCALARS + 1
    left = ",".join(rf"\sqrt{{x+{n}}}" for n in range(count))
    right = ",".join(rf"\sqrt{{y+{n}}}" for n in range(count))
    assert not Comparison().same(parse(left), parse(right))  # the first finds no partner
    hard = ",".join(rf"\sqrt{{x+{n}}}+0" for n in reversed(range(count)))
    with pytest.raises(TooMuchWorkError, match="symbolic comparisons"):
        Comparison().same(parse(left), parse(hard))


def test_the_nesting_is_bounded():
    left, right = ("(1," * (MAX_LEVELS + 5) + last + ")" * (MAX_LEVELS + 5) for last in "23")
    with pytest.raises(TooMuchWorkError, match="levels"):
        Comparison().same(parse(left), parse(right))


def test_a_reference_is_not_an_answer():
    # A bare value may be answered by `m + n = 7`; the line x + y = 3 is not answered by 3.
    assert Comparison().same(parse("7"), parse("m + n = 7"))
    assert not Comparison().same(parse("m + n = 7"), parse("7"))

"""Tests for rewards/equality/series.py."""

import pytest

from cotree.rewards.equality.answers import Outcome, compare
from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.series import LENGTHS, written_out


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (r"a_0+a_1+\cdots+a_k", r"a_k + a_{k-1} + \ldots + a_0", True),
        (r"x_1 x_2 \cdots x_n", r"x_n\cdots x_2 x_1", True),
        (r"1+2+\cdots+n", r"\frac{n(n+1)}{2}", True),
        (r"1+3+5+\cdots+(2n-1)", "n^2", True),
        (r"1^2+2^2+\cdots+n^2", r"\frac{n(n+1)(2n+1)}{6}", True),
        (r"1+2+\cdots+100", "5050", True),
        (r"x+x^2+\cdots+x^n", r"x^n+\cdots+x^2+x", True),
        (r"\frac{1}{1\cdot2}+\frac{1}{2\cdot3}+\cdots+\frac{1}{n(n+1)}", r"\frac{n}{n+1}", True),
        (r"1\cdot2\cdots n", "n!", True),
        (r"\frac{(v-a_1)\cdots(v-a_n)}{v^n}", r"(1-\frac{a_1}{v})\cdots(1-\frac{a_n}{v})", True),
        (r"(v-a_1)\cdots(v-a_n)", r"(v-a_1)\cdots(v-a_n)(v-a_n)", False),
        (r"1+3+5+\cdots+(2n-1)", "n^2+1", False),
        (r"1+2+4+\cdots+2^n", r"1+3+\cdots+2^n", False),
        (r"a_1+\cdots+a_n", r"a_1+\cdots+a_{n-1}", False),
        (r"a_1+a_2+\cdots+a_n", r"a_1+a_3+\cdots+a_n", False),
        (r"1+2+3+\cdots+n", r"1+2+\cdots+(n+1)", False),
    ],
)
def test_expressions_with_dots(left: str, right: str, same: bool):
    assert (compare(left, right).outcome is Outcome.EQUAL) is same
    assert (compare(right, left).outcome is Outcome.EQUAL) is same


def test_terms_are_filled_in():
    (first, other), *_ = written_out(parse(r"a_1 + a_2 + \cdots + a_n"), parse("n"))
    assert first == parse("+".join(f"a_{i}" for i in range(1, LENGTHS[0] + 1)))
    assert other == parse(str(LENGTHS[0]))


@pytest.mark.parametrize("text", ["x", r"\cdots + 1", r"1 + \cdots", r"1 + \sqrt2 + \cdots + y^3"])
def test_without_a_pattern_there_is_nothing(text: str):
    assert list(written_out(parse(text), parse("x"))) == []

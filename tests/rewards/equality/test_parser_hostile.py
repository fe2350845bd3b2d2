"""Tests for rewards/equality/parser.py: any text is read or refused, in bounded time."""

import contextlib
from fractions import Fraction

import pytest
from cpu_time import cpu_seconds
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cotree.rewards.equality.nodes import Node, Number, Sum
from cotree.rewards.equality.parser import MAX_CHARS, ParseError, TooLarge, parse
from cotree.rewards.equality.scalar import Sameness, same_scalar
from cotree.rewards.equality.walk import within

HOSTILE = {
    "digits": "9" * 200_000,
    "fewer digits": "9" * 3_000,
    "parentheses": "(" * 6_000 + "12" + ")" * 6_000,
    "fewer parentheses": "(" * 1_900 + "12" + ")" * 1_900,
    "terms": "+".join("1" * 20_000),
    "tower": "x^{" * 500 + "x" + "}" * 500,
    "stars": "9**" * 900 + "9",
    "minus": "-" * 3_000 + "1",
    "fractions": r"\frac{1}{" * 400 + "x" + "}" * 400,
    "roots": r"\sqrt" * 700 + "2",
    "dollars": "$" * 20_000,
    "boxes": r"\boxed{" * 500,
    "bars": "|" * 3_900,
    "slashes": "1/" * 1_900 + "1",
    "factorials": "5" + "!" * 3_900,
    "primes": "f" + "'" * 3_900,
    "ratios": "1:" * 1_900 + "1",
    "pm": r"1\pm" * 900 + "1",
    "lefts": r"\left(" * 600,
    "cups": r"A\cup B\cap " * 300 + "C",
    "subscripts": "x_" * 1_900 + "1",
    "texts": r"\text{" * 600,
    "spaces": "1" + " " * 3_900 + "2",
    "backslashes": "\\" * 3_999,
    "thousands": ",111" * 900,
    "dots": "." * 3_900,
    "exponent": "1e999999999",
    "words": "word " * 700,
    "f's": "f(x)" * 900,
    "definitions": "P(x" * 900,
    "accents": r"\overline" * 400 + "x",
    "functions": r"\sin" * 900 + "x",
    "braces": "{" * 3_900,
    "matrix": r"\begin{pmatrix}" * 200,
    "relations": "1<" * 1_900 + "1",
    "repeating": "0." + "1" * 3_900 + r"\overline{3}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_answered_in_time(name: str):
    # On an idle machine all are below 50 ms.
    assert cpu_seconds(lambda: _tree(HOSTILE[name])) < 0.25
    tree = _tree(HOSTILE[name])
    assert tree is None or within(tree, max_nodes=10_000, max_depth=400)


def _tree(text: str) -> Node | None:
    try:
        return parse(text)
    except ParseError:
        return None


@pytest.mark.parametrize(
    "name", ["digits", "parentheses", "terms", "tower", "fewer digits", "minus"]
)
def test_what_is_beyond_the_bounds_is_too_large(name: str):
    with pytest.raises(TooLarge):
        parse(HOSTILE[name])


_PIECES = st.sampled_from(
    [
        *"0123456789xyzabcfin+-*/^_=<>(){}[]|,;:!'%$&. ",
        "\\",
        "\\\\",
        r"\frac",
        r"\sqrt",
        r"\text{",
        r"\left",
        r"\right",
        r"\sin",
        r"\log",
        r"\sum",
        r"\int",
        r"\begin{pmatrix}",
        r"\end{pmatrix}",
        r"\{",
        r"\}",
        r"\circ",
        r"\pm",
        r"\mid",
        r"\overline",
        "and",
        "or",
        "cm",
        "½",
        "²",
        "√",
        "°",
        "∞",
        "\u200b",
        "\t",
        r"\binom",
        r"\pmod",
        r"\mathbb",
    ]
)


@settings(max_examples=1_500)
@given(st.lists(_PIECES, max_size=30).map("".join))
@example("f'" * 10)
def test_any_text_is_read_or_refused_and_compares_with_itself(text: str):
    try:
        tree = parse(text)
    except ParseError:
        return
    assert parse(text) == tree
    assert same_scalar(tree, tree) is not Sameness.DIFFERENT


@settings(max_examples=200)
@given(st.text(max_size=200))
def test_no_text_at_all_raises_anything_else(text: str):
    with contextlib.suppress(ParseError):
        parse(text)


def test_a_text_of_the_greatest_length_is_read():
    assert parse("1" + "+1" * 900) == Sum((Number(Fraction(1)),) * 901)
    with pytest.raises(TooLarge, match="characters"):
        parse("1" * (MAX_CHARS + 1))

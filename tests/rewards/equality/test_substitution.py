"""Tests for rewards/equality/substitution.py."""

import pytest

from cotree.rewards.equality.nodes import Number, PlusMinus, Symbol
from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.substitution import both_signs, contains, rebuilt, substituted


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (r"\pm 2", ["2", "-2"]),
        (r"1 \pm \sqrt{19}", [r"1 + \sqrt{19}", r"1 - \sqrt{19}"]),
        (r"\frac{-1 \pm 3}{2}", [r"\frac{-1 + 3}{2}", r"\frac{-1 - 3}{2}"]),
        (r"(1 \pm 2, 3 \mp 4)", ["(1 + 2, 3 - 4)", "(1 - 2, 3 + 4)"]),
        ("5", ["5"]),
    ],
)
def test_both_signs_go_together(text: str, values: list[str]):
    assert both_signs(parse(text)) == [parse(value) for value in values]


def test_symbols_are_replaced_at_once():
    swapped = substituted(parse("x + 2y"), {"x": Symbol("y"), "y": Symbol("x")})
    assert swapped == parse("y + 2x")


def test_a_tree_without_changes_is_the_same_object():
    tree = parse(r"\frac{x}{2} + 1")
    assert rebuilt(tree, lambda node: None) is tree


def test_contains_looks_everywhere():
    tree = parse(r"\sqrt{1 + \frac{x}{\pm 2}}")
    assert contains(tree, PlusMinus)
    assert contains(tree, (Symbol, Number))
    assert not contains(parse("x"), Number)

"""Tests for rewards/steps/expression.py; hypothesis builds trees, so values have a second view."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.expression import (
    MAX_CHARS,
    MAX_DEPTH,
    MAX_DIGITS,
    Expression,
    ExpressionError,
    Number,
    Operation,
    num_operators,
    parse,
    render,
    value,
)

NUMBERS = st.integers(-99, 99).map(Number)
TREES = st.recursive(
    NUMBERS, lambda inner: st.builds(Operation, st.sampled_from("+-*"), inner, inner), max_leaves=12
)


@given(TREES)
@settings(max_examples=300)
def test_parse_reads_back_the_tree_that_render_wrote(tree: Expression):
    assert parse(render(tree)) == tree


@given(TREES)
@settings(max_examples=300)
def test_value_agrees_with_python_on_rendered_trees(tree: Expression):
    # The text is our own, made from a tree of small numbers; model text never meets eval.
    assert value(parse(render(tree))) == eval(render(tree), {"__builtins__": {}})


@given(st.text(alphabet="0123456789+-*() \n^/abeF９²", max_size=40))
@settings(max_examples=500)
def test_any_text_is_an_expression_or_an_expression_error(text: str):
    try:
        tree = parse(text)
    except ExpressionError:
        return
    assert set(text) <= set("0123456789+-*() ")
    assert num_operators(tree) <= sum(text.count(operator) for operator in "+-*")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2+3*4", 14),
        ("8-3-2", 3),  # from the left: (8 - 3) - 2, not 8 - 1
        ("8-(3-2)", 7),
        ("-3+5", 2),
        ("2*(-4)", -8),
        ("2*-4", -8),
        (" 1 + 2 ", 3),
        ("007", 7),
    ],
)
def test_values_worked_out_by_hand(text: str, expected: int):
    assert value(parse(text)) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "+",
        "1+",
        "(1",
        "1)",
        "()",
        "1 2",
        "2**3",
        "9^9^9",
        "1/2",
        "--1",
        "-(1)",
        "a",
        "１",
        "1_0",
    ],
)
def test_other_texts_are_refused(text: str):
    with pytest.raises(ExpressionError, match="expected"):
        parse(text)


def test_redundant_parentheses_do_not_count_as_operators():
    assert num_operators(parse("((1))+(2*3)")) == 2
    assert num_operators(parse("-3")) == 0


def test_every_bound_is_enforced_and_what_reaches_it_is_read():
    assert value(parse("9" * MAX_DIGITS)) == 10**MAX_DIGITS - 1
    assert value(parse("(" * MAX_DEPTH + "1" + ")" * MAX_DEPTH)) == 1
    longest = "1" + "+1" * ((MAX_CHARS - 1) // 2)
    assert value(parse(longest)) == 1 + (MAX_CHARS - 1) // 2
    with pytest.raises(ExpressionError, match="digits"):
        parse("9" * (MAX_DIGITS + 1))
    with pytest.raises(ExpressionError, match="nest"):
        parse("(" * (MAX_DEPTH + 1) + "1" + ")" * (MAX_DEPTH + 1))
    with pytest.raises(ExpressionError, match="characters"):
        parse("1" + " " * MAX_CHARS)

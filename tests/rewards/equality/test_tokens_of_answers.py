"""Tests for rewards/equality/tokens.py."""

import pytest

from cotree.rewards.equality.tokens import END, MAX_TOKENS, ParseError, TooLarge, tokenize


def kinds(text: str) -> list[str]:
    return [token.kind for token in tokenize(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("xy", ["symbol", "symbol", END]),
        ("x1", ["symbol", "_", "number", END]),
        ("5 cm", ["number", "words", END]),
        ("cm", ["symbol", "symbol", END]),
        ("5 min", ["number", "words", END]),
        (r"\min(5)", ["function", "(", "number", ")", END]),
        ("sinx", ["function", "symbol", END]),
        ("odd", ["words", END]),
        ("line segment and circle", ["words", "connector", "words", END]),
        (r"\text{ or }", ["connector", END]),
        (r"\text{sin}", ["function", END]),
        (r"\text{(base 8)}", ["_", "number", END]),
        (r"\{x\}", ["set{", "symbol", "set}", END]),
        ("<=", ["relation", END]),
        (r"\boxed{5}", ["{", "number", "}", END]),
        (r"\begin{array}{cc}", ["begin", END]),
        ("1,234", ["number", END]),
        ("(1,234)", ["(", "number", ",", "number", ")", END]),
        (r"\sqrt{1,234}", ["sqrt", "{", "number", "}", END]),
        (r"\{1,234\}", ["set{", "number", ",", "number", "set}", END]),
        ("1,2345", ["number", ",", "number", END]),
        ("1,000,2", ["number", ",", "number", ",", "number", END]),
    ],
)
def test_tokens(text: str, found: list[str]):
    assert kinds(text) == found


@pytest.mark.parametrize("text", [r"\unknown", "x # y", '"', r"\begin{tabular}", r"\text{a"])
def test_what_is_no_notation_is_an_error(text: str):
    with pytest.raises(ParseError):
        tokenize(text)


def test_positions_point_into_the_text():
    tokens = tokenize(r"x+\text{ab}+yz")
    assert [(t.text, t.position) for t in tokens[-3:-1]] == [("y", 12), ("z", 13)]


def test_more_tokens_than_the_bound_are_refused():
    tokenize("x" * (MAX_TOKENS - 1))
    with pytest.raises(TooLarge, match=str(MAX_TOKENS)):
        tokenize("+" * MAX_TOKENS)

"""Tests for rewards/steps/tokens.py."""

from fractions import Fraction

import pytest
from cpu_time import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.tokens import tokens, with_times_signs


def shown(text: str) -> list[tuple[str, str]]:
    return [(token.kind, token.text) for token in with_times_signs(tokens(text))]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1,234", 1234),
        ("1{,}234", 1234),
        (r"1\,234,567", 1234567),
        (r"1,\!234", 1234),
        (".5", Fraction(1, 2)),
        ("0.50", Fraction(1, 2)),
    ],
)
def test_numerals_in_their_usual_forms(text: str, value: Fraction):
    (token,) = tokens(text)
    assert (token.kind, token.value, token.end) == ("number", value, len(text))


@pytest.mark.parametrize("text", ["3,5", "12:30", "0900", "1.2.3", "1" * 41, "3..."])
def test_doubtful_numerals_are_unknown(text: str):
    assert "unknown" in [kind for kind, _ in shown(text)]


def test_x_is_a_sign_between_operands_only_if_no_other_x_is_a_variable():
    assert shown("3 x 4")[1] == ("operator", "*")
    assert shown("3x4")[1] == ("operator", "*")
    assert shown("2x = 6, 3 x 4")[1] == ("symbol", "x")
    assert ("operator", "*") not in shown("2x = 6, 3 x 4")


def test_two_stars_are_a_power_or_bold_type():
    assert shown("2**3")[1] == ("operator", "^")
    assert shown("2 ** 3")[1] == ("operator", "^")
    assert [kind for kind, _ in shown("**2 + 3**")] == ["number", "operator", "number"]


@given(st.text(alphabet="0123456789+-*/=^().,$%\\{}<>xab \n_&!?", max_size=80))
@settings(max_examples=300)
def test_tokens_are_disjoint_in_order_and_inside_the_text(text: str):
    end = 0
    for token in tokens(text):
        assert end <= token.start < token.end <= len(text)
        end = token.end


@pytest.mark.parametrize(
    "piece", ["1", "(", "<<", r"\text{", "-", "**", "1,000", "000{,}", "=", " ", "a", "\\"]
)
def test_time_is_linear_in_the_text(piece: str):
    def seconds(copies: int) -> float:
        text = piece * copies
        return cpu_seconds(lambda: tokens(text))

    seconds(1000)
    # A quadratic scan would take 64 times as long for 8 times the text.
    assert seconds(40_000) < 30 * max(seconds(5_000), 0.005)

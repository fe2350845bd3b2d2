"""Tests for rewards/equality/choices.py."""

import pytest

from cotree.rewards.equality.choices import choice


@pytest.mark.parametrize(
    ("text", "letter", "tail"),
    [
        ("C", "C", ""),
        ("(C)", "C", ""),
        ("(c)", "C", ""),
        ("[D]", "D", ""),
        (r"\text{(C)}", "C", ""),
        (r"\textbf{(A)} 12", "A", "12"),
        (r"\mathrm{B}", "B", ""),
        ("C.", "C", ""),
        ("C. 5", "C", "5"),
        (r"\textbf{(D)}\ \frac{1}{3}", "D", r"\frac{1}{3}"),
        (r"\text{(D) 5}", "D", "5"),
        ("(D) -3", "D", "-3"),
        ("(D) (1, 2)", "D", "(1, 2)"),
        ("B) 12", "B", "12"),
        ("option C", "C", ""),
        ("The correct answer is (B)", "B", ""),
        ("**B**", "B", ""),
        ("$A$", "A", ""),
    ],
)
def test_a_letter_and_the_text_behind_it(text: str, letter: str, tail: str):
    assert choice(text) == (letter, tail)


@pytest.mark.parametrize(
    "text",
    [
        "A, B, C, D",
        "A B C D E",
        "A or B",
        "(A) (B)",
        "C. or D.",
        "A. B",
        "not A",
        "c",
        "K",
        "C + 1",
        "(C)+1",
        "(C) - 1",
        r"(C)\frac12",
        r"C \cup D",
        "C = 5",
        "Cx",
        "AB",
        "A_1",
        "12",
        "",
        "(A" * 1000,
    ],
)
def test_algebra_and_several_letters_choose_nothing(text: str):
    assert choice(text) is None

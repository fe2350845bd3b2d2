"""Tests for rewards/restated.py: a copy of the question is no answer to it."""

import pytest

from cotree.rewards.math_answer import math_equal
from cotree.rewards.restated import restates
from cotree.rewards.types import Problem


def problem(question: str, reference: str) -> Problem:
    return Problem("p", "", reference, "test", question)


@pytest.mark.parametrize(
    ("question", "reference", "answer"),
    [
        ("Compute $|(2-i)^4|$.", "25", "|(2-i)^4|"),
        ("Simplify $(u+3)(u-1) - (u-2)(u+4)$.", "5", "(u+3)(u-1)-(u-2)(u+4)"),
        (
            r"Simplify $\frac{4+2a}{3}-\frac{1+a}{4}.$",
            r"\frac{13+5a}{12}",
            r"\frac{4+2a}{3}-\frac{1+a}{4}",
        ),
        ("Factor $ab+3b+2a+6$.", "(a+3)(b+2)", "ab + 3b + 2a + 6."),
        (r"Find $\cos\left(\frac{\pi}{3}\right)$.", r"\frac12", r"\cos(\frac{\pi}{3})"),
        ("What is $2^{10} - 1$?", "1023", "2^{10}-1"),
    ],
)
def test_the_questions_own_expression_is_no_answer(question: str, reference: str, answer: str):
    assert restates(answer, problem(question, reference))
    reward = math_equal(rf"\boxed{{{answer.rstrip('.')}}}", problem(question, reference))
    assert (reward.value, reward.reason) == (0.0, "restates the question (boxed)")


@pytest.mark.parametrize(
    ("question", "reference", "answer"),
    [
        (r"Is it $\frac{1}{2}$ or $\frac{1}{3}$?", "0.5", r"\frac{1}{2}"),  # a number
        ("Which of 7 and 8 is odd?", "7", "7"),
        (r"Which is larger, $3\sqrt{2}$ or 4?", r"3\sqrt{2}", r"3\sqrt{2}"),  # no longer
        (r"Which is larger, $3\sqrt{2}$ or 4?", r"3\sqrt2", r"3\sqrt{2}"),  # two characters longer
        ("Expand $(a+3)(b+2)$.", "ab+3b+2a+6", "ab+2a+3b+6"),  # worked out
        ("Simplify $(u+3)(u-1) - (u-2)(u+4)$.", "5", "2^3-3"),  # of its own making
        ("", "25", "|(2-i)^4|"),  # no question to look at
    ],
)
def test_what_is_worked_out_is_an_answer(question: str, reference: str, answer: str):
    assert not restates(answer, problem(question, reference))
    assert math_equal(rf"\boxed{{{answer}}}", problem(question, reference)).value == 1.0

"""Tests for rewards/steps/linear.py."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.linear import linear_steps
from cotree.rewards.types import Problem, Verdict

V, R, U = Verdict.VERIFIED, Verdict.REFUTED, Verdict.UNCHECKED
PROBLEM = Problem("p", "", "3", "linear", "Solve for x: 2x + 4 = 10.")


def trace(*lines: str, box: str) -> str:
    return "<think>\n" + "".join(f"{line}\n" for line in lines) + f"</think>\n\\boxed{{{box}}}"


@pytest.mark.parametrize(
    ("lines", "box", "verdicts"),
    [
        (["2x = 6", "x = 3"], "3", [V, V, V]),
        (["2x = 10 - 4", "10 - 4 = 6", "$x = \\frac{6}{2}$"], "x = 3", [V, V, V, V]),
        (["2x = 14", "x = 7"], "7", [R, R, R]),
        (["2x = 6", "x = 4"], "3", [V, R, V]),
        (["10 - 4 = 7"], "3", [R, V]),
        (["Subtract 4 from both sides."], "3", [V]),
        (["y = 3"], "3", [U, V]),
        (["2x = 2x"], "3", [R, V]),  # true for every x: the solution is lost
        (["x^2 = 9"], "3", [R, V]),  # has another solution
        (["0x = 1"], "3", [U, V]),  # no x is left: numbers only, and nothing is computed
    ],
)
def test_verdicts(lines: list[str], box: str, verdicts: list[Verdict]):
    reward = linear_steps(trace(*lines, box=box), PROBLEM)
    assert [step.verdict for step in reward.steps] == verdicts
    assert reward.value == (-1.0 if R in verdicts else 0.0)


@pytest.mark.parametrize("completion", ["", "<think>\n2x = 6\n</think>\n", trace(box="6/0")])
def test_no_answer_is_worth_no_more_than_a_mistake(completion: str):
    assert linear_steps(completion, PROBLEM).value == -1.0


@pytest.mark.parametrize("question", ["What is it?", "x^2 = 4", "x = x", "x + y = 1", "2 + 2"])
def test_a_question_without_one_solution_is_an_error(question: str):
    with pytest.raises(ValueError, match=r"linear_steps needs|one linear equation"):
        linear_steps("", Problem("p", "", "", "linear", question))


def test_the_equation_may_stand_in_a_column():
    problem = Problem("p", "", "", "", "A riddle", {"equation": r"\frac{x}{2} - 1 = 4"})
    assert linear_steps(trace("x/2 = 5", box="10"), problem).value == 0.0


@given(a=st.integers(2, 12), b=st.integers(-20, 20), x=st.integers(-15, 15), slip=st.integers(1, 5))
@settings(max_examples=200)
def test_every_right_line_is_verified_and_every_slip_refuted(a: int, b: int, x: int, slip: int):
    problem = Problem("p", "", "", "", f"{a}x + {b} = {a * x + b}".replace("+ -", "- "))
    right = trace(f"{a}x = {a * x}", f"x = {a * x}/{a}", f"x = {x}", box=str(x))
    assert linear_steps(right, problem).value == 0.0
    wrong = trace(f"{a}x = {a * x + slip}", f"x = {Fraction(a * x + slip, a)}", box=str(x))
    assert [step.verdict for step in linear_steps(wrong, problem).steps] == [R, R, V]

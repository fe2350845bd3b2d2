"""Tests for rewards/steps/rewriting.py."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.arithmetic import questions, worked_solution
from cotree.grpo.config import ArithmeticTask
from cotree.grpo.config_traces import GeneratedTraces
from cotree.rewards.steps.expression import parse, value
from cotree.rewards.steps.rewriting import rewriting_steps
from cotree.rewards.types import Problem, Verdict

TASK = ArithmeticTask(type="arithmetic", operands=(2, 6), num_train=1, num_test=1)
QUESTIONS = [question.text for question in questions(TASK, "train", count=600)]
PERFECT = GeneratedTraces(type="generated")
V, R = Verdict.VERIFIED, Verdict.REFUTED


def judged(question: str, completion: str):
    return rewriting_steps(completion, Problem("p", "", "", "arithmetic", question))


def trace(*lines: str, box: str | None) -> str:
    end = "" if box is None else f"\\boxed{{{box}}}"
    return "<think>\n" + "".join(f"{line}\n" for line in lines) + "</think>\n" + end


@pytest.mark.parametrize(
    ("lines", "box", "verdicts"),
    [
        (["2+12", "14"], "14", [V, V, V]),
        (["14"], "14", [V, V]),  # two operations at once are fine
        ([], "14", [V]),  # so is the answer alone
        (["5*4", "20"], "20", [R, V, V]),  # only the wrong line; the rest follows from it
        (["2+12", "15"], "15", [V, R, V]),
        (["2+12", "14"], "15", [V, V, R]),
        (["2+3*4", "14"], "14", [R, V, V]),  # the question again: no progress
        (["2+12", "12+2", "14"], "14", [V, R, V, V]),
        (["2+12", "12+2+0", "14"], "14", [V, R, V, V]),
        (["2+12", "hence", "14"], "14", [V, R, V, V]),  # judged against the last line read
        (["2+12", "", "14"], "14", [V, R, V, V]),  # a blank line is no step forward
        (["2+12=14", "14"], "14", [R, V, V]),
        (["9^9^9", "14"], "14", [R, V, V]),
        (["2+12", "14"], "7*2", [V, V, R]),  # a box holds a number
        (["2+12", "14"], "", [V, V, R]),
    ],
)
def test_verdicts_of_a_trace_for_2_plus_3_times_4(
    lines: list[str], box: str, verdicts: list[Verdict]
):
    reward = judged("2+3*4", trace(*lines, box=box))
    assert [step.verdict for step in reward.steps] == verdicts
    assert [step.value for step in reward.steps] == [0.0 if v is V else -1.0 for v in verdicts]
    assert reward.value == (-1.0 if R in verdicts else 0.0)


def test_a_reason_shows_both_sides():
    reward = judged("3+4*2", trace("7*2", "14", box="14"))
    assert reward.steps[0].reason == "3+4*2 = 11, but 7*2 = 14"
    assert reward.reason == "1 of 3 refuted"


def test_spans_are_the_characters_of_the_lines():
    completion = trace("2+12", "", "14", box="14")
    steps = judged("2+3*4", completion).steps
    assert [completion[slice(*step.span)] for step in steps] == ["2+12", "\n", "14", r"\boxed{14}"]


@pytest.mark.parametrize(
    ("completion", "verdicts", "value"),
    [
        ("", [], -1.0),  # silence is worth no more than a mistake
        ("<think>\n2+12\n14\n</think>\n", [V, V], -1.0),  # cut before the box
        ("<think>\n2+12\n1", [V, R], -1.0),  # cut in the reasoning
        ("<think>\n2+12\n14\n</think>\nIt is 14.", [V, V, R], -1.0),
        ("2+12\n14\n</think>\n\\boxed{14}", [V, V, V], 0.0),  # the prompt opened the block
        (r"\boxed{14}", [V], 0.0),
        (r"\boxed{15}", [R], -1.0),
    ],
)
def test_completions_that_are_not_whole(completion: str, verdicts: list[Verdict], value: float):
    reward = judged("2+3*4", completion)
    assert [step.verdict for step in reward.steps] == verdicts
    assert reward.value == pytest.approx(value)


def test_more_true_lines_earn_nothing():
    short, long = (
        judged("1+2+3+4", trace("10", box="10")),
        judged("1+2+3+4", trace("3+3+4", "6+4", "10", box="10")),
    )
    assert short.value == long.value == 0.0


def test_among_wrong_chains_dropping_a_term_earns_nothing():
    # Both chains are wrong; the second skips the product and is true to itself from there on.
    honest = judged("2*3+4*3", trace("7+4*3", "7+13", "21", box="21"))
    dropper = judged("2*3+4*3", trace("6", box="6"))
    assert honest.value == dropper.value == -1.0


def test_a_question_that_is_no_expression_is_an_error_and_not_a_zero():
    with pytest.raises(ValueError, match="needs an arithmetic question"):
        judged("Natalia sold clips", trace("1", box="1"))


@given(st.sampled_from(QUESTIONS))
@settings(max_examples=200)
def test_every_line_of_a_perfect_trace_is_verified(question: str):
    solution = worked_solution(question, PERFECT, largest=20, rng=random.Random(0))
    reward = judged(question, solution)
    assert {step.verdict for step in reward.steps} == {V}
    assert solution.endswith(f"\\boxed{{{value(parse(question))}}}")


@given(st.sampled_from(QUESTIONS), st.data())
@settings(max_examples=200)
def test_a_wrong_value_is_refuted_at_its_line_and_only_there(question: str, data: st.DataObject):
    solution = worked_solution(question, PERFECT, largest=20, rng=random.Random(0))
    lines = solution.split("\n")[1:-2]
    at = data.draw(st.integers(0, len(lines) - 1))
    number = re.search("[0-9]+", lines[at])
    assert number is not None
    other = int(number[0]) + data.draw(st.integers(1, 9))
    wrong = lines[at][: number.start()] + str(other) + lines[at][number.end() :]
    if value(parse(wrong)) == value(parse(lines[at])):
        return  # a factor 0 hides the change, so the line is right after all
    # The policy goes on from what it wrote: here by giving its value at once.
    rest = [] if wrong.isdigit() else [str(value(parse(wrong)))]
    corrupted = [*lines[:at], wrong, *rest]
    reward = judged(question, trace(*corrupted, box=corrupted[-1]))
    refuted = [index for index, step in enumerate(reward.steps) if step.verdict is R]
    assert refuted == [at]

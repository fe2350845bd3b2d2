"""Tests for rewards/steps/arithmetic.py: its bars, and that nothing is earned by true lines."""

import json
import os
from pathlib import Path

import pytest
from cpu_time import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.arithmetic import arithmetic_steps
from cotree.rewards.steps.traces import generated_trace
from cotree.rewards.types import Problem, Verdict

PROBLEM = Problem("p", "", "", "test", "What is it?")


def refuted_starts(text: str, *, algebra: bool = False, question: str = "") -> list[int]:
    steps = arithmetic_steps(text, Problem("p", "", "", "", question), algebra=algebra).steps
    return [step.span[0] for step in steps if step.verdict is Verdict.REFUTED]


def test_generated_mistakes_are_found_and_clean_lines_are_not_refuted():
    wrong = caught = clean = alarms = 0
    for seed in range(400):
        trace = generated_trace(seed, num_lines=6, wrong=True)
        starts = refuted_starts(trace.text)
        for line in trace.lines:
            hit = any(line.span[0] <= start < line.span[1] for start in starts)
            wrong += line.wrong
            caught += line.wrong and hit
            clean += not line.wrong
            alarms += hit and not line.wrong
    assert wrong == 400
    assert clean > 2000
    assert caught / wrong >= 0.9
    assert alarms / clean <= 0.005


@pytest.mark.parametrize("algebra", [False, True])
@pytest.mark.parametrize(
    ("file", "field", "rows"),
    [("gsm8k/train.jsonl", "answer", 700), ("math500/test.jsonl", "solution", 500)],
)
def test_solutions_by_people_are_hardly_ever_refuted(
    file: str, field: str, rows: int, algebra: bool
):
    folder = os.environ.get("COTREE_DATA")
    if not folder:
        pytest.skip("set COTREE_DATA to a folder with gsm8k/ and math500/ to measure on them")
    texts = [json.loads(line)[field] for line in Path(folder, file).read_text().splitlines()]
    lines = sum(len([line for line in text.split("\n") if line]) for text in texts[:rows])
    alarms = sum(len(refuted_starts(text, algebra=algebra)) for text in texts[:rows])
    assert alarms / lines <= 0.005


@given(
    seed=st.integers(0, 10_000), wrong=st.booleans(), copies=st.integers(1, 30), front=st.booleans()
)
@settings(max_examples=60)
def test_true_equations_never_raise_the_value(seed: int, wrong: bool, copies: int, front: bool):
    text = generated_trace(seed, num_lines=4, wrong=wrong).text
    padding = "1 = 1\n2 + 2 = 4\n" * copies
    padded = padding + text if front else text + padding
    for algebra in (False, True):
        before = arithmetic_steps(text, PROBLEM, algebra=algebra)
        after = arithmetic_steps(padded, PROBLEM, algebra=algebra)
        assert after.value <= before.value <= 0.0
        assert all(step.value <= 0.0 for step in after.steps)


def test_share_is_diluted_by_true_lines_and_min_is_not():
    # Documented: this is what `min` is for.
    text = "2 + 2 = 5\n"
    padded = text + "2 + 2 = 4\n" * 3
    assert arithmetic_steps(text, PROBLEM, form="share").value == -1.0
    assert arithmetic_steps(padded, PROBLEM, form="share").value == -0.25
    assert arithmetic_steps(padded, PROBLEM, form="min").value == -1.0
    assert arithmetic_steps("2 + 2 = 4\n" * 9, PROBLEM, form="share").value == 0.0


def test_an_annotation_and_the_equality_around_it_are_one_step():
    completion = "He has 48/2 = <<48/2=24>>25 clips"
    (step,) = arithmetic_steps(completion, PROBLEM).steps
    assert completion[slice(*step.span)] == "48/2 = <<48/2=24>>25"
    assert (step.verdict, step.left, step.right) == (Verdict.REFUTED, "48/2", "25")


@given(st.text(alphabet="0123456789+-*/=^().,$%\\{}<>x \né我&!?", max_size=150), st.booleans())
@settings(max_examples=200)
def test_any_text_gives_disjoint_steps_inside_it(text: str, algebra: bool):
    end = 0
    for step in arithmetic_steps(text, PROBLEM, algebra=algebra).steps:
        assert end <= step.span[0] < step.span[1] <= len(text)
        end = step.span[1]


@pytest.mark.parametrize("question", ["Let a * b = 2a + b.", "The operation # is defined so."])
def test_a_question_that_defines_an_operation_leaves_nothing_to_judge(question: str):
    assert refuted_starts("3 * 4 = 10", question=question) == []
    assert refuted_starts("3 * 4 = 10") == [0]


def test_an_unknown_form_is_refused():
    with pytest.raises(ValueError, match="'sum' is not"):
        arithmetic_steps("1+1=2", PROBLEM, form="sum")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    "text",
    [
        "9^9^9 = 1\n" * 3000,
        "1 + " * 30_000 + "= 1",
        "(" * 30_000 + "1 = 1",
        "1 = " * 20_000,
        r"\frac{1}{" * 5000 + " = 2",
        "x = 1\n" * 8000,
        "2x + 1 = 3\n" * 5000,
        "<<1=2>>" * 8000,
    ],
)
def test_hostile_texts_are_judged_in_seconds(text: str):
    assert cpu_seconds(lambda: arithmetic_steps(text, PROBLEM, algebra=True)) < 10.0

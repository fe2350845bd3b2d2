"""Tests for rewards/steps/countdown.py."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.countdown import countdown
from cotree.rewards.types import Problem, Status, Verdict

V, R, U = Verdict.VERIFIED, Verdict.REFUTED, Verdict.UNCHECKED


def problem(numbers: object = (25, 5, 3, 7), target: object = 60) -> Problem:
    return Problem("p", "", "", "countdown", "", {"numbers": numbers, "target": target})


def trace(*lines: str, box: str) -> str:
    return "<think>\n" + "".join(f"{line}\n" for line in lines) + f"</think>\n\\boxed{{{box}}}"


@pytest.mark.parametrize(
    ("lines", "box", "verdicts", "value"),
    [
        (["25 - 5 = 20", "20 * 3 = 60"], "(25 - 5) * 3", [V, V, V], 1.0),
        ([], "(25 - 5) * 3", [V], 1.0),
        (["25 - 5 = 21", "20 * 3 = 60"], "(25 - 5) * 3", [R, R, V], 0.0),  # 20 is not left
        (["25 - 5 = 20", "20 * 3 = 61"], "(25 - 5) * 3", [V, R, V], 0.0),
        (["25 + 25 = 50"], "(25 - 5) * 3", [R, V], 0.0),  # there is one 25
        (["4 * 15 = 60"], "(25 - 5) * 3", [R, V], 0.0),
        (["25 - 5 = 20", "20 * 3 = 60"], "25 + 5 * 7", [V, V, V], 1.0),  # another way
        (["25 - 5 = 20", "20 * 3 = 60"], "60", [V, V, R], -1.0),  # 60 is not given
        (["25 - 5 = 20"], "(25 - 5) * 3 + 7", [V, R], -1.0),
        (["25 * 3 = 75", "75 - 5 = 70", "25 - 5 = 20"], "(25-5)*3", [V, V, V, V], 1.0),
        (["First 25 - 5 = 20, good.", "Hm, what now?"], "(25-5)*3 = 60", [V, V], 1.0),
        (["25 = 20 + 5"], "(25 - 5) * 3", [U, V], 1.0),
        (["25 / 7 = 3.57"], "(25 - 5) * 3", [R, V], 0.0),  # exact arithmetic only
    ],
)
def test_verdicts_for_60_from_25_5_3_7(
    lines: list[str], box: str, verdicts: list[Verdict], value: float
):
    reward = countdown(trace(*lines, box=box), problem())
    assert [step.verdict for step in reward.steps] == verdicts
    assert reward.value == value


@pytest.mark.parametrize(
    "answer",
    [
        "25 + 25 + 7 + 3",  # a number used twice
        "60",
        r"\frac12 + 60",
        "25 - 5",
        "2 5 + 5 * 7",
        "5^2 + 5 * 7",
        "3! * 7 + 25 - 7",
        "6000%",
        "25 + 5 * x",
        "__import__('os').getcwd()",
        "(" * 500,
        "9**9**9",
        "25/(5-5)",
        "",
    ],
)
def test_no_solution_earns_anything(answer: str):
    assert countdown(trace(box=answer), problem()).value == -1.0


def test_silence_is_worth_no_more_than_a_mistake():
    reward = countdown("", problem())
    assert (reward.value, reward.status) == (-1.0, Status.NO_ANSWER)


def test_all_numbers_must_be_used_only_on_demand():
    completion = trace(box="(25 - 5) * 3")
    assert countdown(completion, problem()).value == 1.0
    assert countdown(completion, problem(), use_all=True).value == -1.0
    assert countdown(trace(box="(25-5)*3"), problem((25, 5, 3)), use_all=True).value == 1.0


def test_steps_can_be_demanded():
    assert countdown(trace(box="(25-5)*3"), problem(), steps_required=True).value == 0.0
    shown = trace("25 - 5 = 20", box="(25-5)*3")
    assert countdown(shown, problem(), steps_required=True).value == 1.0


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({}, "needs the columns"),
        ({"numbers": "25 5", "target": 60}, "must be a list"),
        ({"numbers": [25, None], "target": 60}, "None is no number"),
        ({"numbers": [25, "five"], "target": 60}, "'five' is no number"),
        ({"numbers": [], "target": 60}, "0 numbers"),
        ({"numbers": [25], "target": True}, "True is no number"),
        ({"numbers": [25], "target": float("nan")}, "nan is no number"),
    ],
)
def test_rows_that_cannot_be_used_are_errors(columns: Mapping[str, object], message: str):
    with pytest.raises(ValueError, match=message):
        countdown("", Problem("p", "", "", "countdown", "", columns))


@given(st.integers(0, 10_000))
@settings(max_examples=200, derandomize=True, deadline=None)
def test_recall_and_false_alarms_on_random_games(seed: int):
    rng = random.Random(seed)
    numbers = [rng.randrange(1, 30) for _ in range(4)]
    left = [(number, str(number)) for number in numbers]
    lines: list[str] = []
    for _ in range(3):
        rng.shuffle(left)
        (a, x), (b, y), *rest = left
        operator = rng.choice("+-*")
        result = {"+": a + b, "-": a - b, "*": a * b}[operator]
        lines.append(
            f"{a} {operator} {b} = {result}" if b >= 0 else f"{a} {operator} ({b}) = {result}"
        )
        left = [(result, f"({x} {operator} {y})"), *rest]
    ((target, answer),) = left
    game = problem(numbers, target)
    clean = countdown(trace(*lines, box=answer), game, use_all=True)
    assert clean.value == 1.0
    assert {step.verdict for step in clean.steps} == {V}
    at = rng.randrange(3)
    wrong = lines.copy()
    wrong[at] = wrong[at].rpartition("=")[0] + f"= {target * 3 + 1000 + at}"
    false = countdown(trace(*wrong, box=answer), game)
    assert false.value == 0.0
    assert false.steps[at].verdict is R


def test_a_number_of_an_equality_nobody_could_read_is_not_refuted():
    # 20 is "half of 40" here; the rule cannot know, and says so.
    reward = countdown(trace("half of 40 = 20", "20 * 3 = 60", box="(25-5)*3"), problem())
    assert [step.verdict for step in reward.steps] == [U, U, V]

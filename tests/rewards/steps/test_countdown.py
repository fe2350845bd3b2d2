"""Tests for rewards/steps/countdown.py."""

import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.registry import Term, bound
from cotree.rewards.steps.countdown import (
    check_game,
    countdown,
    countdown_answer,
    countdown_steps,
)
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
@settings(max_examples=200)
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


@pytest.mark.parametrize(
    ("answer", "use_all", "value", "reason"),
    [
        ("(25 - 5) * 3", False, 1.0, "solved (boxed)"),
        (r"(25 - 5) \times 3 = 60", False, 1.0, "solved (boxed)"),
        ("(25 - 5) * 3", True, 0.0, "7 is not used (boxed)"),
        ("25 + 5 * 7", False, 1.0, "solved (boxed)"),
        ("60", False, 0.0, "60 is not given, or used too often (boxed)"),
        ("25 + 25 + 7 + 3", False, 0.0, "25 is not given, or used too often (boxed)"),
        ("25 - 5", False, 0.0, "the answer is 20, the target 60 (boxed)"),
    ],
)
def test_the_outcome_alone_is_one_for_a_solution(
    answer: str, use_all: bool, value: float, reason: str
):
    reward = countdown_answer(rf"\boxed{{{answer}}}", problem(), use_all=use_all)
    assert (reward.value, reward.reason, reward.steps) == (value, reason, ())
    assert reward.status is Status.OK


@pytest.mark.parametrize("answer", ["25 + 5 * x", "5^2", "3!", "(25", "25/(5-5)", "9**9**9"])
def test_the_outcome_of_what_is_no_expression_is_a_parse_error(answer: str):
    reward = countdown_answer(rf"\boxed{{{answer}}}", problem())
    assert (reward.value, reward.status) == (0.0, Status.PARSE_ERROR)


def test_false_lines_before_a_solution_do_not_change_the_outcome():
    completion = trace("25 - 5 = 21", "4 * 15 = 60", box="(25 - 5) * 3")
    assert countdown_answer(completion, problem()).value == 1.0


def test_the_outcome_has_an_extraction():
    assert countdown_answer("(25 - 5) * 3", problem()).status is Status.NO_ANSWER
    assert countdown_answer("(25 - 5) * 3", problem(), extraction="lenient").value == 1.0
    with pytest.raises(ValueError, match="unknown extraction rules"):
        countdown_answer("1", problem(), extraction="last")


def test_the_outcome_is_found_by_name_and_its_games_are_checked_before_a_run():
    reward = bound(Term("countdown_answer", options={"use_all": True}))
    assert reward.fn is countdown_answer
    assert reward.check is check_game
    check_game(problem())
    with pytest.raises(ValueError, match="'five' is no number"):
        check_game(problem(numbers=[25, "five"]))


def test_the_work_is_judged_without_target_and_answer():
    task = Problem("p", "", "", "countdown", "", {"numbers": ["25", "5", "3"]})
    right = countdown_steps(trace("25 - 5 = 20", "20 * 3 = 60", box="1 + 1"), task)
    assert (right.value, [step.verdict for step in right.steps]) == (0.0, [V, V])
    wrong = countdown_steps(trace("25 - 5 = 20", "20 * 3 = 61", box="(25 - 5) * 3"), task)
    assert (wrong.value, [step.verdict for step in wrong.steps]) == (-1.0, [V, R])
    assert wrong.reason == "1 lines verified, 1 refuted, 0 unchecked"
    assert countdown_steps("", task).value == 0.0
    with pytest.raises(ValueError, match="Add 'numbers' to the data set"):
        countdown_steps("", Problem("p", "", "", "countdown"))


def test_an_answer_that_begins_with_an_equals_sign_is_the_policys_fault():
    # It once crashed the grader, which masks a rollout instead of calling it wrong.
    game = Problem("p", "", "9", "countdown", "", {"numbers": [2, 15, 4], "target": 9})
    found = countdown_answer(r"\boxed{=2-(15-4)}", game)
    assert (found.value, found.status) == (0.0, Status.PARSE_ERROR)

"""Tests for rewards/olympiad.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.olympiad import MAX_ANSWERS, check_problem, olympiad_equal, several
from cotree.rewards.registry import Term, bound
from cotree.rewards.types import Problem, Status


def problem(*answers: str, tolerance: object = None) -> Problem:
    columns: dict[str, object] = {} if len(answers) == 1 else {"answers": list(answers)}
    if tolerance is not None:
        columns["tolerance"] = tolerance
    return Problem("p", "", ", ".join(answers), "olympiad", "", columns)


def value(asked: Problem, answer: str) -> float:
    return olympiad_equal(rf"so \boxed{{{answer}}}", asked).value


def test_it_is_found_by_its_name_and_checks_problems():
    reward = bound(Term("olympiad", options={"extraction": "lenient"}))
    assert reward.fn is olympiad_equal
    assert reward.check is check_problem


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("1, -6-4\\sqrt{2}", 1.0),
        ("-6-4\\sqrt{2}, 1", 1.0),
        (r"1 \text{ and } -6-4\sqrt2", 1.0),
        (r"1 \text{ or } -6-4\sqrt2", 1.0),
        (r"\{1, -(6+\sqrt{32})\}", 1.0),
        ("1", 0.0),
        ("1, 2", 0.0),
        ("1, 1", 0.0),
        ("1, -6-4\\sqrt{2}, 3", 0.0),
    ],
)
def test_all_answers_must_be_given_in_any_order(answer: str, right: float):
    assert value(problem("1", "-6-4\\sqrt{2}"), answer) == right


def test_several_boxes_are_one_list():
    asked = problem("69", "84")
    assert olympiad_equal(r"$\boxed{84}$ and $\boxed{69}$", asked).value == 1.0


def test_points_are_answers_with_an_order_of_their_own():
    asked = problem("(1,2)", "(3,4)")
    assert value(asked, "(3,4), (1,2)") == 1.0
    assert value(asked, "(2,1), (3,4)") == 0.0
    assert value(asked, "1, 2, 3, 4") == 0.0


def test_one_answer_is_no_choice_of_two():
    assert value(problem("2"), r"2 \text{ or } 3") == 0.0
    assert value(problem("2", tolerance="1e-1"), r"2 \text{ or } 3") == 0.0


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("18.8", 1.0),
        ("18.9", 1.0),  # the tolerance itself is still within
        ("18.7^{\\circ}", 1.0),
        ("x = 18.85", 1.0),
        (r"18.85\text{ degrees}", 1.0),
        (r"\frac{377}{20}", 1.0),  # 18.85
        (r"6\pi", 1.0),  # 18.849...
        ("18.901", 0.0),
        ("18", 0.0),
        ("x", 0.0),
        ("(18.8, 1)", 0.0),
    ],
)
def test_numbers_may_be_off_by_the_tolerance(answer: str, right: float):
    assert value(problem("18.8^{\\circ}", tolerance="1e-1"), answer) == right


def test_the_tolerance_is_absolute():
    assert value(problem("1000", tolerance=0.5), "1000.5") == 1.0
    assert value(problem("0.1", tolerance=0.5), "0.6") == 1.0
    assert value(problem("1000", tolerance=0.5), "1000.6") == 0.0


def test_without_a_tolerance_numbers_are_equal_as_for_the_reward_math():
    assert value(problem("1/3"), "0.333333") == 1.0
    assert value(problem("1/3"), "0.333") == 0.0


def test_a_tolerance_does_nothing_for_expressions_and_never_harms():
    assert value(problem("2n", tolerance="1e-1"), "n+n") == 1.0
    assert value(problem("2n", tolerance="1e-1"), "2n+0.01") == 0.0


def test_each_answer_has_the_tolerance_at_its_place():
    asked = problem("7.5", "0.25", tolerance="1e-1, 1e-3")
    assert value(asked, "7.41, 0.2509") == 1.0
    assert value(asked, "0.2509, 7.41") == 1.0
    assert value(asked, "7.5, 0.26") == 0.0
    one_for_all = problem("7.5", "0.25", tolerance="1e-1")
    assert value(one_for_all, "7.41, 0.33") == 1.0


def test_answers_closer_than_the_tolerance_are_matched_if_there_is_a_way():
    # 1.0 is near both; taken by the first answer, it would leave nothing for the second.
    asked = problem("1.05", "0.95", tolerance="0.06")
    assert value(asked, "1.0, 1.1") == 1.0
    assert value(asked, "1.1, 1.0") == 1.0
    assert value(asked, "1.1, 1.09") == 0.0


@pytest.mark.parametrize(
    ("completion", "reason", "status"),
    [
        (r"\boxed{3}", "match (boxed, exact)", Status.OK),
        (r"\boxed{3.05}", "match (boxed, tolerance)", Status.OK),
        (r"\boxed{4}", "mismatch (boxed)", Status.OK),
        (r"\boxed{\frac{3}{}", "no_answer", Status.NO_ANSWER),
        (r"\boxed{3 +}", "unreadable (boxed)", Status.PARSE_ERROR),
        ("no idea", "no_answer", Status.NO_ANSWER),
    ],
)
def test_reasons_and_statuses(completion: str, reason: str, status: Status):
    reward = olympiad_equal(completion, problem("6/2", tolerance=0.1), extraction="boxed")
    assert (reward.reason, reward.status) == (reason, status)


def test_the_extraction_is_an_option():
    assert olympiad_equal("The answer is 3.", problem("3"), extraction="boxed").value == 0.0
    assert olympiad_equal("The answer is 3.", problem("3")).value == 1.0
    assert olympiad_equal("3", problem("3"), extraction="lenient").value == 1.0
    with pytest.raises(ValueError, match="unknown extraction rules"):
        olympiad_equal("3", problem("3"), extraction="last")


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("$69$,$84$", ["69", "84"]),
        ("$(0,2),(0,-2)$", ["(0,2)", "(0,-2)"]),
        (r"$\frac{1}{2}, \left(\sqrt[3]{2}, 1\right]$", [r"\frac{1}{2}", r"(\sqrt[3]{2}, 1]"]),
        ("x = 1; x = 2", ["x = 1", "x = 2"]),
        (r"x=1 \quad\text{or}\quad x=2", ["x=1", "x=2"]),
        ("1, 2, and 3", ["1", "2", "3"]),
        (r"\{1, 2\}", ["1", "2"]),
        (r"\{1\}, \{2\}", [r"\{1\}", r"\{2\}"]),
        ("41352,42351", ["41352", "42351"]),
        ("sand", ["sand"]),
        ("2)", ["2)"]),
        (",", []),
        ("", []),
    ],
)
def test_answers_side_by_side_are_told_apart(text: str, answers: list[str]):
    assert several(text) == answers


def test_answers_that_are_no_mathematics_are_compared_as_text():
    asked = problem(r"all $a$ with $\mho(a)=0$")
    check_problem(asked)
    assert value(asked, r"All $a$ with $\mho(a)=0$") == 1.0
    assert value(asked, r"all $a$ with $\mho(a)=1$") == 0.0


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (problem(""), "an answer is blank"),
        (problem("1", " "), "an answer is blank"),
        (problem("1", tolerance="1e-1,1e-1"), "2 tolerances for 1 answers"),
        (problem("1", tolerance="small"), "`tolerance` is 'small'; write numbers"),
        (problem("1", tolerance=True), "`tolerance` is True; give a number"),
        (problem("1", tolerance=-0.1), "cannot be negative"),
        (problem("1", tolerance="1/0"), "write numbers"),
        (problem("1", tolerance=float("nan")), "write numbers"),
        (Problem("p", "", "1", "t", columns={"answers": "1, 2"}), "must be a list"),
        (Problem("p", "", "1", "t", columns={"answers": []}), f"1 to {MAX_ANSWERS} texts"),
        (Problem("p", "", "1", "t", columns={"answers": [1, 2]}), f"1 to {MAX_ANSWERS} texts"),
    ],
)
def test_problems_that_cannot_be_graded_are_refused_before_a_run(asked: Problem, says: str):
    with pytest.raises(ValueError, match=says):
        check_problem(asked)


@given(st.text("0123456789,;()[]{}$\\ andor.x/^-", max_size=60))
@settings(max_examples=300)
def test_no_text_makes_it_fail(text: str):
    asked = problem("1", "(2,3)", tolerance="1e-1")
    reward = olympiad_equal(text, asked, extraction="lenient")
    assert reward.value in (0.0, 1.0)
    assert all(several(text))


def test_long_answers_take_little_time():
    asked = problem(*map(str, range(MAX_ANSWERS)), tolerance="0.5")
    assert value(asked, ", ".join("1" for _ in range(MAX_ANSWERS))) == 0.0
    assert value(asked, "(" * 5_000) == 0.0
    assert value(asked, "1," * 5_000) == 0.0

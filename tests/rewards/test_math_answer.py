"""Tests for rewards/math_answer.py."""

import threading
import time

import pytest

from cotree.rewards.math_answer import check_problem, math_equal
from cotree.rewards.registry import resolve
from cotree.rewards.types import Problem, Reward, Status


def problem(reference: str) -> Problem:
    return Problem("p", "", reference, "test")


@pytest.mark.parametrize(
    ("completion", "reference", "value", "reason", "status"),
    [
        (r"<think>1+1</think>\boxed{2}", "2", 1.0, "match (boxed, text)", Status.OK),
        (r"\boxed{\frac{4}{2}}", "2", 1.0, "match (boxed, exact)", Status.OK),
        (
            r"\boxed{\frac{\sqrt3}{3}}",
            r"\frac{1}{\sqrt3}",
            1.0,
            "match (boxed, symbolic)",
            Status.OK,
        ),
        ("The answer is x > 5.", r"(5, \infty)", 1.0, "match (phrase, interval)", Status.OK),
        (r"\boxed{3}", "2", 0.0, "mismatch (boxed)", Status.OK),
        (r"\boxed{\foo{}", "2", 0.0, "no_answer", Status.NO_ANSWER),
        (r"\boxed{\foo}", "2", 0.0, "unreadable (boxed)", Status.PARSE_ERROR),
        (r"\boxed{}", "0", 0.0, "no_answer", Status.NO_ANSWER),
        ("I counted 42 sheep", "42", 0.0, "no_answer", Status.NO_ANSWER),
    ],
)
def test_value_reason_and_status(
    completion: str, reference: str, value: float, reason: str, status: Status
):
    assert math_equal(completion, problem(reference)) == Reward(value, reason, status=status)


def test_lenient_extraction_reads_what_anchored_does_not():
    assert math_equal("$x = 2$", problem("2")).status is Status.NO_ANSWER
    assert math_equal("$x = 2$", problem("2"), extraction="lenient").value == 1.0
    assert math_equal("#### 2", problem("2"), extraction="boxed, hashes").value == 1.0
    assert math_equal("#### 2", problem("2"), extraction="boxed").value == 0.0


def test_an_unknown_rule_is_an_error():
    with pytest.raises(ValueError, match="unknown extraction rules"):
        math_equal("2", problem("2"), extraction="any_number")


@pytest.mark.parametrize("reference", ["", r"\foo", r"\frac{1}{"])
def test_an_unreadable_reference_is_refused_before_the_run(reference: str):
    with pytest.raises(ValueError, match="reference"):
        check_problem(problem(reference))


def test_the_check_is_attached_to_the_reward():
    assert getattr(resolve("math"), "check_problem", None) is check_problem
    check_problem(problem(r"\frac{1}{2}"))


def test_hostile_answers_are_wrong_at_once_in_any_thread():
    hostile = ["9^{9^{9}}", "9**9**9", "(10^9)!", r"\binom{10^9}{5\cdot10^8}", "9" * 200_000]
    hostile += [r"\prod_{k=1}^{10^9} k", "(" * 3000 + "1" + ")" * 3000, "1+" * 20_000 + "1"]
    hostile += ["x^{" * 800 + "}" * 800, "1," * 20_000 + "1", "{" * 5000 + "}" * 5000]
    results: list[tuple[str, float, float]] = []

    def grade() -> None:
        for answer in hostile:
            start = time.perf_counter()
            value = math_equal(rf"\boxed{{{answer}}}", problem("12")).value
            results.append((answer[:20], value, time.perf_counter() - start))

    thread = threading.Thread(target=grade)
    thread.start()
    thread.join()
    assert len(results) == len(hostile)
    assert [r for r in results if r[1] != 0.0 or r[2] > 2.0] == []

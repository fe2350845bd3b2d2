"""Tests for rewards/peers.py, inside the killable worker where it belongs."""

from collections.abc import Iterator

import pytest

from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.types import Failure, Problem, Reward, Status, Ungraded


@pytest.fixture(scope="module")
def pool() -> Iterator[IsolatedPool]:
    terms = [Term("cotree.rewards.peers:math_verify_equal")]
    with IsolatedPool(terms, workers=1, timeout_seconds=3, memory_bytes=2 << 30) as running:
        yield running


def grade(pool: IsolatedPool, completion: str, reference: str) -> Reward | Ungraded:
    (result,) = pool.grade_many([(completion, Problem("p", "", reference, "test"))])
    return result


@pytest.mark.parametrize(
    ("found", "reference", "value", "reason"),
    [
        ("14", "14", 1.0, "match (boxed)"),
        (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}", 1.0, "match (boxed)"),
        (r"50\%", "0.5", 1.0, "match (boxed)"),  # needs the ANTLR runtime 4.13
        ("15", "14", 0.0, "mismatch (boxed)"),
        ("2x+3", "2(x+1)", 0.0, "mismatch (boxed)"),
    ],
)
def test_verdicts_of_math_verify(
    pool: IsolatedPool, found: str, reference: str, value: float, reason: str
):
    result = grade(pool, rf"\boxed{{{found}}}", reference)
    assert isinstance(result, Reward), result
    assert result.value == value
    assert result.reason.endswith(f"={reason}")


def test_no_answer_is_wrong_without_parsing_anything(pool: IsolatedPool):
    result = grade(pool, "I do not know", "14")
    assert isinstance(result, Reward)
    assert (result.value, result.status) == (0.0, Status.NO_ANSWER)


def test_a_power_tower_costs_one_timeout_and_no_zero(pool: IsolatedPool):
    result = grade(pool, r"\boxed{9^{9^{9^{9}}}}", "14")
    assert isinstance(result, Ungraded), result
    assert result.failure in (Failure.TIMEOUT, Failure.CRASH)
    after = grade(pool, r"\boxed{14}", "14")
    assert isinstance(after, Reward)
    assert after.value == 1.0


def test_an_unreadable_reference_is_the_data_sets_fault(pool: IsolatedPool):
    result = grade(pool, r"\boxed{14}", "   ")
    assert isinstance(result, Ungraded)
    assert "math-verify cannot read the reference" in result.reason

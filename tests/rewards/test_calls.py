"""Tests for rewards/calls.py: what one call does to its arguments, no other call sees."""

from collections.abc import Sequence

import pytest

from cotree.rewards.calls import Caller
from cotree.rewards.plan import Call
from cotree.rewards.signature import bind
from cotree.rewards.types import Failure, Problem, Reward, RewardFn, Ungraded, checked_by


def spoil(problem: Problem) -> float:
    """How much an earlier call has left in the problem; leaves something there."""
    tests = problem.columns["tests"]
    assert isinstance(tests, list)
    assert isinstance(problem.columns, dict)
    found = len(tests) + len(problem.columns)
    tests.append("mine")
    problem.columns["mine"] = 1
    return float(found)


def one(completion: str, problem: Problem) -> float:
    return spoil(problem)


async def later(completion: str, problem: Problem) -> float:
    return spoil(problem)


def together(completions: Sequence[str], problems: Sequence[Problem]) -> list[float]:
    return [spoil(problem) for problem in problems]


def argument(completion: str, tests: list[str]) -> float:
    tests.append("mine")
    return float(len(tests))


@pytest.mark.parametrize(("fn", "value"), [(one, 2), (later, 2), (together, 2), (argument, 2)])
def test_a_function_that_edits_the_problem_edits_a_copy(fn: RewardFn, value: float):
    problem = Problem("p", "", "", "test", columns={"tests": ["first"]})
    reward = bind(fn, {})
    caller = Caller([reward], fatal=())
    # Completions of one problem share its object, in a batch and from one call to the next.
    items = [("a", problem), ("b", problem)]
    calls = [Call(0, (0, 1))] if reward.is_grouped else [Call(0, (0,)), Call(0, (1,))]
    for call in (*calls, *calls):
        outcomes = caller.outcomes(call, items, timeout_seconds=5.0)
        assert outcomes is not None
        assert [o.value for o in outcomes if isinstance(o, Reward)] == [value] * len(call.items)
    assert problem.columns == {"tests": ["first"]}
    caller.close()


def test_columns_that_cannot_be_copied_fail_the_item_alone():
    broken = Problem("p", "", "", "test", columns={"tests": (x for x in "x")})
    items = [("a", broken), ("b", Problem("q", "", "", "test", columns={"tests": []}))]
    for fn in (argument, later, together):
        caller = Caller([bind(fn, {})], fatal=())
        (bad,) = caller.outcomes(Call(0, (0,)), items, timeout_seconds=5.0) or []
        (good,) = caller.outcomes(Call(0, (1,)), items, timeout_seconds=5.0) or []
        assert isinstance(bad, Ungraded)
        assert bad.failure is Failure.CRASH
        assert isinstance(good, Reward)
        caller.close()


def check(problem: Problem, *, options: dict[str, object], timeout_seconds: float | None) -> None:
    problem.columns["tests"].append("mine")  # pyright: ignore - a list, see below
    raise ValueError(f"{options} {timeout_seconds} {problem.columns['tests']}")


@checked_by(check)
def checked(completion: str, *, limit: int) -> float:
    return float(limit)


def test_a_check_may_ask_for_the_options_and_the_time_limit():
    problem = Problem("p", "", "", "test", columns={"tests": []})
    caller = Caller([bind(checked, {"limit": 3})], fatal=())
    for _ in range(2):
        (found,) = caller.outcomes(Call(0, (0,), True), [("", problem)], timeout_seconds=5.0) or []
        assert found == Ungraded(Failure.INVALID, "{'limit': 3} 5.0 ['mine']")

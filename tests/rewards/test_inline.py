"""Tests for rewards/inline.py, and through it of rewards/calls.py without a process around."""

import asyncio
import os
import threading
from pathlib import Path

import pytest

from cotree.rewards.inline import InlineRewards
from cotree.rewards.outcomes import Outcome
from cotree.rewards.plan import CHUNK_ITEMS
from cotree.rewards.registry import Term
from cotree.rewards.types import GraderError, Problem, Reward

PROBLEM = Problem("p", "", "1", "test")
SIZES: list[int] = []
RUNNING: list[int] = []


def single(completion: str) -> float:
    if completion == "exit":
        raise SystemExit(3)
    if completion == "stop":
        raise KeyboardInterrupt
    return float(completion)


async def slow(completion: str) -> float:
    RUNNING.append(len(asyncio.all_tasks()))
    await asyncio.sleep(0.01 if completion == "1" else 0.001)  # the first answers last
    return float(completion)


def batch(completions: list[str]) -> list[float]:
    SIZES.append(len(completions))
    if "down" in completions:
        raise GraderError("no server")
    return [float(completion) for completion in completions]


async def slow_batch(completions: list[str]) -> list[float]:
    await asyncio.sleep(0.001)
    return batch(completions)


def too_few(completions: list[str]) -> list[float]:
    return [1.0] * (len(completions) - 1)


def generator(completions: list[str]):
    return (1.0 for _ in completions)


def awaitable(completion: str):
    return slow(completion)


@pytest.fixture
def run():
    opened: list[InlineRewards] = []

    def graded(function, *texts: str) -> list[float | str | None]:
        rewards = InlineRewards([Term(f"{__name__}:{function.__name__}")])
        opened.append(rewards)
        return [shown(found) for (found,) in rewards.outcomes([(t, PROBLEM) for t in texts])]

    yield graded
    for rewards in opened:
        rewards.close()


def shown(found: Outcome) -> float | str | None:
    if found is None or isinstance(found, Reward):
        return found and found.value
    return f"{found.failure}: {found.reason}"


@pytest.mark.parametrize("function", [single, slow, batch, slow_batch])
def test_every_form_keeps_order_and_length(run, function):
    count = 2 * CHUNK_ITEMS + 3
    assert run(function, *map(str, range(count))) == [float(i) for i in range(count)]
    assert run(function) == []


@pytest.mark.parametrize("function", [single, slow, batch, slow_batch])
def test_an_exception_is_that_items_alone(run, function):
    first, second, third = run(function, "1", "x", "3")
    assert (first, third) == (1.0, 3.0)
    assert "crash: ValueError: could not convert string to float: 'x'" in second


def test_async_calls_of_a_chunk_run_side_by_side(run):
    RUNNING.clear()
    run(slow, *map(str, range(10)))
    assert max(RUNNING) >= 10


def test_one_event_loop_serves_all_calls():
    loops: list[int] = []

    async def remember(completion: str) -> float:
        loops.append(id(asyncio.get_running_loop()))
        return 1.0

    globals()["remember"] = remember
    rewards = InlineRewards([Term(f"{__name__}:remember")])
    for _ in range(2):
        rewards.outcomes([("", PROBLEM)])
    rewards.close()
    assert len(set(loops)) == 1


def test_a_batch_that_cannot_grade_is_not_tried_again_item_by_item(run):
    SIZES.clear()
    assert all("GraderError: no server" in found for found in run(batch, "1", "down"))
    assert SIZES == [2]


def test_a_batch_of_the_wrong_length_has_no_valid_item(run):
    for found in run(too_few, "1", "2", "3"):
        assert "invalid: it returned 2 rewards in a list for 3 completions" in found
    for found in run(generator, "1", "2"):
        assert "a batch function returns a list" in found


def test_an_awaitable_from_a_plain_function_is_invalid(run):
    (found,) = run(awaitable, "1")
    assert "declare the function `async def`" in found


def test_exits_are_caught_and_the_users_interrupt_is_not(run):
    assert "SystemExit: 3" in run(single, "exit")[0]
    with pytest.raises(KeyboardInterrupt):
        run(single, "stop")


def test_it_runs_in_this_process_and_thread(tmp_path: Path):
    (tmp_path / "here.py").write_text(
        "import os, threading\n"
        "def here(completion): return [os.getpid(), threading.get_ident()][int(completion)]\n"
    )
    rewards = InlineRewards([Term(f"{tmp_path}/here.py:here")])
    found = [found.value for (found,) in rewards.outcomes([("0", PROBLEM), ("1", PROBLEM)])]
    assert found == [float(os.getpid()), float(threading.get_ident())]

"""Completions graded one at a time in killable children, with the time the function itself took.

Seen from the parent, a fast grader's time is mostly that of two processes talking. So the child
runs a reward function that calls the other one and sends the seconds along.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.outcomes import outcome, short
from cotree.rewards.registry import SourceFile, Term, resolve
from cotree.rewards.signature import BoundReward, Item, bind
from cotree.rewards.types import Problem, Reward, RewardFn, Ungraded

_NAME = "stopwatch.py:timed"


def graded_one_by_one(
    term: Term,
    items: Sequence[Item],
    *,
    workers: int,
    timeout_seconds: float,
    memory_bytes: int,
) -> Generator[tuple[Reward | Ungraded, float]]:
    """Result and seconds of each item, in the order given; close it to stop early.

    The seconds are the function's own where it returned a reward; else, as when it was killed,
    they are those until the parent knew. A reward with a check of problems has made it before, as
    in a run; what it refused is graded all the same, and the reason says so.

    Args:
        term: the reward; its weight plays no part.
        items: graded one at a time by each child, so that no item's time is another's.
        workers: children; more than one disturb each other's times.
        timeout_seconds: wall-clock limit of one item.
        memory_bytes: address-space limit of one child.

    Raises:
        WorkerStartError: there is no such reward, it does not take the options, or its import
            fails.
    """
    # A file that exists as text only, run when a child starts: importing the reward must not be
    # part of the first completion's time.
    call = json.dumps([term.name, dict(term.options)])
    text = (
        "import json\nfrom cotree.rewards.stopwatch import timer\n"
        f"timed = timer(*json.loads({call!r}))\n"
    )
    stopwatch = Term(_NAME, source=SourceFile("stopwatch.py", text))
    # The pool is closed first: an interrupted command must not wait for a call in flight.
    with (
        ThreadPoolExecutor(workers) as threads,
        IsolatedPool(
            [stopwatch],
            workers=workers,
            timeout_seconds=timeout_seconds,
            memory_bytes=memory_bytes,
        ) as pool,
    ):

        def graded(item: Item) -> tuple[Reward | Ungraded, float]:
            started = time.perf_counter()
            (result,) = pool.grade_many([item])
            return _unwrapped(result, time.perf_counter() - started)

        yield from threads.map(graded, items)


def timer(reward: str, options: Mapping[str, object]) -> RewardFn:
    """A reward function that calls another and puts the seconds it took in the `breakdown`.

    Args:
        reward: name of the other function, as in a configuration.
        options: its options.

    Raises:
        RewardLookupError: there is no such reward, or it does not take the options.
    """
    inner = bind(resolve(reward), options, name=reward)
    # One loop for the life of the process, as in a run: clients that a plugin keeps belong to it.
    loop = asyncio.Runner()

    def timed(completion: str, problem: Problem) -> object:
        refused = _refused(inner, problem)
        started = time.perf_counter()
        returned = _called(inner, (completion, problem), loop)
        seconds = time.perf_counter() - started
        found = outcome(returned, completion)
        if isinstance(found, Reward):
            return replace(found, reason=f"{found.reason}{refused}", breakdown={"seconds": seconds})
        return returned  # no reward: the worker says what is wrong with it

    return timed


def _refused(inner: BoundReward, problem: Problem) -> str:
    """What the reward's own check has against the problem, to append to a reason."""
    if inner.check is None:
        return ""
    try:
        inner.check(problem)
    except ValueError as error:
        return f"; its problem would be refused: {error}"
    return ""


async def _awaited(returned: object) -> object:
    return await returned if inspect.isawaitable(returned) else returned


def _called(inner: BoundReward, item: Item, loop: asyncio.Runner) -> object:
    """What the function returns for one completion, as a batch of one where it takes batches."""
    if not inner.is_grouped:
        return inner.fn(**inner.arguments(item))
    arguments = inner.batch_arguments([item]) if inner.is_batch else inner.arguments(item)
    returned = loop.run(_awaited(inner.fn(**arguments)))
    if not inner.is_batch:
        return returned
    tolist = getattr(returned, "tolist", None)
    values = tolist() if callable(tolist) else returned  # a NumPy array or a tensor
    if not isinstance(values, Sequence) or len(values) != 1:
        raise ValueError(f"it returned {short(values)} for 1 completion; a batch returns a list")
    return values[0]


def _unwrapped(result: Reward | Ungraded, wall_seconds: float) -> tuple[Reward | Ungraded, float]:
    """The result as if the function had been called directly, and its seconds."""
    if isinstance(result, Ungraded):
        prefix = f"{_NAME} failed ({result.failure}): "
        return replace(result, term="", reason=result.reason.removeprefix(prefix)), wall_seconds
    seconds = result.breakdown[f"{_NAME}.seconds"]
    return replace(result, reason=result.reason.removeprefix(f"{_NAME}="), breakdown={}), seconds

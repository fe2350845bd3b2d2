"""Completions graded one at a time in killable children, with the time each took."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.types import Reward, Ungraded
from cotree.rewards.worker import Item


def graded_one_by_one(
    term: Term,
    items: Sequence[Item],
    *,
    workers: int,
    timeout_seconds: float,
    memory_bytes: int,
) -> Iterator[tuple[Reward | Ungraded, float]]:
    """Result and seconds of each item, in the order given.

    Args:
        term: the reward.
        items: graded one at a time by each child, so that no item's time is another's.
        workers: children; more than one disturb each other's times.
        timeout_seconds: wall-clock limit of one item.
        memory_bytes: address-space limit of one child.

    Raises:
        WorkerStartError: the reward's name or options are wrong, or its import fails.
    """
    with (
        IsolatedPool(
            [term], workers=workers, timeout_seconds=timeout_seconds, memory_bytes=memory_bytes
        ) as pool,
        ThreadPoolExecutor(workers) as threads,
    ):

        def timed(item: Item) -> tuple[Reward | Ungraded, float]:
            started = time.perf_counter()
            (result,) = pool.grade_many([item])
            return result, time.perf_counter() - started

        yield from threads.map(timed, items)

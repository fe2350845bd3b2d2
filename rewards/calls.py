"""Calls of reward functions in this process: one completion, a batch, or several at once.

Exceptions become outcomes here, so that every completion has one; nothing here can end a call
that hangs. `isolation` adds that.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import Awaitable, Sequence, Sized
from dataclasses import replace

from cotree.rewards.outcomes import Outcome, failed, outcome, short
from cotree.rewards.plan import Call
from cotree.rewards.signature import BoundReward, Item
from cotree.rewards.types import Failure, GraderError, Ungraded


class _LateError(Exception):
    """An `async` call was given up."""


class Caller:
    """Runs calls of reward functions, `async` ones on an event loop of its own."""

    def __init__(
        self, rewards: Sequence[BoundReward], *, fatal: tuple[type[BaseException], ...]
    ) -> None:
        """Wraps the functions.

        Args:
            rewards: in the order that `Call.reward` counts.
            fatal: exceptions that are raised instead of becoming an outcome.
        """
        self._rewards = tuple(rewards)
        self._fatal = fatal
        self._runner: asyncio.Runner | None = None
        self.has_leftovers = False
        """Whether an `async` call that was given up may still be running."""

    def outcomes(
        self, call: Call, items: Sequence[Item], *, timeout_seconds: float | None
    ) -> list[Outcome] | None:
        """The outcome of each item of the call, in the order of `call.items`.

        Args:
            call: which function and which items.
            items: those that `call.items` counts.
            timeout_seconds: after which an `async` call is given up; others are not limited here.

        Returns:
            `None` when a call for several items failed as a whole, and each should be tried by
            itself, so that only the guilty one is blamed.
        """
        reward = self._rewards[call.reward]
        chosen = [items[index] for index in call.items]
        if call.is_check:
            return [self._checked(reward, item, timeout_seconds) for item in chosen]
        if reward.is_batch:
            return self._batch(reward, chosen, timeout_seconds)
        if reward.is_async:
            return self._side_by_side(reward, chosen, timeout_seconds)
        return [self._single(reward, item) for item in chosen]

    def close(self) -> None:
        """Ends the event loop."""
        if self._runner is not None:
            self._runner.close()

    def _single(self, reward: BoundReward, item: Item) -> Outcome:
        try:
            returned = reward.fn(**reward.arguments(_own(item)))
            if inspect.iscoroutine(returned):
                returned.close()
                invalid = "it returned a coroutine; declare the function `async def`"
                return Ungraded(Failure.INVALID, invalid)
            return outcome(returned, item[0])
        except self._fatal:
            raise
        except BaseException as error:  # process boundary: reported, not swallowed
            return failed(error)

    def _checked(self, reward: BoundReward, item: Item, timeout_seconds: float | None) -> Outcome:
        assert reward.check is not None, reward.name
        known = {"options": reward.options, "timeout_seconds": timeout_seconds}
        try:
            # The first parameter is the problem, whatever its name.
            asked = list(inspect.signature(reward.check).parameters)[1:]
            _, problem = _own(item)
            reward.check(problem, **{name: known[name] for name in asked if name in known})
        except self._fatal:
            raise
        except BaseException as error:  # process boundary: reported, not swallowed
            message = str(error) if isinstance(error, ValueError) else failed(error).reason
            return Ungraded(Failure.INVALID, message)
        return None

    def _batch(
        self, reward: BoundReward, items: Sequence[Item], timeout_seconds: float | None
    ) -> list[Outcome] | None:
        try:
            returned = reward.fn(**reward.batch_arguments([_own(item) for item in items]))
            if inspect.isawaitable(returned):
                done = self._awaited_together([returned], timeout_seconds)[0]
                if isinstance(done, BaseException):
                    raise done
                returned = done[0]
            return _aligned(returned, items)
        except GraderError as error:
            return [*[failed(error)] * len(items)]
        except self._fatal:
            raise
        except BaseException as error:  # process boundary: reported, not swallowed
            return None if len(items) > 1 else [_failed(error)]

    def _side_by_side(
        self, reward: BoundReward, items: Sequence[Item], timeout_seconds: float | None
    ) -> list[Outcome]:
        outcomes: list[Outcome] = [None] * len(items)
        awaitables: list[Awaitable[object]] = []
        positions: list[int] = []
        for position, item in enumerate(items):
            try:
                awaitables.append(reward.fn(**reward.arguments(_own(item))))
                positions.append(position)
            except self._fatal:
                raise
            except BaseException as error:  # process boundary: reported, not swallowed
                outcomes[position] = failed(error)
        done = self._awaited_together(awaitables, timeout_seconds)
        for position, result in zip(positions, done, strict=True):
            if isinstance(result, BaseException):
                outcomes[position] = _failed(result)
                continue
            try:
                outcomes[position] = outcome(result[0], items[position][0])
            except self._fatal:
                raise
            except BaseException as error:  # process boundary: reported, not swallowed
                outcomes[position] = failed(error)
        return outcomes

    def _awaited_together(
        self, awaitables: Sequence[Awaitable[object]], timeout_seconds: float | None
    ) -> list[tuple[object] | BaseException]:
        """What each awaitable gives, in a tuple, or the exception that it raised."""
        if not awaitables:
            return []
        if self._runner is None:
            # One loop for the life of the process: clients that a plugin keeps belong to it.
            self._runner = asyncio.Runner()
        return self._runner.run(self._gathered(awaitables, timeout_seconds))

    async def _gathered(
        self, awaitables: Sequence[Awaitable[object]], timeout_seconds: float | None
    ) -> list[tuple[object] | BaseException]:
        tasks = [asyncio.ensure_future(self._caught(awaitable)) for awaitable in awaitables]
        _, pending = await asyncio.wait(tasks, timeout=timeout_seconds)
        for task in pending:
            task.cancel()
        self.has_leftovers |= bool(pending)
        late = _LateError(f"no reward within {timeout_seconds or 0:g} s")
        return [late if task in pending else task.result() for task in tasks]

    async def _caught(self, awaitable: Awaitable[object]) -> tuple[object] | BaseException:
        try:
            return (await awaitable,)
        except self._fatal:
            raise
        except BaseException as error:  # process boundary: the caller reports it
            return error


def _own(item: Item) -> Item:
    """The item with columns of its own: what one call edits, no other call and no run sees."""
    completion, problem = item
    return completion, replace(problem, columns=copy.deepcopy(dict(problem.columns)))


def _failed(error: BaseException) -> Ungraded:
    return Ungraded(Failure.TIMEOUT, str(error)) if isinstance(error, _LateError) else failed(error)


def _aligned(returned: object, items: Sequence[Item]) -> list[Outcome]:
    """The outcomes of a batch; all of them invalid when there is not one for each item."""
    tolist = getattr(returned, "tolist", None)
    values = tolist() if callable(tolist) else returned  # a NumPy array or a tensor
    if isinstance(values, str) or not isinstance(values, Sequence | Sized):
        invalid = f"it returned {short(returned)}; a batch function returns a list"
        return [Ungraded(Failure.INVALID, invalid)] * len(items)
    if not isinstance(values, Sequence) or len(values) != len(items):
        invalid = (
            f"it returned {len(values)} rewards in a {type(values).__name__} for {len(items)} "
            "completions; a batch function returns a list with one for each, in their order"
        )
        return [Ungraded(Failure.INVALID, invalid)] * len(items)
    texts = [completion for completion, _ in items]
    return [outcome(value, text) for value, text in zip(values, texts, strict=True)]

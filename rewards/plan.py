"""Which calls grade a number of completions, and who is blamed when a call does not come back.

Shared by all executors: a child process, this process, a Ray actor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from cotree.rewards.outcomes import Outcome
from cotree.rewards.signature import BoundReward, Item
from cotree.rewards.types import Failure, Ungraded

CHUNK_ITEMS = 64
"""Items planned at once: the most that a batch function gets, or an `async` one has in flight."""


class Call(NamedTuple):
    """One call of a reward function, for one completion or for several."""

    reward: int
    """Index of the reward function."""
    items: tuple[int, ...]
    """Indices of the completions."""
    is_check: bool = False
    """Check the problem instead of grading the completion."""


class Form(NamedTuple):
    """What planning calls needs to know about a reward function."""

    is_grouped: bool
    is_async: bool
    has_check: bool


def form_of(reward: BoundReward) -> Form:
    """The form of a bound reward function."""
    return Form(reward.is_grouped, reward.is_async, reward.check is not None)


def planned(forms: Sequence[Form], num_items: int) -> list[Call]:
    """The calls that grade all items: one for each, or one for all where they are grouped."""
    everything = range(num_items)
    calls: list[Call] = []
    for index, form in enumerate(forms):
        if form.is_grouped:
            calls.append(Call(index, tuple(everything)))
        else:
            calls += [Call(index, (item,)) for item in everything]
    return calls


def planned_checks(forms: Sequence[Form], num_items: int) -> list[Call]:
    """The calls that check every item's problem, by each reward function that has a check."""
    checks = [index for index, form in enumerate(forms) if form.has_check]
    return [Call(index, (item,), True) for index in checks for item in range(num_items)]


def split(call: Call) -> Iterator[Call]:
    """The same call for one item each."""
    for item in call.items:
        yield call._replace(items=(item,))


Deliver = Callable[[Call, "list[Outcome] | None"], None]
"""Takes the outcomes of a call; `None`: it failed as a whole, try its items one by one."""

Planner = Callable[[Sequence[Form], int], list[Call]]
"""`planned` or `planned_checks`."""


class Maker(Protocol):
    """What makes calls: a process, perhaps one that can be lost and replaced."""

    @property
    def forms(self) -> Sequence[Form]:
        """Of the reward functions, in order."""
        ...

    def ensure_ready(self) -> bool:
        """Replaces what was lost; True when nothing has been called in it yet."""
        ...

    def make(
        self, calls: Sequence[Call], items: Sequence[Item], deliver: Deliver
    ) -> Ungraded | None:
        """Makes the calls in order; why it was lost in the middle of one, or `None`."""
        ...


def outcomes_by(maker: Maker, items: Sequence[Item], planner: Planner) -> list[list[Outcome]]:
    """The outcome of every reward function for each item, both in the order given.

    A call for several items that is lost is made again for each of them. A call for one item is
    blamed for running out of time; for a crash, only when it was the first in a new process:
    otherwise an earlier call may have left behind what it died of, and it gets a new process.
    """
    fresh = maker.ensure_ready()
    results: list[list[Outcome]] = [[None] * len(maker.forms) for _ in items]
    waiting = deque(planner(maker.forms, len(items)))
    answered = 0

    def deliver(call: Call, outcomes: list[Outcome] | None) -> None:
        nonlocal answered
        answered += 1
        waiting.popleft()
        if outcomes is None:
            assert len(call.items) > 1, call
            waiting.extend(split(call))
            return
        for item, outcome in zip(call.items, outcomes, strict=True):
            results[item][call.reward] = outcome

    while waiting:
        before = answered
        lost = maker.make(tuple(waiting), items, deliver)
        if lost is None:
            fresh = False
            continue
        guilty = waiting[0]
        if len(guilty.items) > 1:
            deliver(guilty, None)
        elif lost.failure is Failure.TIMEOUT or (fresh and answered == before):
            deliver(guilty, [lost])
        if waiting:
            fresh = maker.ensure_ready()
    return results

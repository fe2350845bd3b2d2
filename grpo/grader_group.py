"""Rewards that run in Ray actors of their own (`executor = "ray"`), killed when they hang."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
import ray.exceptions

from cotree.rewards.calls import Caller
from cotree.rewards.child import GRACE_SECONDS, START_SECONDS, WorkerStartError
from cotree.rewards.outcomes import Outcome
from cotree.rewards.plan import (
    CHUNK_ITEMS,
    Call,
    Deliver,
    Form,
    form_of,
    outcomes_by,
    planned,
)
from cotree.rewards.registry import Term, bound
from cotree.rewards.signature import Item
from cotree.rewards.types import Failure, Ungraded


class RewardProcess:
    """Plain class, so tests need no Ray. `RemoteRewardProcess` is the same thing as an actor."""

    def __init__(self, term: Term) -> None:
        self._term = term
        self._caller: Caller | None = None

    def start(self) -> Form:
        """Resolves the reward function; not done on construction, as for `Grader`.

        Raises:
            RewardLookupError: its name or options are wrong.
        """
        reward = bound(self._term)
        self._caller = Caller([reward], fatal=())
        return form_of(reward)

    def make(
        self, call: Call, items: Sequence[Item], *, timeout_seconds: float
    ) -> tuple[list[Outcome] | None, bool]:
        """The outcomes of the call, and whether this process is still clean."""
        if self._caller is None:
            raise RuntimeError("the reward is not running; call start() first.")
        outcomes = self._caller.outcomes(call, items, timeout_seconds=timeout_seconds)
        return outcomes, not self._caller.has_leftovers


# No CPU is reserved, as for the grader: reserving one could leave none for a learner.
RemoteRewardProcess = ray.remote(num_cpus=0, max_restarts=0)(RewardProcess)


class RewardActor:
    """One reward function in an actor that is replaced when a call does not come back."""

    def __init__(self, term: Term, *, timeout_seconds: float) -> None:
        """Starts the actor and waits until the function is resolved.

        Raises:
            WorkerStartError: the reward's name, options or imports are wrong.
        """
        self._term = term
        self._timeout_seconds = timeout_seconds
        self._actor: Any = None  # methods of a Ray handle are made at run time
        self.forms: tuple[Form, ...] = ()
        self.ensure_ready()

    def outcomes(self, items: Sequence[Item]) -> list[list[Outcome]]:
        """The outcome of each item, in a list of one, in the order given."""
        chunks = (items[start : start + CHUNK_ITEMS] for start in range(0, len(items), CHUNK_ITEMS))
        return [found for chunk in chunks for found in outcomes_by(self, chunk, planned)]

    def ensure_ready(self) -> bool:
        """Replaces a lost actor; True when it is a new one.

        Raises:
            WorkerStartError: it cannot start.
        """
        if self._actor is not None:
            return False
        self._actor = RemoteRewardProcess.remote(self._term)
        try:
            self.forms = (ray.get(self._actor.start.remote(), timeout=START_SECONDS),)
        except ray.exceptions.RayError as error:
            self.close()
            cause = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error
            raise WorkerStartError(f"reward {self._term.name}: {cause}") from error
        return True

    def make(
        self, calls: Sequence[Call], items: Sequence[Item], deliver: Deliver
    ) -> Ungraded | None:
        """Makes the calls in order; why the actor was lost in the middle of one, or `None`."""
        limit = self._timeout_seconds
        wait = limit + (GRACE_SECONDS if self.forms[0].is_async else 0.0)
        for call in calls:
            # One at a time: an actor that dies takes answers along that it has given but not
            # yet sent, and the blame for its death would fall on them.
            try:
                outcomes, is_clean = ray.get(self._submit(call, items), timeout=wait)
            except ray.exceptions.GetTimeoutError:
                self.close()
                return Ungraded(Failure.TIMEOUT, f"no reward within {limit:g} s")
            except ray.exceptions.RayActorError as error:
                self.close()
                return Ungraded(Failure.CRASH, f"the reward's actor died: {error}")
            deliver(call, outcomes)
            if not is_clean:
                self.close()
                self.ensure_ready()
        return None

    def close(self) -> None:
        """Kills the actor."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor = None

    def _submit(self, call: Call, items: Sequence[Item]) -> Any:  # noqa: ANN401 - Ray's reference
        chosen = [items[index] for index in call.items]
        alone = call._replace(items=tuple(range(len(chosen))))
        return self._actor.make.remote(alone, chosen, timeout_seconds=self._timeout_seconds)

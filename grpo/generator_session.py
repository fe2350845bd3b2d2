"""A running exchange with the engines: requests join at any time, and finish one by one.

While the caller works on what has finished, the engines go on with the rest: each has a call under
way and another one queued behind it as long as it has anything to do, so that it never waits for a
message. Requests therefore join one or two turns after they were made.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Sequence

import ray

from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.generator import GeneratorDiedError, GeneratorGroup, RayHandle
from cotree.search.types import Continuation

_LOG = logging.getLogger(__name__)

Name = tuple[int, int, int]

_CALLS = 2
"""Of one replica, the one that it works on and those behind it."""


class GeneratorSession:
    """One at a time for a group, which must not sample otherwise meanwhile."""

    def __init__(
        self,
        group: GeneratorGroup,
        *,
        temperature: float,
        top_p: float,
        min_version: int,
    ) -> None:
        """Starts nothing.

        Args:
            group: its engines' weights stay as they are.
            temperature: of all requests.
            top_p: of all requests.
            min_version: oldest weights to sample from; see `Generator.sample`.
        """
        self._group = group
        self._settings = {"temperature": temperature, "top_p": top_p, "min_version": min_version}
        self._outbox: list[list[TokenRequest]] = [[] for _ in range(group.replicas)]
        self._under_way: list[dict[Name, TokenRequest]] = [{} for _ in range(group.replicas)]
        self._calls: list[deque[RayHandle]] = [deque() for _ in range(group.replicas)]
        self._revived: set[int] = set()

    def exchange(self, requests: Sequence[TokenRequest]) -> list[Continuation]:
        """Takes further requests and returns continuations that have finished, if any yet.

        Requests of one search go to one replica, which has their prefixes in its cache. A replica
        that dies is replaced, and what it had under way is sampled again with the same seeds.

        Raises:
            GeneratorDiedError: a replica died a second time; something kills them.
        """
        for request in requests:
            replica = request.name[0] % self._group.replicas
            self._outbox[replica].append(request)
            self._under_way[replica][request.name] = request
        self._call()
        heads = {calls[0]: replica for replica, calls in enumerate(self._calls) if calls}
        if not heads:
            return []
        (first, *_), _ = ray.wait(list(heads), num_returns=1)
        replica = heads[first]
        try:
            (found,) = self._group.get([(replica, self._calls[replica].popleft())])
        except GeneratorDiedError as error:
            if replica in self._revived:
                raise
            _LOG.warning("%s Restarting it; its work is repeated.", error)
            self._revived.add(replica)
            self._group.restart()
            self._calls[replica].clear()
            self._outbox[replica] = list(self._under_way[replica].values())
            found = []
        for one in found:
            del self._under_way[replica][one.name]
        self._call()
        return found

    def stats(self) -> dict[str, float]:
        """`Generator.stats` summed over the replicas."""
        found = self._group.stats()
        return {name: sum(one[name] for one in found) for name in found[0]}

    def close(self) -> None:
        """Takes everything that is under way out of the engines; a dead one holds nothing."""
        for calls in self._calls:
            if calls:
                ray.wait(list(calls), num_returns=len(calls))
        try:
            self._group.get(
                [(r, self._group.call(r, "clear")) for r in range(self._group.replicas)]
            )
        except GeneratorDiedError as error:
            _LOG.warning("%s", error)

    def _call(self) -> None:
        """Gives calls to each replica that has work and too few of them."""
        for replica, under_way in enumerate(self._under_way):
            while under_way and len(self._calls[replica]) < _CALLS:
                sent, self._outbox[replica] = self._outbox[replica], []
                self._calls[replica].append(
                    self._group.call(replica, "exchange", sent, **self._settings)
                )

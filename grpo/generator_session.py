"""A running exchange with the engines: requests join at any time, and finish one by one.

While the caller works on what has finished, the engines go on with the rest: each holds a call at
all times as long as it has anything to do.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import ray

from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.generator import GeneratorDiedError, GeneratorGroup, RayHandle
from cotree.search.types import Continuation

_LOG = logging.getLogger(__name__)

Name = tuple[int, int, int]


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
        self._running: dict[int, RayHandle] = {}
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
        self._set_running()
        if not self._running:
            return []
        ready, _ = ray.wait(list(self._running.values()), num_returns=1)
        replica = next(r for r, ref in self._running.items() if ref is ready[0])
        ref = self._running.pop(replica)
        try:
            (found,) = self._group.get([(replica, ref)])
        except GeneratorDiedError as error:
            if replica in self._revived:
                raise
            _LOG.warning("%s Restarting it; its work is repeated.", error)
            self._revived.add(replica)
            self._group.restart()
            self._outbox[replica] = list(self._under_way[replica].values())
            found = []
        for one in found:
            del self._under_way[replica][one.name]
        self._set_running()
        return found

    def stats(self) -> dict[str, float]:
        """`Generator.stats` summed over the replicas."""
        found = self._group.stats()
        return {name: sum(one[name] for one in found) for name in found[0]}

    def close(self) -> None:
        """Takes everything that is under way out of the engines."""
        for ref in self._running.values():
            ray.wait([ref])
        self._group.get(
            [(replica, self._group.call(replica, "clear")) for replica in range(len(self._outbox))]
        )

    def _set_running(self) -> None:
        """Gives a call to each replica that has work and none running."""
        for replica, under_way in enumerate(self._under_way):
            if under_way and replica not in self._running:
                sent, self._outbox[replica] = self._outbox[replica], []
                self._running[replica] = self._group.call(
                    replica, "exchange", sent, **self._settings
                )

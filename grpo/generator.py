"""The generators: engine replicas as Ray actors, seen from the driver.

Calls queue on an actor in the order of submission. `submit` followed by `load_weights` therefore
samples with the weights before the load: bounded staleness needs no clock and repeats exactly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar
from weakref import WeakSet

import ray
from ray.exceptions import RayActorError, RayTaskError

from cotree.grpo import config
from cotree.grpo.engine import Generator, Sampling, StaleGeneratorError
from cotree.grpo.engine_options import engine_environment
from cotree.grpo.engine_scoring import ScoringGenerator
from cotree.grpo.types import Completion, SampleRequest
from cotree.grpo.weights import Canary, SyncProof

__all__ = [
    "Generator",
    "GeneratorDiedError",
    "GeneratorGroup",
    "PendingSamples",
    "Sampling",
    "StaleGeneratorError",
    "WeightsLostError",
]

RayHandle: TypeAlias = Any
"""Actors and references, untyped in Ray."""

_LOG = logging.getLogger(__name__)

Result = TypeVar("Result")

_ALIVE_SECONDS = 2.0
"""A dead actor answers with an error well within this time; a silent one is busy."""


class WeightsLostError(RuntimeError):
    """The process that made a weight update died with it; there is nothing to load."""


class GeneratorDiedError(RuntimeError):
    """A replica's process is gone. `GeneratorGroup.restart` replaces it and loses nothing."""


@dataclass(frozen=True, eq=False)
class _Weights:
    """What a replica was last told to load, kept to bring a new one to the same state."""

    update_ref: Any
    canary: Canary


@dataclass(eq=False)
class _Part:
    """One replica's share of a submission."""

    replica: int
    requests: list[SampleRequest]
    weights: _Weights | None
    """Those the replica holds when the share's turn comes; None is the starting model."""
    ref: Any


class PendingSamples:
    """Samples under way. Hold on to it: work that nobody holds is not resubmitted."""

    def __init__(
        self, group: GeneratorGroup, parts: list[_Part], sampling: Sampling, min_version: int
    ) -> None:
        self.parts = parts
        self.sampling = sampling
        self.min_version = min_version
        self.order = 0
        """Place in the sequence of submissions."""
        self._group = group

    def healed_result(self) -> list[tuple[Completion, ...]]:
        """As `result`, after replacing replicas that died: the same samples, some seconds later."""
        return self._group.healed(self.result)

    def result(self) -> list[tuple[Completion, ...]]:
        """Waits; one tuple per request, in the order of the submission.

        Raises:
            GeneratorDiedError: call `GeneratorGroup.restart`, then `result` again.
        """
        shares = self._group.get([(part.replica, part.ref) for part in self.parts])
        num_requests = sum(len(part.requests) for part in self.parts)
        step = self._group.replicas
        return [shares[index % step][index // step] for index in range(num_requests)]


class GeneratorGroup:
    """The replicas. Requests are dealt to them in turn, so a group of samples stays together."""

    def __init__(
        self, model_path: str, options: dict[str, Any], actor: RayHandle, replicas: int
    ) -> None:
        """Use `start`."""
        self._model_path = model_path
        self._options = options
        self._actor = actor
        self._actors = [self._new_actor() for _ in range(replicas)]
        self._dead: set[int] = set()
        self._weights: _Weights | None = None
        self._pending: WeakSet[PendingSamples] = WeakSet()
        self._submitted = 0

    @classmethod
    def start(
        cls,
        model_path: str,
        *,
        generator: config.Generator,
        seed: int,
        num_gpus: float,
        revision: str | None = None,
        record_routes: bool = False,
    ) -> GeneratorGroup:
        """Starts `generator.replicas` engines and waits until all hold the model.

        Args:
            model_path: local folder or hub name.
            generator: engine settings.
            seed: the engines' own seed; every sample has one of its own all the same.
            num_gpus: GPUs of one replica, a fraction when it shares one; 0 runs on the CPU.
            revision: hub commit or tag.
            record_routes: completions say which experts their tokens went to; see `Completion`.
        """
        environment = engine_environment(threads=generator.threads, cuda=num_gpus > 0)
        # No automatic restart: a new process would silently serve the starting weights.
        actor = ray.remote(ScoringGenerator).options(
            num_cpus=generator.threads,
            num_gpus=num_gpus,
            max_restarts=0,
            max_task_retries=0,
            runtime_env={"env_vars": environment},
        )
        options = {
            "generator": generator,
            "seed": seed,
            "revision": revision,
            "record_routes": record_routes,
        }
        group = cls(model_path, options, actor, generator.replicas)
        group._on_all("policy_version")
        return group

    @property
    def replicas(self) -> int:
        """Number of engines."""
        return len(self._actors)

    def submit(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, min_version: int
    ) -> PendingSamples:
        """Queues the requests behind everything submitted before; see `Generator.sample`."""
        parts: list[_Part] = []
        for replica in range(self.replicas):
            share = list(requests[replica :: self.replicas])
            if share:
                parts.append(_Part(replica, share, self._weights, None))
        pending = PendingSamples(self, parts, sampling, min_version)
        for part in parts:
            self._send(part, pending)
        self._submitted += 1
        pending.order = self._submitted
        self._pending.add(pending)
        return pending

    def stream(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, min_version: int
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """(index of a request, its completions) as requests finish; see `Generator.stream`.

        A replica that dies is replaced, and what it left undone is sampled again with the same
        seeds, hence with the same result.

        Raises:
            GeneratorDiedError: a replica died a second time; something kills them.
        """
        left: list[dict[int, SampleRequest]] = [{} for _ in self._actors]
        for index, request in enumerate(requests):
            left[index % self.replicas][index] = request

        def start(replica: int) -> RayHandle:
            remote = self._actors[replica].stream.options(num_returns="streaming")
            return remote.remote(list(left[replica].values()), sampling, min_version=min_version)

        running = {replica: start(replica) for replica, share in enumerate(left) if share}
        indices = {replica: list(left[replica]) for replica in running}
        revived: set[int] = set()
        while running:
            (ready, *_), _ = ray.wait(list(running.values()), num_returns=1)
            (replica,) = [r for r, stream in running.items() if stream is ready]
            try:
                ref = next(running[replica])
                (position, completions) = self.get([(replica, ref)])[0]
            except StopIteration:
                del running[replica]
                continue
            except GeneratorDiedError as error:
                if replica in revived:
                    raise
                _LOG.warning("%s Restarting it; its work is repeated.", error)
                revived.add(replica)
                self.restart()
                indices[replica], running[replica] = list(left[replica]), start(replica)
                continue
            index = indices[replica][position]
            del left[replica][index]
            yield index, completions

    def call(self, replica: int, method: str, *args: object, **options: object) -> RayHandle:
        """Queues a call of one replica's method; `get` has its result."""
        return getattr(self._actors[replica], method).remote(*args, **options)

    def load_weights(self, update_ref: ray.ObjectRef[Any], canary: Canary) -> list[SyncProof]:
        """Moves every replica to new weights behind the work queued so far, and waits.

        Args:
            update_ref: reference of a `WeightUpdate`. It is kept until the next load and until
                the samples that depend on it are there, for `restart`.
            canary: the learner's log-probabilities of a sequence under these weights.

        Raises:
            WeightSyncError: a replica could not prove that it holds the weights.
            GeneratorDiedError: a replica is gone; `restart` brings its successor to these weights.
        """
        self._weights = _Weights(update_ref, canary)
        return self._on_all("load_weights", update_ref, canary)

    def restart(
        self, update_ref: ray.ObjectRef[Any] | None = None, canary: Canary | None = None
    ) -> list[SyncProof]:
        """Replaces dead replicas, repeats their unfinished work and brings them up to date.

        A new process holds the starting weights. It loads those each unfinished share was
        submitted under, samples the share with the same seeds, hence with the same result, and
        ends with the newest weights.

        Args:
            update_ref: weights to end with instead of those last given to `load_weights`, for a
                reference whose owner died. Needs `canary`.
            canary: the learner's log-probabilities under `update_ref`.

        Returns:
            The proofs of the replaced replicas, when they had to load weights.
        """
        if (update_ref is None) != (canary is None):
            raise ValueError("restart needs update_ref and canary together, or neither.")
        if update_ref is not None and canary is not None:
            self._weights = _Weights(update_ref, canary)
        loads: list[tuple[int, Any]] = []
        for replica in [r for r in range(self.replicas) if self._is_dead(r)]:
            ray.kill(self._actors[replica])
            self._actors[replica] = self._new_actor()
            self._dead.discard(replica)
            loads.extend((replica, ref) for ref in self._replay(replica))
        return self.get(loads)

    def healed(self, call: Callable[[], Result]) -> Result:
        """The result of `call`, which is made again once if a replica is found dead.

        Raises:
            GeneratorDiedError: a replica died again; something kills them.
        """
        try:
            return call()
        except GeneratorDiedError as error:
            _LOG.warning("%s Restarting it; its work is repeated with the same seeds.", error)
            self.restart()
            return call()

    def stop(self) -> None:
        """Ends the engines; samples that were not fetched are lost."""
        for actor in self._actors:
            ray.kill(actor)

    def stats(self) -> list[dict[str, float]]:
        """`Generator.stats` of each replica; waits for the queued work."""
        return self._on_all("stats")

    def get(self, calls: list[tuple[int, Any]]) -> list[Any]:
        """Results of (replica, reference) pairs. Waits for all before it raises.

        Raises:
            GeneratorDiedError: a replica is gone.
            WeightsLostError: the learner is gone.
            Exception: what the replica raised, as it raised it.
        """
        results: list[Any] = []
        died: RayActorError | None = None
        failed: RayTaskError | None = None
        for replica, ref in calls:
            try:
                results.append(ray.get(ref))
            except RayTaskError as error:  # first: it can be a RayActorError as well, of another
                failed = failed or error
            except RayActorError as error:
                self._dead.add(replica)
                died = error
        if failed is not None:
            if isinstance(failed.cause, RayActorError):
                raise WeightsLostError(
                    "the learner died before its weights could be handed out. Look for the "
                    "out-of-memory killer, then continue from the last checkpoint with --resume."
                ) from failed
            raise failed.cause from failed
        if died is not None:
            # A constructor's error comes with its traceback, whose last line says what is wrong.
            lines = [line for line in str(died).splitlines() if line.strip()]
            reason = " ".join(dict.fromkeys((lines[0], lines[-1].strip())))
            raise GeneratorDiedError(
                f"generator replica {min(self._dead)} of {self.replicas} is gone ({reason}) "
                "If it happens again, look for the out-of-memory killer and lower "
                "generator.kv_cache_bytes or max_num_seqs."
            ) from died
        return results

    def _on_all(self, method: str, *args: object) -> list[Any]:
        refs = [getattr(actor, method).remote(*args) for actor in self._actors]
        return self.get(list(enumerate(refs)))

    def _new_actor(self) -> RayHandle:
        return self._actor.remote(self._model_path, **self._options)

    def _send(self, part: _Part, pending: PendingSamples) -> None:
        part.ref = self._actors[part.replica].sample.remote(
            part.requests, pending.sampling, min_version=pending.min_version
        )

    def _is_dead(self, replica: int) -> bool:
        if replica in self._dead:
            return True
        ref = self._actors[replica].policy_version.remote()
        ready, _ = ray.wait([ref], timeout=_ALIVE_SECONDS)
        try:
            if ready:
                ray.get(ref)
        except RayActorError:
            return True
        return False

    def _replay(self, replica: int) -> list[Any]:
        """Queues on a new replica what its predecessor left undone; returns the loads."""
        loads: list[Any] = []
        held: _Weights | None = None
        actor = self._actors[replica]
        for pending in sorted(self._pending, key=lambda pending: pending.order):
            for part in pending.parts:
                if part.replica != replica or _has_result(part.ref):
                    continue
                if part.weights is not None and part.weights is not held:
                    held = part.weights
                    loads.append(actor.load_weights.remote(held.update_ref, held.canary))
                self._send(part, pending)
        if self._weights is not None and self._weights is not held:
            loads.append(actor.load_weights.remote(self._weights.update_ref, self._weights.canary))
        return loads


def _has_result(ref: RayHandle) -> bool:
    ready, _ = ray.wait([ref], timeout=0)
    if not ready:
        return False
    try:
        ray.get(ref)
    except RayActorError:
        return False
    return True

"""The learner as the loop sees it: one handle to its Ray actors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import ray
import ray.exceptions

from cotree.grpo.types import Batch, Stats

if TYPE_CHECKING:
    from cotree.grpo.row_values import RowValue
    from cotree.grpo.trainable import LearnerSpec
    from cotree.grpo.weights import WeightUpdate


_DEATH_SECONDS = 5.0
"""Ray reports a killed process well within this time."""


class LearnerDiedError(RuntimeError):
    """A learner process is gone, and the weights with it."""


class _LearnerProcess:
    """One actor. Torch is imported here, so a driver that only talks to actors stays small."""

    def __init__(self, rank: int, world_size: int) -> None:
        self._rank, self._world_size = rank, world_size
        self._host = ray.util.get_node_ip_address()
        self._store: Any = None
        self._learner: Any = None

    def open_store(self) -> tuple[str, int]:
        """Rank 0 opens the meeting point; returns its host and port."""
        from cotree.grpo.sharding import open_store  # noqa: PLC0415

        self._store = open_store(self._host)
        return self._host, self._store.port

    def build(self, spec: LearnerSpec, meeting_point: tuple[str, int] | None) -> None:
        """Joins the others, where there are any, and loads the model."""
        from transformers.utils import logging  # noqa: PLC0415

        from cotree.grpo.learner import Learner  # noqa: PLC0415
        from cotree.grpo.sharding import find_store, join  # noqa: PLC0415

        logging.disable_progress_bar()
        if meeting_point is not None:
            host, port = meeting_point
            store = self._store or find_store(host, port)
            join(store, host=host, rank=self._rank, world_size=self._world_size)
        self._learner = Learner(spec, rank=self._rank, world_size=self._world_size)

    def call(self, method: str, *arguments: object, **options: object) -> Any:  # noqa: ANN401
        """Calls the learner's method; processes but the first return None."""
        result = getattr(self._learner, method)(*arguments, **options)
        return result if self._rank == 0 else None


class LearnerGroup:
    """Handle to the learner's processes; the first one answers for all."""

    def __init__(self, actors: Sequence[Any], starting: Sequence[Any]) -> None:
        self._actors = list(actors)
        self._starting = list(starting)

    @classmethod
    def start(cls, spec: LearnerSpec, *, num_gpus: float) -> LearnerGroup:
        """Starts `spec.learner.processes` actors; they load the model while the caller goes on.

        Args:
            spec: what to train.
            num_gpus: of each process; 0 on a CPU.
        """
        count = spec.learner.processes
        environment = {
            "OMP_NUM_THREADS": str(spec.learner.threads),
            "TOKENIZERS_PARALLELISM": "false",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic CUDA matrix products
        }
        if "HF_HUB_OFFLINE" in os.environ:
            environment["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
        remote: Any = ray.remote(
            num_cpus=spec.learner.threads,
            num_gpus=num_gpus,
            max_restarts=0,  # a new process would have the starting weights
            runtime_env={"env_vars": environment},
        )(_LearnerProcess)
        actors = [remote.remote(rank, count) for rank in range(count)]
        meeting_point = ray.get(actors[0].open_store.remote()) if count > 1 else None
        return cls(actors, [actor.build.remote(spec, meeting_point) for actor in actors])

    def step(self, batch: Batch) -> Stats:
        """Trains on one step's rollouts; see `Learner.step`."""
        return self._call("step", ray.put(batch))

    def policy_version(self) -> int:
        """Steps taken since the starting model."""
        return self._call("policy_version")

    def weights(self) -> ray.ObjectRef[WeightUpdate]:
        """A reference to the `WeightUpdate`; it is read only where it is used."""
        self._started()
        refs = [actor.call.remote("weights") for actor in self._actors]
        return refs[0]

    def logprobs(
        self,
        token_ids: Sequence[Sequence[int]],
        first: Sequence[int],
        *,
        temperature: float = 1.0,
        of: Literal["policy", "teacher"] = "policy",
    ) -> list[list[float]]:
        """Log-probabilities of given tokens; see `Learner.logprobs`."""
        return self._call("logprobs", token_ids, first, temperature=temperature, of=of)

    def row_values(self, batch: Batch) -> list[RowValue]:
        """What each row would teach; see `Learner.row_values`."""
        return self._call("row_values", ray.put(batch))

    def save(self, folder: Path) -> None:
        """Writes a checkpoint; the folder must be one that the first process can reach."""
        self._call("save", folder.absolute())

    def save_model(self, folder: Path) -> None:
        """Writes the policy alone as a Hugging Face checkpoint."""
        self._call("save_model", folder.absolute())

    def load(self, folder: Path) -> None:
        """Restores a checkpoint in every process."""
        self._call("load", folder.absolute())

    def stop(self) -> None:
        """Ends the processes."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    def _started(self) -> None:
        if not self._actors:
            raise RuntimeError("the learner was stopped; start a new LearnerGroup.")
        starting, self._starting = self._starting, []
        _all(starting)

    def _call(self, method: str, *arguments: object, **options: object) -> Any:  # noqa: ANN401
        self._started()
        return _all([actor.call.remote(method, *arguments, **options) for actor in self._actors])


def _all(refs: Sequence[Any]) -> Any:  # noqa: ANN401
    """The first process's answer, once all have answered.

    The first to fail is reported at once: the others may be waiting for it in a collective.
    """
    waiting = list(refs)
    try:
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1)
            ray.get(done)
        return ray.get(refs[0]) if refs else None
    except ray.exceptions.RayTaskError as error:
        # A process that lost its partner in a collective fails too, perhaps first: tell the death.
        died = _death(waiting)
        if died is None:
            raise error.cause from error  # as the learner raised it, without Ray's wrapping
        raise _died(died) from died
    except ray.exceptions.RayActorError as error:
        raise _died(error) from error


def _death(refs: Sequence[Any]) -> ray.exceptions.RayActorError | None:
    """The death among calls that are still open, if one shows within some seconds."""
    done, _ = (
        ray.wait(list(refs), num_returns=len(refs), timeout=_DEATH_SECONDS) if refs else ([], [])
    )
    for ref in done:
        try:
            ray.get(ref)
        except ray.exceptions.RayTaskError:
            continue  # an error of its own, which says nothing about the others
        except ray.exceptions.RayActorError as error:
            return error
    return None


def _died(error: ray.exceptions.RayActorError) -> LearnerDiedError:
    return LearnerDiedError(
        f"a learner process died: {error}. If the system ran out of memory, lower "
        "learner.micro_batch_tokens; then resume from the last checkpoint (--resume)."
    )

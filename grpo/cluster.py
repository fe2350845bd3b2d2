"""The Ray cluster of a run: join the one a job runs in, or start a private one on this machine."""

import logging
import os
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import ray

from cotree.grpo import config

_OBJECT_STORE_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Placement:
    """What each actor of a stage asks Ray for."""

    generators: int
    generator_cpus: int
    learners: int
    learner_cpus: int
    gpu_share: float
    """GPUs per actor: 1 where there are enough, less where actors share, 0 without any."""
    teacher_cpus: int = 0
    """Of all engines of a teacher together."""

    @property
    def cpus(self) -> int:
        """CPU slots of the whole stage."""
        students = self.generators * self.generator_cpus + self.learners * self.learner_cpus
        return students + self.teacher_cpus


class PlacementError(RuntimeError):
    """The cluster can not hold the stage's actors; without this check Ray would wait for ever."""


def place(
    generator: config.Generator,
    learner: config.Learner,
    *,
    generators: int,
    learners: int,
    gpus: float,
    teacher: config.Generator | None = None,
) -> Placement:
    """Divides `gpus` over the stage's actors: whole ones, or equal shares of too few.

    Raises:
        PlacementError: more than two actors would have to share one GPU.
    """
    actors = generators + learners + (teacher.replicas if teacher else 0)
    share = 1.0 if gpus >= actors else gpus / actors
    if 0 < share < 0.5:
        raise PlacementError(
            f"{actors} actors (generator.replicas + learner.processes, and a teacher's replicas) "
            f"on {gpus:g} GPUs is more than two to a GPU. Lower their numbers, or add GPUs."
        )
    return Placement(
        generators=generators,
        generator_cpus=generator.threads,
        learners=learners,
        learner_cpus=learner.threads,
        gpu_share=share,
        teacher_cpus=teacher.replicas * teacher.threads if teacher else 0,
    )


@contextmanager
def cluster(
    generator: config.Generator,
    learner: config.Learner,
    *,
    generators: int,
    learners: int,
    teacher: config.Generator | None = None,
) -> Generator[Placement]:
    """Connects to Ray for one stage and leaves nothing running behind.

    Inside a Ray job (`RAY_ADDRESS` is set) it joins that cluster; otherwise it starts a private
    one whose object store and actors end with this process.

    Args:
        generator: settings of the policy's engines.
        learner: settings of the learner's processes.
        generators: engines of the policy that the stage needs.
        learners: processes of the learner that it needs.
        teacher: engines beside them, where a teacher runs on some.

    Raises:
        PlacementError: a joined cluster has too few CPUs or GPUs.
    """
    joined = "RAY_ADDRESS" in os.environ
    quiet = "COTREE_DEBUG" not in os.environ
    placed = partial(
        place, generator, learner, generators=generators, learners=learners, teacher=teacher
    )
    wanted = placed(gpus=0).cpus
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would otherwise zero CUDA_VISIBLE_DEVICES in actors that ask for no GPU, and warn of it.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _keeping_sigterm():
        if joined:
            ray.init(log_to_driver=not quiet, logging_level=logging.ERROR)
        else:
            ray.init(
                address="local",
                # Actors take turns where cores are few: sampling waits for learning.
                num_cpus=max(os.cpu_count() or 1, wanted),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                log_to_driver=not quiet,
                logging_level=logging.ERROR,
            )
    try:
        _protect_token()
        resources = ray.cluster_resources()
        if resources.get("CPU", 0.0) < wanted:
            raise PlacementError(
                f"the cluster has {resources.get('CPU', 0.0):g} CPUs, the stage needs {wanted} "
                "(generator.replicas * threads + learner.processes * threads). Lower them, or "
                "start Ray with more --num-cpus."
            )
        yield placed(gpus=resources.get("GPU", 0.0))
    finally:
        ray.shutdown()


@contextmanager
def _keeping_sigterm() -> Generator[None]:
    """Ray installs a handler of its own, which prints a stack of addresses and may abort."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


def _protect_token() -> None:
    """Ray writes the token that guards its job API readable to everyone; only we need it."""
    token = Path.home() / ".ray" / "auth_token"
    if token.exists() and token.stat().st_uid == os.getuid():
        token.chmod(0o600)

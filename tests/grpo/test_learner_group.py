"""Tests for grpo/learner_group.py: real Ray actors, one cluster for the module."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from random_batches import largest_gap, make_learner, make_spec, random_batch, tensors

from cotree.grpo.learner import NonFiniteError
from cotree.grpo.learner_group import LearnerDiedError, LearnerGroup

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=128 << 20,
        log_to_driver=False,
    )
    yield
    ray.shutdown()
    torch.use_deterministic_algorithms(mode=False)


def test_two_actors_train_what_one_process_trains_and_one_death_is_reported(
    tiny_model: Path, tmp_path: Path
):
    alone = make_learner(tiny_model)
    ids = random_batch(9).token_ids[0].tolist()
    group = LearnerGroup.start(make_spec(tiny_model, processes=2), num_gpus=0)
    try:
        for seed in range(2):
            stats, expected = group.step(random_batch(seed)), alone.step(random_batch(seed))
            assert stats.keys() == expected.keys()
            assert stats["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert group.policy_version() == 2
        update = ray.get(group.weights())
        assert update.version == 2
        # Tolerance of test_sharding.py.
        assert largest_gap(update.tensors, tensors(alone)) < 2e-5
        assert group.logprobs([ids], [1])[0] == pytest.approx(
            alone.logprobs([ids], [1])[0], abs=1e-4
        )
        group.save(tmp_path)
        group.step(random_batch(2))
        group.load(tmp_path)
        assert ray.get(group.weights()).digests == update.digests

        broken = random_batch(0)
        broken.advantages[0, 5] = float("nan")
        with pytest.raises(NonFiniteError, match="the optimizer did not move"):
            group.step(broken)
        assert ray.get(group.weights()).digests == update.digests

        second = ray.get(group._actors[1].__ray_call__.remote(lambda _: os.getpid()))
        os.kill(second, signal.SIGKILL)
        with pytest.raises(LearnerDiedError, match="resume from the last checkpoint"):
            group.step(random_batch(2))
    finally:
        group.stop()
    with pytest.raises(RuntimeError, match="was stopped"):
        group.policy_version()


def test_a_model_that_cannot_be_loaded_is_reported_by_the_first_call(tmp_path: Path):
    group = LearnerGroup.start(make_spec(tmp_path / "nothing"), num_gpus=0)
    try:
        with pytest.raises(FileNotFoundError, match="run the stage that makes it"):
            group.policy_version()
    finally:
        group.stop()

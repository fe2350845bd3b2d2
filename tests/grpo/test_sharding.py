"""Tests for grpo/sharding.py: two real gloo processes train what one process trains."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from random_batches import KL, largest_gap, make_learner, random_batch, tensors, train_config
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from cotree.grpo import config
from cotree.grpo.sharding import join

# As in test_learner.py: float32 sums in another order, against steps of 1e-2.
SAME = 2e-5

CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "small_pieces": {"micro_batch_tokens": 50, "packing": True},
    "kl_and_updates": {"train": train_config(kl=KL, updates_per_step=2)},
    "lora": {"lora": config.Lora(rank=4), "train": train_config(kl=KL)},
}


def _batches() -> list:
    # Uneven on purpose: 5 rows for two processes, then a single row, so that one has none.
    return [random_batch(0, rows=5), random_batch(1, rows=1), random_batch(2, rows=4)]


def _train_in_group(rank: int, folder: Path, model: Path) -> None:
    """One of two processes: every case under DDP and FSDP2; the first writes the weights."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    join(store, host="127.0.0.1", rank=rank, world_size=2)
    for sharding in ("ddp", "fsdp2"):
        for name, settings in CASES.items():
            both = {"rank": rank, "world_size": 2, "processes": 2, "sharding": sharding}
            learner = make_learner(model, **both, **settings)
            sharded = isinstance(next(learner._policy.parameters()), DTensor)
            wrapped = isinstance(learner._policy, DistributedDataParallel)
            assert (sharded, wrapped) == (sharding == "fsdp2", sharding == "ddp")
            first, *rest = _batches()
            learner.step(first)
            checkpoint = folder / f"{sharding}_{name}_checkpoint"
            learner.save(checkpoint)
            torch.distributed.barrier()
            for batch in rest:
                learner.step(batch)
            update = learner.weights()
            resumed = make_learner(model, **both, **settings)
            resumed.load(checkpoint)
            for batch in rest:
                resumed.step(batch)
            again = resumed.weights()
            if rank == 0:
                save_file(update.tensors, folder / f"{sharding}_{name}.safetensors")
                save_file(again.tensors, folder / f"{sharding}_{name}_resumed.safetensors")
            else:
                assert update is None
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def group(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the weights that two processes reached in each case."""
    folder = tmp_path_factory.mktemp("group")
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_train_in_group, args=(rank, folder, tiny_model)) for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=150)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    return folder


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_reach_the_weights_of_one(
    group: Path, tiny_model: Path, tmp_path: Path, sharding: str, name: str
):
    alone = make_learner(tiny_model, **CASES[name])
    start = tensors(alone)
    for batch in _batches():
        alone.step(batch)
    together = load_file(group / f"{sharding}_{name}.safetensors")
    assert largest_gap(together, tensors(alone)) < SAME
    assert largest_gap(together, start) > 50 * SAME


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_two_processes_resume_bit_for_bit(group: Path, sharding: str, name: str):
    straight = load_file(group / f"{sharding}_{name}.safetensors")
    resumed = load_file(group / f"{sharding}_{name}_resumed.safetensors")
    assert largest_gap(straight, resumed) == 0.0


@pytest.mark.parametrize("sharding", ["ddp", "fsdp2"])
def test_a_checkpoint_of_two_processes_continues_in_one(group: Path, tiny_model: Path, sharding):
    learner = make_learner(tiny_model)
    learner.load(group / f"{sharding}_plain_checkpoint")
    for batch in _batches()[1:]:
        learner.step(batch)
    together = load_file(group / f"{sharding}_plain.safetensors")
    assert largest_gap(tensors(learner), together) < SAME

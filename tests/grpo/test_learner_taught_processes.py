"""Tests for grpo/learner.py under a teacher: two real gloo processes do what one does."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from random_batches import KL, largest_gap, random_batch, tensors, train_config
from safetensors.torch import load_file, save_file
from taught_batches import heard, steps, taught_learner, write_teacher

from cotree.grpo.config_distill import Divergence
from cotree.grpo.objective import Taught
from cotree.grpo.sharding import join
from cotree.grpo.types import Batch

# As in test_learner.py: float32 sums in another order, against steps of 1e-2.
SAME = 2e-5
FORWARD = Taught(Divergence())
WITH_TRAIN = Taught(
    Divergence(kind="reverse_kl"), coef=0.5, train=train_config(kl=KL, updates_per_step=2)
)
CASES = {
    "resident": (WITH_TRAIN, True, {"micro_batch_tokens": 50, "packing": True}),
    "told": (FORWARD, False, {"micro_batch_tokens": 50}),
}


def _group_batches(teacher: Path, *, is_resident: bool) -> Sequence[Batch]:
    # Uneven on purpose: 5 rows for two processes, then one row, so that one of them has none.
    batches = [random_batch(0, rows=5), random_batch(1, rows=1), random_batch(2, rows=4)]
    if is_resident:
        return batches
    return [
        heard(teacher, batch, silent=(1, 3) if len(batch.lengths) > 1 else ()) for batch in batches
    ]


def _train_in_group(rank: int, folder: Path, model: Path, teacher: Path) -> None:
    """One of two processes: every case under DDP and FSDP2; the first writes the weights."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), 2)
    join(store, host="127.0.0.1", rank=rank, world_size=2)
    for sharding in ("ddp", "fsdp2"):
        both = {"rank": rank, "world_size": 2, "processes": 2, "sharding": sharding}
        for name, (objective, is_resident, settings) in CASES.items():
            asked = teacher if is_resident else None
            learner = taught_learner(model, objective, teacher=asked, **both, **settings)
            steps(learner, _group_batches(teacher, is_resident=is_resident))
            update = learner.weights()
            if rank == 0:
                save_file(update.tensors, folder / f"{sharding}_{name}.safetensors")
        learner = taught_learner(model, FORWARD, teacher=teacher, **both)
        scored = learner.logprobs([[5, 9, 7, 30, 12]], [1], of="teacher")
        valuer = taught_learner(model, "sft", **both)
        steps(valuer, [random_batch(0)])
        values = valuer.row_values(random_batch(3))
        save_file(
            {"teacher": torch.tensor(scored), "values": torch.tensor(values)},
            folder / f"{sharding}_asked_{rank}.safetensors",
        )
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tiny_model, tmp_path_factory.mktemp("teacher"), seed=1, sharpness=6.0)


@pytest.fixture(scope="module")
def group(tiny_model: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the weights that two processes reached in each case."""
    folder = tmp_path_factory.mktemp("group")
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=_train_in_group, args=(rank, folder, tiny_model, teacher))
        for rank in (0, 1)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=250)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0]
    return folder


@pytest.mark.parametrize("name", CASES)
def test_two_processes_reach_the_weights_of_one(group, tiny_model, teacher, name: str):
    objective, is_resident, settings = CASES[name]
    alone = taught_learner(
        tiny_model, objective, teacher=teacher if is_resident else None, **settings
    )
    start = tensors(alone)
    steps(alone, _group_batches(teacher, is_resident=is_resident))
    for sharding in ("ddp", "fsdp2"):
        together = load_file(group / f"{sharding}_{name}.safetensors")
        assert largest_gap(together, tensors(alone)) < SAME, sharding
        assert largest_gap(together, start) > 50 * SAME


def test_two_processes_value_rows_and_ask_the_teacher_as_one(group, tiny_model, teacher):
    learner = taught_learner(tiny_model, FORWARD, teacher=teacher)
    scored = torch.tensor(learner.logprobs([[5, 9, 7, 30, 12]], [1], of="teacher"))
    alone = taught_learner(tiny_model, "sft")
    steps(alone, [random_batch(0)])
    values = torch.tensor(alone.row_values(random_batch(3)))
    for sharding in ("ddp", "fsdp2"):
        for rank in (0, 1):
            asked = load_file(group / f"{sharding}_asked_{rank}.safetensors")
            torch.testing.assert_close(asked["teacher"], scored, atol=1e-5, rtol=0)
            torch.testing.assert_close(asked["values"], values, atol=1e-4, rtol=1e-4)

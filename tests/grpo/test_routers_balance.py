"""Tests for the balance loss of grpo/routers.py, on tiny mixtures of experts."""

import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from random_batches import random_batch
from routed_batches import (
    BATCH,
    NAMES,
    gates,
    gradients,
    other_routes,
    scores_of,
    write_routed,
)
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel

from cotree.grpo.expert_layers import use_grouped_experts
from cotree.grpo.models import load_model
from cotree.grpo.policy import Policy
from cotree.grpo.routers import Routers
from cotree.grpo.sharding import join, whole, wrap
from cotree.grpo.types import Batch


@pytest.fixture(scope="module", params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(request.param)
    write_routed(request.param, path)
    return path


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    return load_model(str(folder), dtype="float32").train()


def _balance(model: nn.Module, routers: Routers, batch: Batch, *, packing: bool = False):
    with routers.replaying(batch):
        scores_of(model, batch, packing=packing)
        return routers.balance_loss(batch)


def _by_definition(model: nn.Module, batch: Batch, coef: float) -> float:
    """Every row alone and without padding; eq. 17-20 with the paper's sums."""
    inputs: list[list[torch.Tensor]] = [[] for _ in gates(model)]
    hooks = [
        gate.register_forward_pre_hook(lambda _m, given, into=into: into.append(given[0]))
        for gate, into in zip(gates(model), inputs, strict=True)
    ]
    total = 0.0
    for row, length in enumerate(batch.lengths.tolist()):
        for into in inputs:
            into.clear()
        with torch.no_grad():
            model(batch.token_ids[row : row + 1, :length])
        share = int(batch.mask[row].sum()) / batch.num_tokens
        for gate, (hidden,) in zip(gates(model), inputs, strict=True):
            logits = hidden.reshape(-1, 64) @ gate.weight.detach().T
            biased = hasattr(gate, "e_score_correction_bias")
            scores = logits.sigmoid() if biased else logits.softmax(-1)
            for expert in range(8):
                best = [row_scores.argsort(descending=True)[:2].tolist() for row_scores in scores]
                frequency = 8 / (2 * length) * sum(expert in chosen for chosen in best)
                mean = float((scores[:, expert] / scores.sum(1)).mean())
                total += coef * share * frequency * mean
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("packing", [False, True])
def test_the_balance_loss_is_that_of_the_paper(model, packing: bool):
    routers = Routers(model, balance_coef=0.5)
    mask = BATCH.mask.clone()
    mask[2] = False
    batch = replace(BATCH, mask=mask)
    loss = _balance(model, routers, batch, packing=packing)
    assert float(loss.detach()) == pytest.approx(_by_definition(model, batch, 0.5), rel=1e-5)


def test_the_balance_loss_does_not_depend_on_how_a_step_is_cut(model):
    routers = Routers(model, balance_coef=0.5)
    whole = _balance(model, routers, BATCH)
    whole.backward()
    expected = gradients(model)
    total = 0.0
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        fields = ("token_ids", "lengths", "mask", "behavior_logprobs", "advantages", "weights")
        part = replace(BATCH, **{name: getattr(BATCH, name)[rows] for name in fields})
        loss = _balance(model, routers, part)
        loss.backward()
        total += float(loss.detach())
    assert total == pytest.approx(float(whole.detach()), rel=1e-5)
    for name, grad in gradients(model).items():
        torch.testing.assert_close(grad, expected[name], rtol=1e-3, atol=1e-6)


def test_a_forward_without_gradients_is_not_the_trained_one(model):
    routers = Routers(model, balance_coef=0.5)
    with routers.replaying(BATCH):
        scores_of(model, BATCH)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)
            scores_of(model, BATCH)  # such as a reference policy, in the same modules
            for parameter in model.parameters():
                parameter.div_(2)
        loss = routers.balance_loss(BATCH)
    assert float(loss.detach()) == float(_balance(model, routers, BATCH).detach())


def test_gradients_of_the_balance_loss_even_out_the_load(model):
    routers = Routers(model, balance_coef=1.0)
    optimizer = torch.optim.SGD([gate.weight for gate in gates(model)], lr=0.02)
    losses = []
    for _ in range(20):
        loss = _balance(model, routers, BATCH)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.01
    assert math.isfinite(losses[-1])


def test_without_a_coefficient_there_is_no_balance_loss(model):
    assert _balance(model, Routers(model, balance_coef=0.0), BATCH) is None


def test_a_forward_is_balanced_once(model):
    routers = Routers(model, balance_coef=0.5)
    with routers.replaying(BATCH):
        scores_of(model, BATCH)
        assert routers.balance_loss(BATCH) is not None
        with pytest.raises(ValueError, match="call balance_loss once"):
            routers.balance_loss(BATCH)


def test_a_balance_loss_without_a_trained_forward_is_an_error(model):
    routers = Routers(model, balance_coef=0.5)
    scores_of(model, BATCH)
    with pytest.raises(ValueError, match="no trained forward was seen"):
        routers.balance_loss(BATCH)
    with routers.replaying(BATCH):
        with torch.no_grad():
            scores_of(model, BATCH)
        with pytest.raises(ValueError, match="no trained forward was seen"):
            routers.balance_loss(BATCH)


# --- two processes ---------------------------------------------------------------------------


def _routed_batch(model: nn.Module, seed: int) -> Batch:
    batch = random_batch(seed, vocab=99)
    return replace(batch, routes=other_routes(model, batch))


def _train_in_group(rank: int, out: Path, folder: Path) -> None:
    """One of two processes with other rows each: replay and balance under DDP and FSDP2."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(out / "store"), 2)
    join(store, host="127.0.0.1", rank=rank, world_size=2)
    accelerator = Accelerator(cpu=True)
    for sharding in ("ddp", "fsdp2"):
        network = load_model(str(folder), dtype="float32").train()
        network.gradient_checkpointing_enable({"use_reentrant": False})
        use_grouped_experts(network)
        routers = Routers(network, balance_coef=0.5)
        wrapped = wrap(Policy(network, packing=False), accelerator, sharding)
        batch = _routed_batch(network, rank)
        with routers.replaying(batch):
            logprobs, _ = wrapped(batch, 1.0)
            (logprobs.sum() / batch.num_tokens + routers.balance_loss(batch)).backward()
        grads = {name: whole(p.grad).clone() for name, p in network.named_parameters()}
        if rank == 0:
            save_file(grads, out / f"{sharding}.safetensors")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_average_the_gradients_of_replay_and_balance(folder: Path, tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    group = [
        spawn.Process(target=_train_in_group, args=(rank, tmp_path, folder)) for rank in range(2)
    ]
    for process in group:
        process.start()
    for process in group:
        process.join(120)
    assert [process.exitcode for process in group] == [0, 0]
    alone = load_model(str(folder), dtype="float32").train()
    routers = Routers(alone, balance_coef=0.5)
    for rank in range(2):
        batch = _routed_batch(alone, rank)
        with routers.replaying(batch):
            loss = scores_of(alone, batch).sum() / batch.num_tokens + routers.balance_loss(batch)
            (loss / 2).backward()
    expected = gradients(alone)
    for sharding in ("ddp", "fsdp2"):
        got = load_file(tmp_path / f"{sharding}.safetensors")
        assert got.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(got[name], grad, rtol=1e-3, atol=1e-5)

"""Tests for grpo/expert_balance.py, on real tiny models; two gloo processes at the end."""

import math
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from deepseek_models import ALPHABET, UNGROUPED
from peft import LoraConfig, get_peft_model
from random_batches import random_batch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from cotree.grpo.expert_balance import ExpertLoads
from cotree.grpo.models import create_model, load_model
from cotree.grpo.policy import Policy, policy_logprobs
from cotree.grpo.sharding import join, wrap
from cotree.grpo.tree_packing import pack_trees
from cotree.grpo.types import Batch
from cotree.kernels.expert_bias import max_violation

GATES = ("model.layers.1.mlp.gate", "model.layers.2.mlp.gate")
BATCH = random_batch(0, vocab=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deepseek")
    create_model(UNGROUPED, path, alphabet=ALPHABET, seed=5)
    return path


@pytest.fixture
def model(folder: Path) -> PreTrainedModel:
    """A skewed one: each layer's bias favours the later experts."""
    network = load_model(str(folder), dtype="float32").train()
    for gate in GATES:
        network.get_submodule(gate).e_score_correction_bias.copy_(torch.arange(8) * 0.02)
    return network


def _forward(model: nn.Module, loads: ExpertLoads, batch: Batch, *, packing: bool = False):
    with loads.counting(batch):
        return policy_logprobs(model, batch, temperature=1.0, packing=packing)[0]


def _recount(model: PreTrainedModel, batch: Batch) -> dict[str, list[int]]:
    """Loads by definition: every row alone without padding, the two best of score + bias."""
    seen = {gate: [0] * 8 for gate in GATES}

    def record(gate: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        (name,) = (name for name in GATES if model.get_submodule(name) is gate)
        for hidden in inputs[0].reshape(-1, 32):
            scores = torch.sigmoid(gate.weight @ hidden) + gate.e_score_correction_bias
            for expert in sorted(range(8), key=lambda e: -float(scores[e]))[:2]:
                seen[name][expert] += 1

    hooks = [model.get_submodule(name).register_forward_pre_hook(record) for name in GATES]
    with torch.no_grad():
        for row, length in zip(batch.token_ids, batch.lengths.tolist(), strict=True):
            model(row[None, :length])
    for hook in hooks:
        hook.remove()
    return seen


def _counts(loads: ExpertLoads) -> dict[str, list[int]]:
    return {name: counts.tolist() for name, counts in loads.loads().items()}


@pytest.mark.parametrize("packing", [False, True])
def test_counts_are_those_of_the_real_tokens_in_either_layout(model, packing: bool):
    loads = ExpertLoads(model, rate=0.0)
    _forward(model, loads, BATCH, packing=packing)
    assert _counts(loads) == _recount(model, BATCH)
    assert sum(_counts(loads)[GATES[0]]) == 2 * int(BATCH.lengths.sum())


def test_micro_batches_add_up_to_the_batch(model):
    loads = ExpertLoads(model, rate=0.0)
    for row in range(len(BATCH.lengths)):
        rows = slice(row, row + 1)
        one = Batch(*(getattr(BATCH, f)[rows] for f in ("token_ids", "lengths", "mask")), *[
            getattr(BATCH, f)[rows] for f in ("behavior_logprobs", "advantages", "weights")
        ], BATCH.num_tokens)  # fmt: skip
        _forward(model, loads, one)
    assert _counts(loads) == _recount(model, BATCH)


def test_a_trees_shared_tokens_are_counted_once(model):
    ids = BATCH.token_ids.clone()
    ids[:, :4] = ids[0, :4]  # one prompt of four tokens
    batch = replace(BATCH, token_ids=ids)
    tree = pack_trees(batch, max_tokens=1000, balance=math.inf)
    loads = ExpertLoads(model, rate=0.0)
    _forward(model, loads, tree)
    assert len(tree.lengths) == 1
    assert sum(_counts(loads)[GATES[0]]) == 2 * int(tree.lengths.sum())
    assert int(tree.lengths.sum()) <= int(batch.lengths.sum()) - 4 * 5


def test_rows_without_a_trained_token_are_not_counted(model):
    mask = BATCH.mask.clone()
    mask[1] = False
    loads = ExpertLoads(model, rate=0.0)
    for packing in (False, True):
        _forward(model, loads, replace(BATCH, mask=mask), packing=packing)
        assert sum(_counts(loads)[GATES[0]]) == 2 * int(BATCH.lengths.sum() - BATCH.lengths[1])
        loads.clear()


def test_checkpointed_gradients_do_not_count_twice(model):
    expected = _recount(model, BATCH)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    loads = ExpertLoads(model, rate=0.0)
    _forward(model, loads, BATCH).sum().backward()
    assert _counts(loads) == expected
    # With backward inside they would: the recomputed forward goes through the same routers.
    loads.clear()
    with loads.counting(BATCH):
        policy_logprobs(model, BATCH, temperature=1.0, packing=False)[0].sum().backward()
    assert _counts(loads) == {name: [2 * n for n in counts] for name, counts in expected.items()}


def test_a_forward_outside_of_counting_is_not_counted(model):
    loads = ExpertLoads(model, rate=0.0)
    policy_logprobs(model, BATCH, temperature=1.0, packing=False)
    assert _counts(loads) == {name: [0] * 8 for name in GATES}
    assert loads.update() == {}


def test_counting_with_the_batch_of_another_forward_is_refused(model):
    loads = ExpertLoads(model, rate=0.0)
    with loads.counting(BATCH), pytest.raises(ValueError, match="the batch of that forward"):
        policy_logprobs(model, random_batch(1, rows=3, vocab=32), temperature=1.0, packing=False)


def test_an_update_moves_every_bias_against_its_load_and_starts_to_count_anew(model):
    loads = ExpertLoads(model, rate=0.25)
    _forward(model, loads, BATCH)
    counts = loads.loads()
    before = {g: model.get_submodule(g).e_score_correction_bias.clone() for g in GATES}
    weights = {name: p.clone() for name, p in model.named_parameters()}
    measured = loads.update()
    for gate in GATES:
        moved = model.get_submodule(gate).e_score_correction_bias - before[gate]
        mean = 2 * int(BATCH.lengths.sum()) / 8
        expected = [0.25 * ((n < mean) - (n > mean)) for n in counts[gate].tolist()]
        assert moved.tolist() == pytest.approx(expected, abs=1e-6)
        assert not model.get_submodule(gate).e_score_correction_bias.requires_grad
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())
    assert _counts(loads) == {name: [0] * 8 for name in GATES}
    idle = [n == 0 for gate in GATES for n in counts[gate].tolist()]
    assert measured == {
        "experts/max_violation": max(max_violation(counts[gate]) for gate in GATES),
        "experts/idle_frac": pytest.approx(sum(idle) / 16),
    }


def test_without_a_rate_loads_are_told_and_biases_stay(model):
    loads = ExpertLoads(model, rate=0.0)
    _forward(model, loads, BATCH)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert loads.update()["experts/max_violation"] > 0.5  # the fixture's skew
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_update_for_which_nothing_was_counted_is_an_error(model):
    loads = ExpertLoads(model, rate=0.1)
    with pytest.raises(ValueError, match=r"within ExpertLoads\.counting"):
        loads.update()


def test_softmax_routers_are_counted_and_have_no_bias_to_move():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        qwen = Qwen3MoeForCausalLM(
            Qwen3MoeConfig(
                vocab_size=32,
                hidden_size=32,
                intermediate_size=32,
                moe_intermediate_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                head_dim=16,
                num_experts=4,
                num_experts_per_tok=2,
                pad_token_id=0,
            )
        )
    loads = ExpertLoads(qwen, rate=0.0)
    _forward(qwen, loads, BATCH)
    totals = {name: int(counts.sum()) for name, counts in loads.loads().items()}
    assert totals == {f"model.layers.{i}.mlp.gate": 2 * int(BATCH.lengths.sum()) for i in (0, 1)}
    assert loads.update().keys() == {"experts/max_violation", "experts/idle_frac"}
    with pytest.raises(ValueError, match=r"expert_bias_rate = 0\.1 has no effect"):
        ExpertLoads(qwen, rate=0.1)


def test_a_model_without_experts_has_nothing_to_tell(tiny_model: Path):
    dense = load_model(str(tiny_model), dtype="float32")
    loads = ExpertLoads(dense, rate=0.0)
    _forward(dense, loads, BATCH)
    assert loads.update() == {}
    with pytest.raises(ValueError, match="no router"):
        ExpertLoads(dense, rate=0.1)


def test_adapters_around_the_model_change_nothing(model):
    expected = list(_recount(model, BATCH).values())
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    loads = ExpertLoads(adapted, rate=0.5)
    _forward(adapted, loads, BATCH)
    assert list(_counts(loads).values()) == expected
    before = model.get_submodule(GATES[0]).e_score_correction_bias.clone()
    loads.update()
    assert not torch.equal(model.get_submodule(GATES[0]).e_score_correction_bias, before)


def _violation_after_training(folder: Path, *, rate: float) -> float:
    """Mean over the last ten of sixty steps of supervised training on digits that count up."""
    network = load_model(str(folder), dtype="float32").train()
    loads = ExpertLoads(network, rate=rate)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    violations: list[float] = []
    for step in range(60):
        batch = random_batch(step, rows=16)
        columns = torch.arange(batch.token_ids.shape[1])
        batch = replace(batch, token_ids=2 + (batch.token_ids[:, :1] + columns) % 10)
        (-_forward(network, loads, batch).sum() / batch.num_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
        violations.append(loads.update()["experts/max_violation"])
    return sum(violations[-10:]) / 10


def test_training_with_updates_ends_with_a_more_even_load(folder: Path):
    balanced = _violation_after_training(folder, rate=0.01)
    assert balanced < 0.6 * _violation_after_training(folder, rate=0.0)


# --- two processes ---------------------------------------------------------------------------


def _balance_in_group(rank: int, out: Path, folder: Path) -> None:
    """One of two processes with other rows each: an update under DDP and one under FSDP2."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(out / "store"), 2)
    join(store, host="127.0.0.1", rank=rank, world_size=2)
    accelerator = Accelerator(cpu=True)
    for sharding in ("ddp", "fsdp2"):
        network = load_model(str(folder), dtype="float32").train()
        wrapped = wrap(Policy(network, packing=False), accelerator, sharding)
        loads = ExpertLoads(network, rate=0.25)
        for seed in range(2):
            batch = random_batch(2 * seed + rank, vocab=32)
            with loads.counting(batch):
                logprobs, _ = wrapped(batch, 1.0)
            logprobs.sum().backward()
        measured = loads.update()
        biases = {g: network.get_submodule(g).e_score_correction_bias for g in GATES}
        told = {name: torch.tensor(value) for name, value in measured.items()}
        save_file({**biases, **told}, out / f"{sharding}_{rank}.safetensors")
    torch.distributed.destroy_process_group()


def test_two_processes_move_the_biases_by_the_loads_of_both(folder: Path, tmp_path: Path):
    spawn = multiprocessing.get_context("spawn")
    group = [
        spawn.Process(target=_balance_in_group, args=(rank, tmp_path, folder)) for rank in range(2)
    ]
    for process in group:
        process.start()
    for process in group:
        process.join(120)
    assert [process.exitcode for process in group] == [0, 0]
    alone = load_model(str(folder), dtype="float32").train()
    loads = ExpertLoads(alone, rate=0.25)
    for seed in range(4):
        _forward(alone, loads, random_batch(seed, vocab=32))
    measured = loads.update()
    for name in ("ddp_0", "ddp_1", "fsdp2_0", "fsdp2_1"):
        got = load_file(tmp_path / f"{name}.safetensors")
        for gate in GATES:
            assert torch.equal(got[gate], alone.get_submodule(gate).e_score_correction_bias)
        for stat, value in measured.items():
            assert float(got[stat]) == pytest.approx(value)

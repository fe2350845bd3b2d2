"""Tests for grpo/new_models.py: a DeepSeek-V3 made on the spot, through save, load and training."""

import json
from pathlib import Path

import pytest
import torch
from deepseek_models import ALPHABET, TINY
from random_batches import make_learner, random_batch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoTokenizer, DeepseekV3Config, DeepseekV3ForCausalLM, PreTrainedModel

from cotree.grpo.models import create_model, load_model
from cotree.grpo.new_models import new_model_config
from cotree.grpo.policy import check_policy
from cotree.grpo.weight_names import checkpoint_weights

BIAS = "model.layers.{}.mlp.gate.e_score_correction_bias"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("deepseek")
    create_model(TINY, path, alphabet=ALPHABET, seed=5)
    return path


def _with_biases(folder: Path, target: Path) -> Path:
    """A copy of the checkpoint whose routers' biases are odd float32 numbers."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    weights = load_file(target / "model.safetensors")
    for layer in (1, 2):
        weights[BIAS.format(layer)] = torch.linspace(-0.1, 0.1, 8) * layer + 1 / 3
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_every_size_of_the_configuration_reaches_the_architecture(folder: Path):
    built = new_model_config(TINY, AutoTokenizer.from_pretrained(folder))
    assert isinstance(built, DeepseekV3Config)
    expected = {
        "num_hidden_layers": 3,
        "first_k_dense_replace": 1,
        "hidden_size": 32,
        "num_attention_heads": 2,
        "kv_lora_rank": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "intermediate_size": 48,
        "n_routed_experts": 8,
        "num_experts_per_tok": 3,
        "moe_intermediate_size": 24,
        "n_shared_experts": 1,
        "n_group": 2,
        "topk_group": 2,
        "routed_scaling_factor": 1.5,
        "max_position_embeddings": 512,
        "vocab_size": 32,
    }
    assert {name: getattr(built, name) for name in expected} == expected


def test_the_saved_configuration_tells_an_engine_which_router_it_is(folder: Path):
    saved = json.loads((folder / "config.json").read_text())
    assert saved["topk_method"] == "noaux_tc"
    assert saved["scoring_func"] == "sigmoid"
    assert saved["num_nextn_predict_layers"] == 0
    assert saved["rope_parameters"] == {"rope_type": "default", "rope_theta": 10000.0}
    assert saved["rope_interleave"] is True
    assert saved["tie_word_embeddings"] is False
    assert (saved["pad_token_id"], saved["eos_token_id"]) == (0, 1)
    names = load_file(folder / "model.safetensors")
    assert names["lm_head.weight"].shape == (32, 32)
    assert names[BIAS.format(1)].tolist() == [0.0] * 8
    assert BIAS.format(0) not in names  # the first layer has no experts
    assert "model.layers.2.mlp.experts.7.down_proj.weight" in names


def test_the_seed_alone_decides_a_deepseeks_weights(folder: Path, tmp_path: Path):
    create_model(TINY, tmp_path / "same", alphabet=ALPHABET, seed=5)
    create_model(TINY, tmp_path / "other", alphabet=ALPHABET, seed=6)
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
    weights = (folder / "model.safetensors").read_bytes()
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


@pytest.mark.parametrize("query_rank", [None, 12])
def test_a_reloaded_deepseek_computes_the_same_logits(tmp_path: Path, query_rank: int | None):
    sizes = TINY.model_copy(update={"query_rank": query_rank, "shared_experts": 2})
    create_model(sizes, tmp_path, alphabet=ALPHABET, seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        made = DeepseekV3ForCausalLM(
            new_model_config(sizes, AutoTokenizer.from_pretrained(tmp_path))
        )
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        ours, theirs = made(ids).logits, load_model(str(tmp_path), dtype="float32")(ids).logits
    assert torch.equal(ours, theirs)
    assert float(ours.std()) > 0


@pytest.mark.parametrize("layout", ["padded", "packing", "share_prefixes"])
def test_our_logprobs_of_a_deepseek_are_its_own(folder: Path, layout: str):
    model = load_model(str(folder), dtype="float32").train()
    settings = {name: name == layout for name in ("packing", "share_prefixes")}
    check_policy(model, **settings)


def _losses(model: PreTrainedModel, *, steps: int) -> list[float]:
    """Cross-entropy over steps of AdamW on rows that count upwards from a random digit."""
    random = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses: list[float] = []
    for _ in range(steps):
        starts = torch.randint(0, 10, (16, 1), generator=random)
        ids = 2 + (starts + torch.arange(24)) % 10
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_new_deepseek_learns_to_count_with_and_without_checkpointed_gradients(folder: Path):
    plain = load_model(str(folder), dtype="float32").train()
    losses = _losses(plain, steps=30)
    # Uniform over 32 tokens is 3.47 nats; the next digit is certain.
    assert losses[0] == pytest.approx(3.47, abs=0.1)
    assert losses[-1] < 1.0
    checkpointed = load_model(str(folder), dtype="float32").train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    assert _losses(checkpointed, steps=5) == pytest.approx(losses[:5], abs=1e-5)


def test_every_part_of_a_new_deepseek_is_trained(folder: Path):
    model = load_model(str(folder), dtype="float32").train()
    ids = torch.randint(0, 32, (8, 32), generator=torch.Generator().manual_seed(0))
    model(input_ids=ids, labels=ids).loss.backward()
    untrained = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert untrained == []


def test_trained_weights_go_through_checkpoint_names_and_back_bit_for_bit(
    folder: Path, tmp_path: Path
):
    model = load_model(str(folder), dtype="float32").train()
    _losses(model, steps=3)
    for layer in (1, 2):
        bias = model.get_buffer(BIAS.format(layer))
        bias.copy_(torch.linspace(-0.1, 0.1, 8) * layer + 1 / 3)
    named = checkpoint_weights(model, model.state_dict())
    assert named.keys() == load_file(folder / "model.safetensors").keys()
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    contiguous = {name: tensor.detach().contiguous() for name, tensor in named.items()}
    save_file(contiguous, tmp_path / "model.safetensors", metadata={"format": "pt"})
    again = load_model(str(tmp_path), dtype="float32").state_dict()
    assert again.keys() == model.state_dict().keys()
    assert all(torch.equal(again[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_biases_are_float32_whatever_the_weights_are(folder: Path, tmp_path: Path, dtype: str):
    model = load_model(str(_with_biases(folder, tmp_path / "m")), dtype=dtype)
    bias = model.get_buffer(BIAS.format(2))
    assert torch.equal(bias, torch.linspace(-0.1, 0.1, 8) * 2 + 1 / 3)
    assert bias.dtype == torch.float32
    assert not isinstance(bias, nn.Parameter)


@pytest.mark.parametrize("cut", [{}, {"packing": True}, {"gradient_checkpointing": True}], ids=str)
def test_a_learner_trains_a_deepseek_and_its_checkpoint_keeps_the_biases(
    folder: Path, tmp_path: Path, cut: dict[str, object]
):
    # Biases that are not those the learner starts from, so that only the checkpoint has them.
    learner = make_learner(_with_biases(folder, tmp_path / "m"), **cut)
    learner.step(random_batch(0, vocab=32))
    learner.save(tmp_path / "saved")
    saved = learner.weights().tensors
    assert torch.equal(saved[BIAS.format(2)], torch.linspace(-0.1, 0.1, 8) * 2 + 1 / 3)
    resumed = make_learner(folder, **cut)
    assert not torch.equal(resumed.weights().tensors[BIAS.format(2)], saved[BIAS.format(2)])
    resumed.load(tmp_path / "saved")
    for each in (learner, resumed):
        each.step(random_batch(1, vocab=32))
    ours, theirs = learner.weights().tensors, resumed.weights().tensors
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    moved = [name for name in ours if not torch.equal(ours[name], saved[name])]
    assert "model.layers.2.mlp.gate.weight" in moved
    assert BIAS.format(2) not in moved

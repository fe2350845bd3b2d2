"""Tests for grpo/exporting/linear_weights.py."""

from pathlib import Path

import pytest
import tiny_experts
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from cotree.grpo.exporting.linear_weights import is_quantized, kept_modules
from cotree.grpo.stored_tensors import tensors_in


@pytest.mark.parametrize("write", [tiny_experts.write_qwen3_moe, tiny_experts.write_deepseek_v3])
def test_what_is_quantized_is_what_transformers_makes_linear_layers_of(tmp_path: Path, write):
    write(tmp_path)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path))
    linear = {
        f"{name}.weight" for name, module in model.named_modules() if isinstance(module, nn.Linear)
    }
    stored = tensors_in(tmp_path)

    quantized = {name for name in stored.names() if is_quantized(name, stored.shape(name))}

    experts = {name for name in stored.names() if ".experts." in name}  # one tensor in the model
    assert experts
    assert quantized == linear - {"lm_head.weight"} | experts


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "lm_head.weight",
        "model.layers.3.mlp.gate.weight",
        "model.layers.3.mlp.shared_expert_gate.weight",
        "model.layers.61.eh_proj.weight",
        "model.layers.61.shared_head.head.weight",
        "model.layers.61.embed_tokens.weight",
    ],
)
def test_matrices_that_deepseek_keeps_are_kept(name: str):
    assert not is_quantized(name, (256, 128))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.norm.weight", (128,)),
        ("model.layers.0.self_attn.q_proj.bias", (128,)),
        ("model.layers.3.mlp.gate.e_score_correction_bias", (8,)),
    ],
)
def test_vectors_are_kept(name: str, shape: tuple[int, ...]):
    assert not is_quantized(name, shape)


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.gate_proj.weight",
        "model.layers.0.self_attn.kv_a_proj_with_mqa.weight",
        "model.layers.0.block_sparse_moe.experts.7.w2.weight",
        "model.layers.61.mlp.experts.0.down_proj.weight",
    ],
)
def test_linear_layers_are_quantized(name: str):
    assert is_quantized(name, (256, 128))


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("transformer.wpe.weight", (1024, 64)),
        ("transformer.h.0.attn.c_attn.weight", (64, 192)),  # a transposed Conv1D
        ("model.layers.0.mlp.experts.gate_up_proj", (8, 64, 32)),
        ("visual.patch_embed.proj.weight", (64, 3, 2, 14, 14)),
    ],
)
def test_what_is_not_known_is_refused_and_not_guessed(name: str, shape: tuple[int, ...]):
    with pytest.raises(ValueError, match="cannot tell whether"):
        is_quantized(name, shape)


def test_exceptions_are_linear_layers_and_a_tied_head():
    names = ["model.embed_tokens.weight", "model.layers.3.mlp.gate.weight", "model.norm.weight"]
    assert kept_modules(names) == ["lm_head", "model.layers.3.mlp.gate"]

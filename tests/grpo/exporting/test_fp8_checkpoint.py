"""Tests for grpo/exporting/fp8_checkpoint.py: transformers is the judge of the format."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny_experts
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from cotree.grpo.exporting.fp8_checkpoint import write_fp8_checkpoint
from cotree.kernels.fp8 import dequantize_blocks

SOME_BLOCKS = {"hidden_size": 256, "intermediate_size": 384, "moe_intermediate_size": 128}


def dequantized(folder: Path) -> dict[str, torch.Tensor]:
    """A block-quantized checkpoint's weights as float32, by the definition of the format."""
    stored = load_file(folder / "model.safetensors")
    scales = {name: t for name, t in stored.items() if name.endswith("_scale_inv")}
    return {
        name: dequantize_blocks(tensor, scales[f"{name}_scale_inv"]).contiguous()
        if f"{name}_scale_inv" in scales
        else tensor
        for name, tensor in stored.items()
        if name not in scales
    }


def loaded(folder: Path) -> Any:
    """The model in float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.mark.parametrize("scales", ["pow2", "float32"])
@pytest.mark.parametrize("write", [tiny_experts.write_qwen3_moe, tiny_experts.write_deepseek_v3])
def test_transformers_loads_what_the_blocks_say(tmp_path: Path, write, scales):
    write(tmp_path / "a", **SOME_BLOCKS)
    write_fp8_checkpoint(tmp_path / "a", tmp_path / "b", scales=scales)
    # The same checkpoint with float32 weights in place of blocks.
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    weights = dequantized(tmp_path / "b")
    save_file(weights, tmp_path / "c" / "model.safetensors", metadata={"format": "pt"})

    model, reference = loaded(tmp_path / "b"), loaded(tmp_path / "c")

    theirs, ours = model.state_dict(), reference.state_dict()
    assert theirs.keys() == ours.keys()
    assert max(float((theirs[name] - ours[name]).abs().max()) for name in ours) == 0.0
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(model(ids).logits, reference(ids).logits)


def test_blocks_differ_from_the_weights_by_less_than_half_a_step(tmp_path: Path):
    # E4M3 keeps 3 bits after the leading one: half a step is 2^-4 of the value, or for small ones
    # 2^-10 of the scale; with pow2 scales s < 2 amax / 448.
    tiny_experts.write_qwen3_moe(tmp_path / "a", **SOME_BLOCKS)
    write_fp8_checkpoint(tmp_path / "a", tmp_path / "b", scales="pow2")
    before, after = load_file(tmp_path / "a" / "model.safetensors"), dequantized(tmp_path / "b")
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed
    for name in changed:
        weight = before[name]
        bound = torch.maximum(weight.abs() * 2**-4, weight.abs().max() * 2 / 448 * 2**-10)
        assert bool(((after[name] - weight).abs() <= bound).all())


def test_configuration_and_tensors_are_those_of_deepseek_v3(tmp_path: Path):
    tiny_experts.write_deepseek_v3(tmp_path / "a", **SOME_BLOCKS)
    write_fp8_checkpoint(tmp_path / "a", tmp_path / "b", scales="pow2")

    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["quantization_config"] == {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": [128, 128],
        "scale_fmt": "ue8m0",
        "modules_to_not_convert": ["lm_head", "model.layers.1.mlp.gate"],
    }
    stored = load_file(tmp_path / "b" / "model.safetensors")
    name = "model.layers.0.mlp.gate_proj.weight"  # [384, 256]
    assert stored[name].dtype == torch.float8_e4m3fn
    assert stored[f"{name}_scale_inv"].shape == (3, 2)
    assert stored[f"{name}_scale_inv"].dtype == torch.float32
    assert torch.equal(stored[f"{name}_scale_inv"].log2() % 1, torch.zeros(3, 2))
    before = load_file(tmp_path / "a" / "model.safetensors")
    kept = [n for n in before if stored[n].dtype != torch.float8_e4m3fn]
    assert all(torch.equal(stored[n], before[n]) for n in kept)
    assert {"model.layers.1.mlp.gate.weight", "lm_head.weight"} <= set(kept)


def test_float32_scales_are_not_said_to_be_powers_of_two(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a")
    write_fp8_checkpoint(tmp_path / "a", tmp_path / "b", scales="float32")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert "scale_fmt" not in config["quantization_config"]


def test_weights_that_do_not_fill_their_blocks_are_named(tmp_path: Path):
    tiny_experts.write_qwen3_moe(tmp_path / "a", hidden_size=192, intermediate_size=256)
    done = write_fp8_checkpoint(tmp_path / "a", tmp_path / "b", scales="pow2")
    assert "model.layers.0.self_attn.q_proj.weight" in done.ragged
    stored = load_file(tmp_path / "b" / "model.safetensors")
    name = "model.layers.0.self_attn.o_proj.weight"  # [192, 64]: 128 + 64 rows
    assert stored[f"{name}_scale_inv"].shape == (2, 1)


def test_weights_that_fill_their_blocks_are_not_named(tmp_path: Path):
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}  # of 32: keys are [128, 256]
    tiny_experts.write_qwen3_moe(tmp_path / "a", **SOME_BLOCKS, **heads)
    done = write_fp8_checkpoint(tmp_path / "a", tmp_path / "b", scales="pow2")
    assert done.ragged == ()

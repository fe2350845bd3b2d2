"""Tests for grpo/exporting/quantized_checkpoint.py: what both formats have in common."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_experts
import torch
from safetensors.torch import load_file, save_file

from cotree.grpo.exporting.quantized_checkpoint import QuantizedCheckpoint, write_quantized
from cotree.grpo.stored_tensors import tensors_in


def write(source: Path, target: Path, **options: Any) -> QuantizedCheckpoint:
    """As `write_quantized`, in a format of signs and sizes."""
    return write_quantized(
        source,
        target,
        quantize=lambda weight: {"weight": weight.sign().to(torch.int8), "size": weight.abs()},
        quantization_config=lambda kept: {"quant_method": "signs", "kept": kept},
        **options,
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tiny_experts.write_qwen3_moe(tmp_path / "model")
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    return tmp_path / "model"


def test_sharded_in_and_out_is_the_same_as_whole(model: Path, tmp_path: Path):
    whole = write(model, tmp_path / "whole")
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    halves = {"model-00001-of-00002.safetensors": {}, "model-00002-of-00002.safetensors": {}}
    for index, (name, tensor) in enumerate(tensors.items()):
        list(halves.values())[index % 2][name] = tensor
    for file, half in halves.items():
        save_file(half, model / file)
    weight_map = {name: file for file, half in halves.items() for name in half}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    sharded = write(model, tmp_path / "sharded", shard_bytes=50_000)

    assert len(list((tmp_path / "sharded").glob("model-*.safetensors"))) > 2
    one, other = tensors_in(tmp_path / "whole"), tensors_in(tmp_path / "sharded")
    assert sorted(one.names()) == sorted(other.names())
    assert all(torch.equal(one.tensor(name), other.tensor(name)) for name in one.names())
    assert (whole.num_quantized, whole.num_kept, whole.bytes_after) == (
        sharded.num_quantized,
        sharded.num_kept,
        sharded.bytes_after,
    )


def test_parts_are_named_after_the_module_and_the_rest_is_as_it_was(model: Path, tmp_path: Path):
    # 2 layers: q, k, v, o and 4 experts of 3 matrices are 32 linear layers; 45 - 32 = 13 are kept:
    # embedding, head, final norm, and in each layer a router and 4 norms.
    done = write(model, tmp_path / "out")
    before, after = load_file(model / "model.safetensors"), tensors_in(tmp_path / "out")
    assert (done.num_quantized, done.num_kept) == (32, 13)
    name = "model.layers.1.mlp.experts.3.up_proj"
    assert torch.equal(
        after.tensor(f"{name}.weight") * after.tensor(f"{name}.size"), before[f"{name}.weight"]
    )
    router = "model.layers.1.mlp.gate.weight"
    assert torch.equal(after.tensor(router), before[router])
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    gates = [f"model.layers.{layer}.mlp.gate" for layer in (0, 1)]
    assert config["quantization_config"] == {"quant_method": "signs", "kept": ["lm_head", *gates]}
    assert config["hidden_size"] == 64


def test_a_quantized_checkpoint_is_not_quantized_again(model: Path, tmp_path: Path):
    write(model, tmp_path / "out")
    with pytest.raises(ValueError, match="quantized already"):
        write(tmp_path / "out", tmp_path / "again")


def test_a_broken_weight_is_refused_by_name_and_leaves_nothing(model: Path, tmp_path: Path):
    tensors = load_file(model / "model.safetensors")
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"layers\.1\.self_attn\.q_proj\.weight holds NaN"):
        write(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_integers_are_no_weights(model: Path, tmp_path: Path):
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.1.self_attn.q_proj.weight"
    tensors[name] = tensors[name].to(torch.int32)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="int32; only float32"):
        write(model, tmp_path / "out")

"""Tests for grpo/exporting/int8_checkpoint.py: compressed-tensors is the judge of the format."""

import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny_models import write_character_tokenizer, write_tiny_model

from cotree.grpo.exporting.int8_checkpoint import quantize_rows, write_int8_checkpoint

floats = st.floats(-(2.0**100), 2.0**100, width=32)


@given(st.lists(st.lists(floats, min_size=3, max_size=3), min_size=1, max_size=5))
def test_values_are_off_by_half_a_scale_at_most(rows: list[list[float]]):
    weight = torch.tensor(rows)
    quantized, scales = quantize_rows(weight)
    assert quantized.dtype == torch.int8
    assert int(quantized.min()) >= -127
    error = (quantized.double() * scales.double() - weight.double()).abs()
    # A scale below the normal range has fewer bits, so that 127 of it may miss the largest value.
    slack = scales.double() * 1e-5 + 127 * 2.0**-149
    assert bool((error <= scales.double() / 2 + slack).all())


@given(st.lists(floats, min_size=1, max_size=6), st.sampled_from([0.25, 4.0, -1.0]))
def test_values_do_not_depend_on_the_size_of_a_row(row: list[float], factor: float):
    weight = torch.tensor([[value if abs(value) > 1e-20 else 0.0 for value in row]])
    quantized, scales = quantize_rows(weight)
    other, other_scales = quantize_rows(weight * factor)
    assert torch.equal(other, quantized * int(math.copysign(1, factor)))
    if bool(weight.any()):
        assert torch.equal(other_scales, scales * abs(factor))


def test_the_largest_of_a_row_is_127_and_a_row_of_zeros_stays_zero():
    # 2.54 / 127 = 0.02, and 1.0 / 0.02 = 50.
    quantized, scales = quantize_rows(torch.tensor([[-2.54, 1.0], [0.0, 0.0]]))
    assert quantized.tolist() == [[-127, 50], [0, 0]]
    torch.testing.assert_close(scales, torch.tensor([[0.02], [1.0]]))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A tiny Qwen3 and its INT8 checkpoint."""
    source = tmp_path_factory.mktemp("int8") / "float"
    write_tiny_model(source, seed=0, vocab_size=write_character_tokenizer(source))
    target = source.with_name("int8")
    write_int8_checkpoint(source, target)
    return source, target


def test_compressed_tensors_reads_the_format_as_w8a8(checkpoints: tuple[Path, Path]):
    quantization = pytest.importorskip("compressed_tensors.quantization")
    config = json.loads((checkpoints[1] / "config.json").read_text())["quantization_config"]

    parsed = quantization.QuantizationConfig.model_validate(config)

    expected = quantization.preset_name_to_scheme("W8A8", ["Linear"])
    (scheme,) = parsed.config_groups.values()
    assert scheme.weights == expected.weights
    assert scheme.input_activations == expected.input_activations
    assert parsed.ignore == ["lm_head"]
    assert parsed.format == "int-quantized"


def test_compressed_tensors_dequantizes_to_what_we_mean(checkpoints: tuple[Path, Path]):
    forward = pytest.importorskip("compressed_tensors.quantization.lifecycle.forward")
    before, after = (load_file(folder / "model.safetensors") for folder in checkpoints)
    name = "model.layers.1.mlp.down_proj.weight"
    theirs = forward.dequantize(after[name], after[f"{name}_scale"])
    assert torch.equal(theirs, after[name] * after[f"{name}_scale"])
    assert float((theirs - before[name]).abs().max()) <= float(after[f"{name}_scale"].max()) / 2


def test_a_checkpoint_becomes_smaller(checkpoints: tuple[Path, Path]):
    before, after = (load_file(folder / "model.safetensors") for folder in checkpoints)
    name = "model.layers.0.mlp.gate_proj.weight"  # [128, 64]
    assert after[name].dtype == torch.int8
    assert after[f"{name}_scale"].shape == (128, 1)
    assert after[name].nbytes * 4 == before[name].nbytes
    embedding = "model.embed_tokens.weight"
    assert torch.equal(after[embedding], before[embedding])

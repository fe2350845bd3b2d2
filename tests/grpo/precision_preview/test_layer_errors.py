"""Tests for grpo/precision_preview/layer_errors.py: errors of layers against their definition."""

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cotree.grpo.config_learner import BFloat16, Fp8Block
from cotree.grpo.fp8_layers import Fp8Layers, fp8_layers
from cotree.grpo.models import load_model
from cotree.grpo.policy import policy_logprobs
from cotree.grpo.precision_preview.layer_errors import LayerErrors, LayerProbe
from cotree.grpo.precision_preview.preview import texts_of
from cotree.grpo.supervised import Example, sft_batch
from cotree.kernels.fp8 import dequantize_blocks, dequantize_tiles, quantize_blocks, quantize_tiles


def probed(tiny_model: Path, precision: Fp8Block) -> tuple[Fp8Layers, LayerProbe]:
    model = load_model(str(tiny_model), dtype=torch.float32)
    layers = fp8_layers(model, precision)
    layers.use(BFloat16())
    probe = LayerProbe(layers)
    texts = texts_of(str(tiny_model), None, longest=64, count=4)
    batch = sft_batch([Example(ids[:1], ids[1:]) for ids in texts])
    with torch.autocast("cpu", torch.bfloat16):
        logprobs, _ = policy_logprobs(model, batch, temperature=1.0, packing=False)
    (-(logprobs * batch.weights).sum()).backward()
    probe.close()
    return layers, probe


def by_name(found: list[LayerErrors]) -> dict[str, LayerErrors]:
    return {layer.name: layer for layer in found}


def test_an_output_error_is_that_of_the_dequantised_product(tiny_model: Path):
    layers, probe = probed(tiny_model, Fp8Block())
    name = "model.layers.1.mlp.up_proj"
    weight = layers.linears[name].weight.detach()
    x = probe._seen[name].inputs[0].float().flatten(0, 1)
    exact = functional.linear(x, weight)
    rounded = functional.linear(
        dequantize_tiles(*quantize_tiles(x, scales="pow2")),
        dequantize_blocks(*quantize_blocks(weight, scales="pow2")),
    )
    found = by_name(probe.errors(Fp8Block()))[name]
    expected = float((rounded - exact).norm() / exact.norm())
    # The layer's output is rounded to bfloat16, by 2^-9 of each value at most.
    assert found.low.output == pytest.approx(expected, rel=0.02)
    assert 0.01 < found.low.output < 0.06


def test_every_layer_is_measured_and_fp8_loses_more_than_bfloat16(tiny_model: Path):
    layers, probe = probed(tiny_model, Fp8Block())
    found = probe.errors(Fp8Block())
    assert {layer.name for layer in found} == set(layers.linears)
    for layer in found:
        for low, high in zip(
            (layer.low.output, layer.low.input_grad, layer.low.weight_grad),
            (layer.bfloat16.output, layer.bfloat16.input_grad, layer.bfloat16.weight_grad),
            strict=True,
        ):
            # 3 bits after the leading one against 7: sixteen times the rounding.
            assert 3 * high < low < 0.1
    # Measuring leaves no gradients behind.
    before = [layer.weight.grad.clone() for layer in layers.linears.values()]
    probe.errors(Fp8Block())
    after = [layer.weight.grad for layer in layers.linears.values()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_layers_that_are_skipped_are_left_out(tiny_model: Path):
    precision = Fp8Block(skip=("mlp.down_proj",))
    _, probe = probed(tiny_model, precision)
    names = [layer.name for layer in probe.errors(precision)]
    assert names
    assert not any(name.endswith("down_proj") for name in names)


def test_underflow_counts_values_that_become_zero(tiny_model: Path):
    _, probe = probed(tiny_model, Fp8Block())
    name = "model.layers.0.mlp.gate_proj"
    x = probe._seen[name].inputs[0]
    # One large value in a tile of 64: those below 2^-10 / 448 of it (half of the smallest e4m3,
    # 2^-9, at a scale of amax / 448 or up to twice that) are lost. Others are kept.
    x.zero_()
    x[0, 0, :4] = torch.tensor([448.0, 1.0, 1e-4, 1e-5])
    found = by_name(probe.errors(Fp8Block()))[name]
    # 448: the scale is 1; the smallest e4m3 is 2^-9 = 0.002: two of four values are lost.
    assert found.input_underflow == 0.5
    assert found.weight_underflow < 0.01

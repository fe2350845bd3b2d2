"""Tests for grpo/fp8_layers.py: which layers compute in FP8, and that each computes its recipe."""

import importlib.util
from pathlib import Path

import pytest
import torch
from devices import DEVICES
from torch import nn

from cotree.grpo.config_learner import BFloat16, Float32, Fp8Block, Fp8Scaled
from cotree.grpo.fp8_layers import Fp8Layers, Fp8Linear, fp8_layers
from cotree.grpo.models import load_model
from cotree.kernels.fp8 import block_linear

HAS_TORCHAO = importlib.util.find_spec("torchao") is not None


def prepared(tiny_model: Path, precision: Fp8Block | Fp8Scaled) -> tuple[nn.Module, Fp8Layers]:
    model = load_model(str(tiny_model), dtype=torch.float32)
    return model, fp8_layers(model, precision)


def test_every_linear_layer_but_the_head_can_be_in_fp8_and_nothing_else_changes(tiny_model: Path):
    before = load_model(str(tiny_model), dtype=torch.float32)
    model, layers = prepared(tiny_model, Fp8Block())
    # q, k, v, o, gate, up and down of two layers.
    assert len(layers.linears) == 2 * 7
    assert type(model.lm_head) is nn.Linear
    assert [name for name, _ in model.named_parameters()] == [
        name for name, _ in before.named_parameters()
    ]
    # No recipe yet: the same bits as before.
    ids = torch.arange(24)[None]
    assert torch.equal(model(input_ids=ids).logits, before(input_ids=ids).logits)


def test_a_precision_without_fp8_leaves_the_classes_alone(tiny_model: Path):
    model = load_model(str(tiny_model), dtype=torch.float32)
    assert not fp8_layers(model, BFloat16()).linears
    assert not any(isinstance(module, Fp8Linear) for module in model.modules())


@pytest.mark.parametrize("scales", ["pow2", "float32"])
def test_a_layer_computes_its_recipe_and_stops_when_told(tiny_model: Path, scales: str):
    precision = Fp8Block(scales=scales)
    model, layers = prepared(tiny_model, precision)
    layer = model.model.layers[0].mlp.gate_proj
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    plain = nn.functional.linear(x, layer.weight)
    layers.use(precision)
    assert torch.equal(layer(x), block_linear(x, layer.weight, None, scales=scales))
    assert not torch.equal(layer(x), plain)
    layers.use(Float32())
    assert torch.equal(layer(x), plain)


def test_skipped_layers_are_found_by_the_end_of_their_name(tiny_model: Path):
    precision = Fp8Block(skip=("down_proj", "layers.0.self_attn.q_proj"))
    _, layers = prepared(tiny_model, precision)
    left_out = set(layers.linears) - layers.used_by(precision)
    assert left_out == {
        "model.layers.0.mlp.down_proj",
        "model.layers.1.mlp.down_proj",
        "model.layers.0.self_attn.q_proj",
    }


@pytest.mark.parametrize("end", ["proj", "own_proj", "lm_head"])
def test_a_name_to_skip_that_ends_no_layers_name_is_an_error(tiny_model: Path, end: str):
    with pytest.raises(ValueError, match=rf"skip names '{end}'.*no layer's name ends in"):
        prepared(tiny_model, Fp8Block(skip=(end,)))


def test_skipping_every_layer_is_an_error(tiny_model: Path):
    own = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    with pytest.raises(ValueError, match="leaves no layer of this model"):
        prepared(tiny_model, Fp8Block(skip=own))


@pytest.mark.skipif(HAS_TORCHAO, reason="torchao is installed")
def test_what_needs_torchao_says_so(tiny_model: Path):
    with pytest.raises(
        ModuleNotFoundError, match=r"needs torchao: pip install .*float8.*fp8_block"
    ):
        prepared(tiny_model, Fp8Scaled(type="fp8_rowwise"))


@pytest.mark.skipif(not HAS_TORCHAO, reason="needs torchao: pip install 'cotree[float8]'")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["fp8_tensorwise", "fp8_rowwise"])
@pytest.mark.parametrize("rows", [32, 21])  # a GPU's product contracts over multiples of 16
def test_torchaos_products_are_close_forward_and_backward(
    tiny_model: Path, device: str, kind: str, rows: int
):
    precision = Fp8Scaled(type=kind)
    model, layers = prepared(tiny_model, precision)
    layer = model.model.layers[0].mlp.gate_proj.to(device)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 64, generator=generator).to(device).requires_grad_()
    plain = nn.functional.linear(x, layer.weight)
    exact = torch.autograd.grad(plain.square().sum(), [x, layer.weight])
    layers.use(precision)
    with torch.autocast(device, torch.bfloat16):
        found = layer(x)
    got = torch.autograd.grad(found.float().square().sum(), [x, layer.weight])
    for ours, true in zip([found, *got], [plain, *exact], strict=True):
        # e4m3 rounds by 2^-4 at most, e5m2 (a gradient's, tensorwise) by 2^-3.
        error = float((ours.float() - true).norm() / true.norm())
        assert 0.005 < error < 0.1

"""Tests for grpo/expert_layers.py: our experts against transformers' eager ones."""

import copy
import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from cotree.grpo.expert_layers import use_grouped_experts, use_scales
from cotree.grpo.models import load_model

SIZES = {
    "vocab_size": 40,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 3,
    "initializer_range": 0.2,
}
QWEN = Qwen3MoeConfig(**SIZES, head_dim=16, moe_intermediate_size=24, num_experts=6)
DEEPSEEK = DeepseekV3Config(
    **SIZES,
    moe_intermediate_size=24,
    n_routed_experts=6,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
    q_lora_rank=None,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
)
MIXTRAL = MixtralConfig(**SIZES, num_local_experts=6)
ARCHITECTURES = {
    "qwen3_moe": (Qwen3MoeForCausalLM, QWEN),
    "deepseek_v3": (DeepseekV3ForCausalLM, DEEPSEEK),
    "mixtral": (MixtralForCausalLM, MIXTRAL),
}
IDS = torch.randint(0, 40, (3, 17), generator=torch.Generator().manual_seed(1))


def _model(name: str) -> PreTrainedModel:
    architecture, config = ARCHITECTURES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = architecture(copy.deepcopy(config)).float()
    model.set_experts_implementation("eager")
    return model


def _trained(model: nn.Module) -> dict[str, torch.Tensor]:
    """Logits, and the gradient of every parameter that has one."""
    logits = model(input_ids=IDS, use_cache=False).logits.float()
    upstream = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * upstream).sum().backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return {"logits": logits.detach(), **grads}


def _assert_near(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor], rel: float) -> None:
    assert got.keys() == want.keys()
    for name, expected in want.items():
        gap, size = float((got[name] - expected).norm()), float(expected.norm())
        assert gap <= rel * size, (name, gap / size)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_values_and_gradients_are_those_of_the_eager_experts(name: str):
    model = _model(name)
    eager = _trained(model)
    assert len(use_grouped_experts(model)) == (1 if name == "deepseek_v3" else 2)
    _assert_near(_trained(model), eager, 1e-5)


def test_under_autocast_experts_multiply_in_bfloat16_and_add_in_float32():
    model = _model("qwen3_moe")
    (experts, _) = use_grouped_experts(model)
    x = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2]]).expand(5, 3)
    weights = torch.full((5, 3), 1 / 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = experts(x, ids, weights)
        expected = torch.zeros(5, 32)
        for expert in range(3):
            gate, up = nn.functional.linear(x, experts.gate_up_proj[expert]).chunk(2, -1)
            assert gate.dtype == torch.bfloat16
            hidden = nn.functional.silu(gate) * up
            expected += nn.functional.linear(hidden, experts.down_proj[expert]).float() / 3
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_a_bfloat16_model_is_as_near_to_float32_as_the_eager_one():
    exact = _trained(_model("qwen3_moe"))["logits"]
    model = _model("qwen3_moe").bfloat16()
    eager = _trained(model)["logits"]
    use_grouped_experts(model)
    ours = _trained(model)["logits"]
    assert float((ours - exact).norm()) <= 1.1 * float((eager - exact).norm())


def test_two_runs_are_equal_bit_for_bit_under_deterministic_algorithms():
    model = _model("qwen3_moe")
    use_grouped_experts(model)
    torch.use_deterministic_algorithms(mode=True)
    try:
        first, second = _trained(model), _trained(model)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradient_checkpointing_changes_no_bit():
    model = _model("deepseek_v3").train()
    use_grouped_experts(model)
    plain = _trained(model)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    again = _trained(model)
    assert all(torch.equal(again[name], plain[name]) for name in plain)


@pytest.mark.parametrize("scales", ["pow2", "float32"])
def test_experts_with_scales_multiply_in_fp8_until_they_are_taken_away(scales):
    model = _model("qwen3_moe")
    experts = use_grouped_experts(model)
    full = _trained(model)
    for module in experts:
        use_scales(module, scales)
    low = _trained(model)
    # e4m3 has 4 significant bits: products of 32 terms come out 3 to 4 % off.
    gap = float((low["logits"] - full["logits"]).norm() / full["logits"].norm())
    assert 0.005 < gap < 0.2
    assert low.keys() == full.keys()
    for module in experts:
        use_scales(module, None)
    assert torch.equal(_trained(model)["logits"], full["logits"])


def test_fp8_quantises_what_the_experts_are_given_and_not_what_autocast_makes_of_it():
    model = _model("qwen3_moe")
    (experts, _) = use_grouped_experts(model)
    use_scales(experts, "pow2")
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2]]).expand(50, 3)
    weights = torch.full((50, 3), 1 / 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        # Rounded to bfloat16 first, some values go to the other neighbour in e4m3.
        rounded = experts(x.bfloat16().float(), ids, weights)
        assert not torch.equal(experts(x, ids, weights), rounded)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": "all-linear"},
        {
            "target_modules": ["q_proj"],
            "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
        },
    ],
)
def test_adapters_train_as_they_do_on_eager_experts(settings: dict[str, object]):
    found = []
    for grouped in (False, True):
        model = _model("qwen3_moe")
        if grouped:
            assert len(use_grouped_experts(model)) == 2
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            adapted = get_peft_model(
                model, LoraConfig(r=2, lora_dropout=0.0, init_lora_weights=False, **settings)
            )
        found.append(_trained(adapted))
    _assert_near(found[1], found[0], 1e-5)


def test_experts_inside_an_adapter_are_found():
    adapted = get_peft_model(_model("qwen3_moe"), LoraConfig(r=2, target_modules=["q_proj"]))
    assert len(use_grouped_experts(adapted)) == 2
    assert adapted.get_base_model().config._experts_implementation == "cotree_grouped"


def test_a_saved_model_does_not_mention_how_it_was_computed(tmp_path: Path):
    model = _model("qwen3_moe")
    use_grouped_experts(model)
    model.save_pretrained(tmp_path)
    assert "cotree" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))


def test_experts_of_another_layout_are_left_alone():
    config = GptOssConfig(
        **SIZES, head_dim=16, num_local_experts=4, layer_types=["full_attention"] * 2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GptOssForCausalLM(config).float()
    before = model(input_ids=IDS).logits
    assert use_grouped_experts(model) == []
    assert torch.equal(model(input_ids=IDS).logits, before)


def test_a_model_without_experts_has_none(tiny_model: Path):
    assert use_grouped_experts(load_model(str(tiny_model), dtype="float32")) == []

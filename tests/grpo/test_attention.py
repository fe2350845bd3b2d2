"""Tests for grpo/attention.py."""

from pathlib import Path

import torch
from random_batches import random_batch

from cotree.grpo.attention import use_float32_attention
from cotree.grpo.models import load_model
from cotree.grpo.policy import policy_logprobs


def _logprobs(model, *, autocast: bool, packing: bool) -> torch.Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        return policy_logprobs(model, random_batch(0), temperature=1.0, packing=packing)[0]


def test_without_autocast_it_is_the_usual_attention(tiny_model: Path):
    usual, ours = (load_model(str(tiny_model), dtype="float32") for _ in range(2))
    use_float32_attention(ours)
    for packing in (False, True):
        expected = _logprobs(usual, autocast=False, packing=packing)
        assert torch.equal(_logprobs(ours, autocast=False, packing=packing), expected)


def test_under_autocast_it_is_no_further_from_float32_than_the_usual_one(tiny_model: Path):
    usual, ours = (load_model(str(tiny_model), dtype="float32") for _ in range(2))
    use_float32_attention(ours)
    exact = _logprobs(usual, autocast=False, packing=False)
    gaps = [
        float((_logprobs(model, autocast=True, packing=False) - exact).abs().mean())
        for model in (ours, usual)
    ]
    assert 0 < gaps[0] <= 1.05 * gaps[1]


def test_a_saved_model_does_not_name_it(tiny_model: Path, tmp_path: Path):
    model = load_model(str(tiny_model), dtype="float32")
    use_float32_attention(model)
    assert model.config._attn_implementation == "sdpa_float32"
    model.save_pretrained(tmp_path)
    assert "sdpa_float32" not in (tmp_path / "config.json").read_text()

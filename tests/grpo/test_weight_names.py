"""Tests for grpo/weight_names.py, against what save_pretrained writes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from cotree.grpo.models import load_model
from cotree.grpo.weight_names import checkpoint_weights

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=False)),
        LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
        OlmoeForCausalLM(OlmoeConfig(**SIZES, **EXPERTS)),
        Qwen3MoeForCausalLM(Qwen3MoeConfig(**SIZES, **EXPERTS, moe_intermediate_size=16)),
    ],
    ids=["llama", "llama_tied", "olmoe", "qwen3_moe"],
)
def test_names_and_values_are_those_of_save_pretrained(model: PreTrainedModel, tmp_path: Path):
    model.save_pretrained(tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    reloaded = load_model(str(tmp_path), dtype="float32")
    for source in (model, reloaded):
        ours = checkpoint_weights(source, source.state_dict())
        assert ours.keys() == written.keys()
        assert all(torch.equal(ours[name], written[name]) for name in written)

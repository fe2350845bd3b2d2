"""Mixtures of experts small enough for tests, written on the spot."""

from pathlib import Path
from typing import Any


def write_qwen3_moe(folder: Path, *, seed: int = 0, **changes: Any) -> None:
    """Writes a random Qwen3-MoE: 2 layers of 4 experts, 2 a token, weights normalized."""
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "initializer_range": 0.08,
        "dtype": "float32",
    }
    _write(Qwen3MoeForCausalLM, Qwen3MoeConfig(**(settings | changes)), folder, seed)


def write_deepseek_v3(folder: Path, *, seed: int = 0, **changes: Any) -> None:
    """Writes a random DeepSeek-V3: a dense layer, one of 8 experts in 2 groups, 2 of one a token.

    The routers' biases are random as well.
    """
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    settings: dict[str, Any] = {
        "vocab_size": 128,
        "hidden_size": 64,
        "intermediate_size": 128,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 2,
        "first_k_dense_replace": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_nope_head_dim": 16,
        "qk_rope_head_dim": 16,
        "v_head_dim": 16,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "topk_group": 1,
        "initializer_range": 0.08,
        "dtype": "float32",
    }
    _write(DeepseekV3ForCausalLM, DeepseekV3Config(**(settings | changes)), folder, seed)


def _write(architecture: Any, config: Any, folder: Path, seed: int) -> None:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = architecture(config)
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(std=0.1)
        model.save_pretrained(folder)

"""Configurations of models made on the spot, as transformers and vLLM read them."""

from __future__ import annotations

from typing import cast

from transformers import (
    DeepseekV3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from cotree.grpo.config_model import NewDeepseekModel, NewModel


def new_model_config(
    model: NewModel | NewDeepseekModel, tokenizer: PreTrainedTokenizerFast
) -> PreTrainedConfig:
    """The architecture that `model` describes, with one embedding row for each token."""
    if isinstance(model, NewModel):
        return _qwen3(model, tokenizer)
    return _deepseek_v3(model, tokenizer)


def _qwen3(model: NewModel, tokenizer: PreTrainedTokenizerFast) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=model.width,
        intermediate_size=model.mlp_width,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.kv_heads,
        head_dim=model.head_dim,
        max_position_embeddings=model.max_positions,
        tie_word_embeddings=True,
        pad_token_id=cast(int, tokenizer.pad_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
        bos_token_id=None,
        dtype="float32",
    )


def _deepseek_v3(model: NewDeepseekModel, tokenizer: PreTrainedTokenizerFast) -> DeepseekV3Config:
    config = DeepseekV3Config(
        vocab_size=len(tokenizer),
        hidden_size=model.width,
        intermediate_size=model.mlp_width,
        moe_intermediate_size=model.expert_width,
        num_hidden_layers=model.layers,
        first_k_dense_replace=model.dense_layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.heads,
        kv_lora_rank=model.kv_rank,
        q_lora_rank=model.query_rank,
        qk_nope_head_dim=model.nope_dim,
        qk_rope_head_dim=model.rope_dim,
        v_head_dim=model.value_dim,
        n_routed_experts=model.experts,
        num_experts_per_tok=model.experts_per_token,
        n_shared_experts=model.shared_experts,
        n_group=model.groups,
        topk_group=model.groups_per_token,
        routed_scaling_factor=model.scaling,
        norm_topk_prob=True,
        max_position_embeddings=model.max_positions,
        tie_word_embeddings=False,
        pad_token_id=cast(int, tokenizer.pad_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
        bos_token_id=None,
        num_mtp_layers=model.mtp_layers,  # transformers' own 1 would have vLLM look for weights
        dtype="float32",
    )
    # transformers knows this router only and does not write what it is. vLLM knows several, and
    # without these two it takes softmax scores and finds no place for the bias.
    config.update({"topk_method": "noaux_tc", "scoring_func": "sigmoid"})
    return config

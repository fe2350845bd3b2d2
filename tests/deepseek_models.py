"""Configurations of small models with DeepSeek-V3's architecture."""

from cotree.grpo.config_model import NewDeepseekModel

ALPHABET = tuple("0123456789+-*/()= \n.")
UNGROUPED = NewDeepseekModel(
    type="new_deepseek_v3",
    layers=3,
    width=32,
    heads=2,
    kv_rank=16,
    rope_dim=4,
    nope_dim=8,
    value_dim=8,
    mlp_width=48,
    expert_width=16,
)
"""For the learner; any expert may be chosen."""
TINY = UNGROUPED.model_copy(
    update={
        "expert_width": 24,
        "experts_per_token": 3,
        "groups": 2,
        "groups_per_token": 2,
        "scaling": 1.5,
    }
)
"""With experts in groups."""
TINY_MTP = TINY.model_copy(update={"mtp_layers": 1})
"""With a multi-token prediction module."""
ENGINE_MTP = NewDeepseekModel(
    type="new_deepseek_v3",
    layers=2,
    width=64,
    heads=2,
    mlp_width=96,
    expert_width=32,
    experts=4,
    mtp_layers=1,
)
"""With the widths of latent attention that vLLM's CPU kernel takes, and a module."""

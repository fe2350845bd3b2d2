"""Which weights of a checkpoint are quantized: those of linear layers, but for a few."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LINEAR = re.compile(r"(^|\.)(\w+_proj(_with_mqa)?|experts\.\d+\.w[123])\.weight$")
_KEPT = re.compile(
    r"(^|\.)(embed_tokens|lm_head|shared_head\.head|gate|shared_expert_gate|eh_proj)\.weight$"
)


def is_quantized(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor of a checkpoint is the weight of a linear layer in low precision.

    Kept as they are, as in DeepSeek-V3's own checkpoint: embeddings, output heads, routers and
    gates of experts, the projection of a multi-token prediction module (`eh_proj`), and all that
    is no matrix: norms, biases, a router's `e_score_correction_bias`.

    Args:
        name: of the tensor, such as `model.layers.0.mlp.down_proj.weight`.
        shape: of the tensor.

    Raises:
        ValueError: a matrix that is neither known as a linear layer's nor as one to keep, or
            experts stacked in one tensor. To guess would quantize, say, a position embedding.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3.1; README_WEIGHTS.md of DeepSeek-V3.
    """
    if len(shape) < 2 or _KEPT.search(name):
        return False
    if len(shape) == 2 and _LINEAR.search(name):
        return True
    raise ValueError(
        f"cannot tell whether {name} {list(shape)} is the weight of a linear layer; the layouts of "
        "Llama, Mistral, Mixtral, Qwen2, Qwen3 and DeepSeek-V3 are known, with a tensor for each "
        "expert."
    )


def kept_modules(names: Sequence[str]) -> list[str]:
    """The linear layers among `names` that stay as they are, for an engine's list of exceptions.

    Full module names, which vLLM compares as they are, and transformers as prefixes. `lm_head` is
    always one: a tied head has no tensor.
    """
    found = {name.removesuffix(".weight") for name in names if _KEPT.search(name)}
    kept = {name for name in found if not name.endswith("embed_tokens")}
    return sorted(kept | {"lm_head"})

"""Reading back what DeepSeek-V3's layers hold in a vLLM worker besides the weights they load.

vLLM keeps `kv_b_proj` of latent attention twice: as it is, for prompts, and absorbed into queries
and outputs, for single tokens. A canary is a prompt, so it can not see a stale absorbed copy:
reading it back is the only proof of what tokens are sampled with. The bias on a router's choice is
held by the router, which reads it, and by the layers around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from vllm.model_executor.layers.attention.mla_attention import MLAAttention
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner

from cotree.kernels.mla import stacked_weight

Layer: TypeAlias = Any
"""A vLLM module, whose attributes are untyped."""

_ABSORBED = {"W_UK_T", "W_UV"}
_BIAS = "e_score_correction_bias"


def is_latent_attention(module: nn.Module) -> bool:
    """Whether `module` holds absorbed copies of a latent attention's weights, and only those."""
    return isinstance(module, MLAAttention)


def live_copies(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, str, Tensor]]:
    """Yields (checkpoint name, place, tensor) of every further copy of a weight in the engine.

    Args:
        model: vLLM's.
        names: checkpoint names of the weights that the engine holds.

    Raises:
        NotImplementedError: a copy in a form that is not known here, or of an unknown weight.
    """
    paths = {module: path for path, module in model.named_modules()}
    for path, module in model.named_modules():
        layer: Layer = module
        if is_latent_attention(module):
            yield f"{paths[layer.kv_b_proj]}.weight", "W_UK_T and W_UV", _absorbed(path, layer)
        elif isinstance(module, MoERunner):
            places = {"router": layer.router, "experts": layer.routed_experts}
            for place, holder in places.items():
                bias = getattr(holder, _BIAS, None)
                if bias is not None:
                    yield _bias_name(path, names), f"{_BIAS} of the {place}", bias


def _absorbed(path: str, layer: Layer) -> Tensor:
    """[H * (N + V), L] the weight of `kv_b_proj` that the absorbed copies were made of."""
    held = {name for name, _ in layer.named_parameters(recurse=False)}
    if held != _ABSORBED:
        raise NotImplementedError(
            f"{path}: the attention kernel {layer.attn_backend.get_name()} keeps its weights in a "
            f"form that is not known here ({sorted(held)} instead of {sorted(_ABSORBED)}), so a "
            "sync cannot be proven. Start vLLM with another attention_backend (CPU_MLA on a CPU)."
        )
    return stacked_weight(layer.W_UK_T, layer.W_UV)


def _bias_name(path: str, names: Sequence[str]) -> str:
    """Checkpoint name of the one router bias beside the experts at `path`."""
    beside = path.rpartition(".")[0] + "."
    found = [name for name in names if name.startswith(beside) and name.endswith(_BIAS)]
    if len(found) != 1:
        raise NotImplementedError(
            f"{path} has a bias on the choice of experts, and {found} in the place of the one "
            "weight that it could be a copy of; a sync cannot be proven."
        )
    return found[0]

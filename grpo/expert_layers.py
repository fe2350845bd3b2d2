"""The experts of a transformers model, all in one product, in full precision or in FP8.

transformers has grouped experts of its own ("grouped_mm"). These add up a token's experts in
float32 without a copy of every pair, repeat their gradients bit for bit on a GPU, multiply in
autocast's precision as linear layers do, and know FP8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from cotree.kernels.expert_order import Order, combine, dispatch, sort_by_expert
from cotree.kernels.grouped import block_grouped_linear, grouped_linear

if TYPE_CHECKING:
    from cotree.kernels.fp8 import ScaleFormat

_NAME = "cotree_grouped"
_SCALES = "fp8_scales"
"""The attribute of a module of experts that says how it multiplies."""
_LAYOUT = {
    "has_gate": True,
    "has_bias": False,
    "is_transposed": False,
    "_is_expert_parallel": False,
}
"""What transformers notes about experts with gate_up_proj [E, 2 F, D] and down_proj [E, D, F].
Older versions note less."""


def use_grouped_experts(model: nn.Module) -> list[nn.Module]:
    """Makes the model's experts multiply in groups, where their weights have the usual layout.

    The weights and their names stay, so adapters, sharding and checkpoints do not notice.

    Args:
        model: a transformers model, with adapters or without; changed in place.

    Returns:
        The modules of experts, in the model's order. None of a model without, and none of one
        with biases or another layout (GPT-OSS), which computes on as before.
    """
    networks = [module for module in model.modules() if isinstance(module, PreTrainedModel)]
    experts = stacked_experts(model)
    if not networks or not all(_has_layout(module) for module in experts):
        return []
    for module in experts:
        use_scales(module, None)
    if experts:
        networks[0].set_experts_implementation(_NAME)
    return experts


def use_scales(module: nn.Module, scales: ScaleFormat | None) -> None:
    """Sets what a module of experts multiplies in from now on: FP8 with such scales, or None."""
    setattr(module, _SCALES, scales)


def stacked_experts(model: nn.Module) -> list[nn.Module]:
    """The modules that hold the weights of all experts of a layer, in whatever layout."""
    return [
        module
        for module in model.modules()
        if all(
            isinstance(weight := getattr(module, name, None), nn.Parameter) and weight.ndim == 3
            for name in ("gate_up_proj", "down_proj")
        )
    ]


def _has_layout(module: nn.Module) -> bool:
    noted = all(getattr(module, name, value) == value for name, value in _LAYOUT.items())
    num_experts, width, inner = cast(Tensor, module.down_proj).shape
    shape = (num_experts, 2 * inner, width)
    return noted and hasattr(module, "_apply_gate") and module.gate_up_proj.shape == shape


def _grouped_experts(
    module: Any,  # noqa: ANN401 (every architecture has its own class)
    hidden_states: Tensor,
    top_k_index: Tensor,
    top_k_weights: Tensor,
) -> Tensor:
    """[N, D]: the weighted sum of each token's experts.

    Args:
        module: of experts, with `gate_up_proj` [E, 2 F, D] and `down_proj` [E, D, F].
        hidden_states: [N, D].
        top_k_index: [N, k].
        top_k_weights: [N, k].
    """
    scales = cast("ScaleFormat | None", getattr(module, _SCALES))
    order = sort_by_expert(top_k_index, module.num_experts)
    # FP8 quantises what it is given: rounded to bfloat16 first, some of it would come out other.
    tokens = _autocast(hidden_states) if scales is None else hidden_states
    hidden = _linear(dispatch(tokens, order), module.gate_up_proj, order, scales)
    hidden = _linear(module._apply_gate(hidden), module.down_proj, order, scales)
    return combine(hidden, top_k_weights, order).to(hidden_states.dtype)


def _linear(x: Tensor, weight: Tensor, order: Order, scales: ScaleFormat | None) -> Tensor:
    if scales is not None:
        return block_grouped_linear(x, weight, order.offsets, scales=scales)
    return grouped_linear(_autocast(x), _autocast(weight), order.offsets)


def _autocast(values: Tensor) -> Tensor:
    """As autocast would give it to a linear layer, which it does not do for products in groups."""
    device = values.device.type
    if torch.is_autocast_enabled(device) and values.dtype != torch.float64:
        return values.to(torch.get_autocast_dtype(device))
    return values


ALL_EXPERTS_FUNCTIONS.register(_NAME, _grouped_experts)

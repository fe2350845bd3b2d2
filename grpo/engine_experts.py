"""Reading back and repacking the experts of a mixture-of-experts layer inside a vLLM worker.

On a CPU, vLLM stores experts in the order in which its kernel reads them. That order is a
permutation of the elements, so packing a tensor that numbers the elements shows where each went.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from vllm import _custom_ops as ops
from vllm.model_executor.layers.fused_moe.oracle.unquantized import UnquantizedMoeBackend
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import (
    UnquantizedFusedMoEMethod,
)

Experts: TypeAlias = Any
"""A `RoutedExperts`, whose attributes vLLM leaves untyped."""

_AS_STORED = (UnquantizedMoeBackend.TRITON, UnquantizedMoeBackend.BATCHED_TRITON)
"""Kernels that read w13 [E, gate then up, D] and w2 [E, D, F] as they are stored."""


def is_experts(module: nn.Module) -> bool:
    """Whether `module` holds the fused weights of a layer's experts."""
    return isinstance(module, RoutedExperts)


def repack_experts(layer: Experts) -> None:
    """Packs experts that vLLM's reload left unpacked; does nothing where nothing is packed."""
    method = layer.quant_method
    if _backend(layer) == UnquantizedMoeBackend.CPU:
        method.moe_kernel.fused_experts.process_weights_after_loading(layer)


def live_experts(prefix: str, layer: Experts) -> Iterator[tuple[str, Tensor]]:
    """Yields `PREFIX.{e}.{gate,up,down}_proj.weight` of each expert e, as a checkpoint names them.

    Args:
        prefix: the module's path; a checkpoint's path ends in `experts`, vLLM's may go deeper.
        layer: vLLM's `RoutedExperts`.

    Raises:
        NotImplementedError: a kernel, quantization or bias whose layout is not known here.
    """
    backend = _backend(layer)
    if getattr(layer, "w13_bias", None) is not None:
        raise NotImplementedError(f"{prefix}: experts with biases cannot be proven after a sync.")
    w13, w2 = layer.w13_weight, layer.w2_weight
    if backend == UnquantizedMoeBackend.CPU:
        isa: str = layer.quant_method.moe_kernel.fused_experts.isa
        w13, w2 = _unpacked(w13, isa), _unpacked(w2, isa)
    elif backend not in _AS_STORED:
        raise NotImplementedError(
            f"{prefix}: the {backend.value} expert kernel reorders weights in a way that is not "
            "known here, so a sync cannot be proven. Start vLLM with moe_backend = triton."
        )
    path = prefix[: prefix.rindex("experts") + len("experts")] if "experts" in prefix else prefix
    path = path.replace(".experts.routed_experts", ".experts")
    width: int = layer.moe_config.intermediate_size_per_partition
    stored = w13.shape[1] // 2  # padded to the kernel's block, gate and up each
    for expert in range(w13.shape[0]):
        yield f"{path}.{expert}.gate_proj.weight", w13[expert, :width]
        yield f"{path}.{expert}.up_proj.weight", w13[expert, stored : stored + width]
        yield f"{path}.{expert}.down_proj.weight", w2[expert, :, :width]


def _backend(layer: Experts) -> UnquantizedMoeBackend:
    if not isinstance(layer.quant_method, UnquantizedFusedMoEMethod):
        raise NotImplementedError(
            f"experts are quantized ({type(layer.quant_method).__name__}); a sync cannot be "
            "proven. Use an unquantized checkpoint."
        )
    return layer.quant_method.unquantized_backend


def _unpacked(weight: Tensor, isa: str) -> Tensor:
    """Undoes vLLM's packing of [E, out, in] experts; each expert is permuted alike."""
    shape, count = weight.shape[1:], weight[0].numel()
    order = torch.zeros(count, dtype=torch.int64)
    # A 16-bit element carries 8 bits of its own number at a time, as an integer the dtype holds
    # exactly (bfloat16 has 8 significant bits).
    numbers = torch.arange(count)
    for shift in range(0, count.bit_length(), 8):
        digits = ((numbers >> shift) & 0xFF).to(weight.dtype).reshape(1, *shape)
        packed = ops.cpu_prepack_moe_weight(digits.contiguous(), isa)
        order += packed.flatten().to(torch.int64) << shift
    if not torch.equal(order.sort().values, numbers):
        raise NotImplementedError(
            f"vLLM's {isa!r} expert packing is not a permutation; a sync cannot be proven."
        )
    unpacked = torch.empty_like(weight).flatten(1)
    unpacked[:, order] = weight.flatten(1)
    return unpacked.reshape(weight.shape)

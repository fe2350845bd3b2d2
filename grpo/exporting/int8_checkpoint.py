"""Checkpoints with INT8 weights and activations (W8A8), which vLLM runs on a CPU as well.

vLLM 0.32 runs INT8 experts on GPUs only, and says so when it loads them.

The format is that of compressed-tensors, which vLLM reads. It is written here because that library
quantizes a model that is loaded whole, and comes with vLLM only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotree.grpo.exporting.quantized_checkpoint import QuantizedCheckpoint, write_quantized
from cotree.grpo.exporting.safetensors_stream import SHARD_BYTES

_LARGEST = 127


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """INT8 values and a scale for each row, symmetric around zero.

        s_i  = max_j |w_ij| / 127        (1 for a row of zeros)
        q_ij = round(w_ij / s_i)         half to even

    Args:
        weight: [out, in], finite.

    Returns:
        [out, in] int8 in [-127, 127], and [out, 1] float32 scales; their product is off by at
        most half a scale.
    """
    weight = weight.to(torch.float32)
    scales = weight.abs().amax(1, keepdim=True) / _LARGEST
    scales = torch.where(scales > 0, scales, 1.0)
    # A subnormal scale may be rounded down, and the quotient then exceeds 127.
    quantized = (weight / scales).round().clamp(-_LARGEST, _LARGEST)
    return quantized.to(torch.int8), scales


def write_int8_checkpoint(
    source: Path, target: Path, *, shard_bytes: int = SHARD_BYTES
) -> QuantizedCheckpoint:
    """Writes checkpoint `source` to the new folder `target` with INT8 weights, a scale a row.

    Activations are quantized by the engine, a scale a token. Each quantized `NAME.weight` comes
    with `NAME.weight_scale`.

    Args:
        source: folder with config.json and safetensors.
        target: must not exist.
        shard_bytes: largest shard.

    Raises:
        FileExistsError: `target` exists.
        FileNotFoundError: `source` is no checkpoint.
        ValueError: it is quantized already, a weight is not finite, or one is not known.
    """

    def quantize(weight: Tensor) -> dict[str, Tensor]:
        quantized, scales = quantize_rows(weight)
        return {"weight": quantized, "weight_scale": scales}

    return write_quantized(
        source,
        target,
        quantize=quantize,
        quantization_config=_quantization_config,
        shard_bytes=shard_bytes,
    )


def _quantization_config(kept: list[str]) -> dict[str, Any]:
    number = {"num_bits": 8, "type": "int", "symmetric": True}
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": kept,
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": number | {"strategy": "channel", "dynamic": False},
                "input_activations": number | {"strategy": "token", "dynamic": True},
            }
        },
    }

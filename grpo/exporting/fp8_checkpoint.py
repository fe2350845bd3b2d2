"""Checkpoints with block-quantized FP8 weights, as DeepSeek-V3 publishes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from cotree.grpo.exporting.quantized_checkpoint import QuantizedCheckpoint, write_quantized
from cotree.grpo.exporting.safetensors_stream import SHARD_BYTES
from cotree.kernels.fp8 import TILE, quantize_blocks


def write_fp8_checkpoint(
    source: Path,
    target: Path,
    *,
    scales: Literal["pow2", "float32"],
    shard_bytes: int = SHARD_BYTES,
) -> QuantizedCheckpoint:
    """Writes checkpoint `source` to the new folder `target` with E4M3 weights in 128x128 blocks.

    Each quantized `NAME.weight` [out, in] comes with `NAME.weight_scale_inv`, float32
    [ceil(out / 128), ceil(in / 128)]; the weight is their product, block by block. The quantizer
    is that of training, so an engine that loads the checkpoint computes with the learner's bytes.

    A weight whose size is no multiple of 128 is `ragged` in the result. vLLM refuses such weights
    in layers that it fuses. transformers 5.19, which dequantizes on a machine without a GPU, shares
    a weight out evenly among its scales: 192 rows are 96 + 96 to it, not 128 + 64; 576 it refuses.

    Args:
        source: folder with config.json and safetensors.
        target: must not exist.
        scales: powers of two, which Blackwell needs, or any float32.
        shard_bytes: largest shard.

    Raises:
        FileExistsError: `target` exists.
        FileNotFoundError: `source` is no checkpoint.
        ValueError: it is quantized already, a weight is not finite, or one is not known.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3; README_WEIGHTS.md of DeepSeek-V3, "FP8
        Weight Documentation"; config_v3.1.json there for `scale_fmt`.
    """

    def quantize(weight: Tensor) -> dict[str, Tensor]:
        quantized, block_scales = quantize_blocks(weight, scales=scales)
        return {"weight": quantized, "weight_scale_inv": block_scales}

    def quantization_config(kept: list[str]) -> dict[str, Any]:
        return {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [TILE, TILE],
            "modules_to_not_convert": kept,
        } | ({"scale_fmt": "ue8m0"} if scales == "pow2" else {})

    return write_quantized(
        source,
        target,
        quantize=quantize,
        quantization_config=quantization_config,
        block=TILE,
        shard_bytes=shard_bytes,
    )

"""A checkpoint with its linear layers in another format; all other tensors as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotree.grpo.count_progress import CountProgress
from cotree.grpo.exporting.linear_weights import is_quantized, kept_modules
from cotree.grpo.exporting.safetensors_stream import (
    SHARD_BYTES,
    ShardWriter,
    copy_other_files,
    new_folder,
    read_config,
    write_json,
)
from cotree.grpo.stored_tensors import tensors_in


@dataclass(frozen=True, slots=True)
class QuantizedCheckpoint:
    """What was written."""

    folder: Path
    num_quantized: int
    """Tensors that changed their format."""
    num_kept: int
    bytes_before: int
    """Of the weights' files."""
    bytes_after: int
    ragged: tuple[str, ...]
    """Quantized weights whose size is no multiple of the format's blocks."""


def write_quantized(
    source: Path,
    target: Path,
    *,
    quantize: Callable[[Tensor], dict[str, Tensor]],
    quantization_config: Callable[[list[str]], dict[str, Any]],
    block: int = 1,
    shard_bytes: int = SHARD_BYTES,
) -> QuantizedCheckpoint:
    """Writes checkpoint `source` to the new folder `target`, with linear layers quantized.

    Args:
        source: folder with config.json and safetensors in float32, bfloat16 or float16.
        target: must not exist.
        quantize: of a weight [out, in], the tensors that are stored in its place, by what follows
            the module's name, such as `weight` and `weight_scale`.
        quantization_config: of the modules that stay as they are, the entry of config.json.
        block: edge of the blocks that share a scale; 1 where any size divides.
        shard_bytes: largest shard.

    Raises:
        FileExistsError: `target` exists.
        FileNotFoundError: `source` is no checkpoint.
        ValueError: it is quantized already, a weight is not finite, or one is not known.
    """
    config = read_config(source)
    if "quantization_config" in config:
        raise ValueError(
            f"{source} is quantized already ({config['quantization_config'].get('quant_method')}); "
            "export the checkpoint that it was made from."
        )
    stored = tensors_in(source)
    names = stored.names()
    chosen = {name for name in names if is_quantized(name, stored.shape(name))}
    config["quantization_config"] = quantization_config(kept_modules(names))
    with (
        new_folder(target) as folder,
        CountProgress("tensors", total=len(names), done=0) as progress,
    ):
        writer = ShardWriter(folder, shard_bytes=shard_bytes)
        for name in names:
            tensor = stored.tensor(name)
            if name in chosen:
                module = name.removesuffix("weight")
                parts = quantize(_checked(name, tensor))
                writer.add({module + suffix: part for suffix, part in parts.items()})
            else:
                writer.add({name: tensor})
            progress.add(1, name)
        bytes_after = writer.close()
        write_json(folder / "config.json", config)
        copy_other_files(source, folder)
    return QuantizedCheckpoint(
        folder=target,
        num_quantized=len(chosen),
        num_kept=len(names) - len(chosen),
        bytes_before=stored.num_bytes(),
        bytes_after=bytes_after,
        ragged=tuple(n for n in names if n in chosen and any(d % block for d in stored.shape(n))),
    )


def _checked(name: str, weight: Tensor) -> Tensor:
    if weight.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(
            f"{name} is stored as {weight.dtype}; only float32, bfloat16 and float16 are quantized."
        )
    if not bool(weight.isfinite().all()):
        raise ValueError(f"{name} holds NaN or infinity; the checkpoint is broken.")
    return weight

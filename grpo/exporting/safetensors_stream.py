"""Checkpoints of any size, written a tensor at a time to shards of bounded size.

What is in memory is one shard; `grpo.stored_tensors` maps the input.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from cotree.grpo.durable import flush, publish
from cotree.grpo.stored_tensors import INDEX, SINGLE

SHARD_BYTES = 2 << 30
"""Largest shard that is written, unless one weight alone is larger."""

_WEIGHT_FILES = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".onnx"}


class ShardWriter:
    """Writes tensors to a folder as they come, a shard whenever the next would make it too large.

    Files are named as transformers names them, so their number must be known: `close` does that.
    """

    def __init__(self, folder: Path, *, shard_bytes: int) -> None:
        self._folder, self._shard_bytes = folder, shard_bytes
        self._waiting: dict[str, Tensor] = {}
        self._shards: list[list[str]] = []
        self._num_bytes = 0

    def add(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes tensors that belong in one shard, such as a weight and its scales."""
        size = _size(tensors)
        if self._waiting and _size(self._waiting) + size > self._shard_bytes:
            self._write()
        self._waiting |= tensors
        self._num_bytes += size

    def close(self) -> int:
        """Writes what is left and the index. Returns the bytes of all tensors."""
        self._write()
        total = len(self._shards)
        if total == 1:
            self._part(0).rename(self._folder / SINGLE)
            return self._num_bytes
        weight_map: dict[str, str] = {}
        for index, names in enumerate(self._shards):
            file = f"model-{index + 1:05d}-of-{total:05d}.safetensors"
            self._part(index).rename(self._folder / file)
            weight_map |= dict.fromkeys(names, file)
        write_json(
            self._folder / INDEX,
            {"metadata": {"total_size": self._num_bytes}, "weight_map": weight_map},
        )
        return self._num_bytes

    def _write(self) -> None:
        if self._waiting:
            contiguous = {name: tensor.contiguous() for name, tensor in self._waiting.items()}
            save_file(contiguous, self._part(len(self._shards)), metadata={"format": "pt"})
            self._shards.append(list(self._waiting))
            self._waiting = {}

    def _part(self, index: int) -> Path:
        return self._folder / f"part_{index:05d}.safetensors"


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """An empty folder to fill, which becomes `target` if the block ends well and vanishes if not.

    Raises:
        FileExistsError: `target` exists. Nothing is ever overwritten.
    """
    if target.exists():
        raise FileExistsError(f"{target} exists; remove it, or give another folder to write to.")
    partial = target.with_name(f".partial_{target.name}")
    shutil.rmtree(partial, ignore_errors=True)  # left by a crash
    partial.mkdir(parents=True)
    try:
        yield partial
        flush(partial)
        publish(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's config.json.

    Raises:
        FileNotFoundError: there is none.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json, so it is no checkpoint; give the folder of one, such as "
            "a run's model."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """As transformers writes a configuration."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def copy_other_files(source: Path, target: Path) -> None:
    """Copies what is neither weights, their index nor config.json: the tokenizer, for one."""
    for file in sorted(source.iterdir()):
        is_weights = file.suffix in _WEIGHT_FILES or file.name.endswith(".index.json")
        if file.is_file() and not is_weights and file.name != "config.json":
            shutil.copy2(file, target / file.name)


def _size(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())

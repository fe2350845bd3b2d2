"""A checkpoint's tensors as stored, a tensor at a time: the files are mapped, not read."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from safetensors import safe_open
from torch import Tensor
from transformers.utils.hub import cached_file

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
"""Names that transformers gives to a checkpoint in one file, and to the index of one in shards."""


class StoredTensors:
    """The tensors of safetensors files, by name."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Reads names only."""
        self._files: dict[Path, Any] = {}  # what safe_open returns is untyped
        self._file_of: dict[str, Path] = {}
        for path in files:
            self._files[path] = safe_open(path, framework="pt")
            self._file_of |= dict.fromkeys(self._files[path].keys(), path)

    def __contains__(self, name: str) -> bool:
        return name in self._file_of

    def names(self) -> list[str]:
        """Of all tensors, in the order in which the files have them."""
        return list(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor, without reading it."""
        return tuple(self._files[self._file_of[name]].get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """The tensor, on the CPU."""
        return self._files[self._file_of[name]].get_tensor(name)

    def num_bytes(self) -> int:
        """Size of the files."""
        return sum(path.stat().st_size for path in self._files)


def tensors_in(folder: Path) -> StoredTensors:
    """Those of a folder: `model.safetensors`, or shards with an index.

    Raises:
        FileNotFoundError: the folder has no safetensors, or not all that its index names.
    """
    if (folder / INDEX).is_file():
        files = _shards(folder / INDEX)
    elif (folder / SINGLE).is_file():
        files = [SINGLE]
    else:
        raise FileNotFoundError(
            f"{folder} has neither {SINGLE} nor {INDEX}; give the folder of a checkpoint in the "
            "safetensors format."
        )
    for file in files:
        if not (folder / file).is_file():
            raise FileNotFoundError(
                f"{folder} lacks {file}, which {INDEX} names; download the checkpoint again."
            )
    return StoredTensors(folder / file for file in files)


def tensors_of(model: str, *, revision: str | None) -> StoredTensors:
    """Those of a model by its path or hub name, downloaded if need be.

    Raises:
        OSError: there is no such checkpoint, or a file of it is missing.
    """

    def local(name: str, *, required: bool) -> Path | None:
        found = cached_file(
            model, name, revision=revision, _raise_exceptions_for_missing_entries=required
        )
        return None if found is None else Path(found)

    index = local(INDEX, required=False)
    files = [SINGLE] if index is None else _shards(index)
    return StoredTensors(cast(Path, local(file, required=True)) for file in files)


def _shards(index: Path) -> list[str]:
    names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return sorted(set(names.values()))

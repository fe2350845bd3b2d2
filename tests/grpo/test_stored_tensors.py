"""Tests for grpo/stored_tensors.py."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cotree.grpo.stored_tensors import StoredTensors, tensors_in, tensors_of

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


def write_shards(folder: Path, present: int = 2) -> None:
    """Tensor `t0` in the first shard and `t1` in the second, of which `present` are there."""
    for number, file in enumerate(SHARDS[:present]):
        save_file({f"t{number}": torch.full((number + 1, 2), float(number))}, folder / file)
    weight_map = {f"t{number}": file for number, file in enumerate(SHARDS)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def of_model(folder: Path) -> StoredTensors:
    return tensors_of(str(folder), revision=None)


@pytest.mark.parametrize("open_", [tensors_in, of_model])
def test_shards_and_a_single_file_are_read_alike(tmp_path: Path, open_):
    write_shards(tmp_path)
    stored = open_(tmp_path)
    assert stored.names() == ["t0", "t1"]
    assert "t1" in stored
    assert "t2" not in stored
    assert stored.shape("t1") == (2, 2)
    assert torch.equal(stored.tensor("t1"), torch.ones(2, 2))
    assert stored.num_bytes() == sum((tmp_path / file).stat().st_size for file in SHARDS)

    (tmp_path / "one").mkdir()
    save_file({"t0": torch.zeros(3)}, tmp_path / "one" / "model.safetensors")
    assert open_(tmp_path / "one").names() == ["t0"]


def test_a_missing_shard_is_refused(tmp_path: Path):
    write_shards(tmp_path, present=1)
    with pytest.raises(FileNotFoundError, match="lacks model-00002"):
        tensors_in(tmp_path)
    with pytest.raises(OSError, match="model-00002"):
        of_model(tmp_path)


def test_a_folder_without_safetensors_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="has neither"):
        tensors_in(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        of_model(tmp_path)

"""Tests for grpo/exporting/safetensors_stream.py."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from cotree.grpo.exporting.safetensors_stream import (
    ShardWriter,
    copy_other_files,
    new_folder,
    read_config,
)
from cotree.grpo.stored_tensors import tensors_in


@given(sizes=st.lists(st.integers(1, 60), min_size=1, max_size=12), shard_bytes=st.integers(1, 400))
def test_what_is_written_in_shards_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], shard_bytes: int
):
    folder = tmp_path_factory.mktemp("shards")
    tensors = {f"t{i}": torch.arange(size) * (i + 1.0) for i, size in enumerate(sizes)}
    writer = ShardWriter(folder, shard_bytes=shard_bytes)
    for name, tensor in tensors.items():
        writer.add({name: tensor})
    total = writer.close()

    stored = tensors_in(folder)

    assert total == sum(4 * size for size in sizes)
    assert sorted(stored.names()) == sorted(tensors)
    for name, tensor in tensors.items():
        assert stored.shape(name) == tuple(tensor.shape)
        assert torch.equal(stored.tensor(name), tensor)
    for file in folder.glob("*.safetensors"):
        held = load_file(file)
        # A shard exceeds the bound only where one tensor alone does.
        assert sum(t.nbytes for t in held.values()) <= shard_bytes or len(held) == 1


def test_shards_are_named_and_indexed_as_transformers_does(tmp_path: Path):
    writer = ShardWriter(tmp_path, shard_bytes=8)
    writer.add({"a": torch.zeros(2)})
    writer.add({"b": torch.zeros(1), "b_scale": torch.zeros(1)})
    writer.close()

    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["weight_map"] == {
        "a": "model-00001-of-00002.safetensors",
        "b": "model-00002-of-00002.safetensors",
        "b_scale": "model-00002-of-00002.safetensors",
    }
    assert index["metadata"] == {"total_size": 16}


def test_a_folder_without_a_configuration_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="so it is no checkpoint"):
        read_config(tmp_path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    target = tmp_path / "out"
    with pytest.raises(FileNotFoundError), new_folder(target) as folder:
        shutil.copytree(folder / "absent", folder / "half")
    assert list(tmp_path.iterdir()) == []

    with new_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (target / "file").read_text() == "x"


def test_nothing_is_overwritten(tmp_path: Path):
    with pytest.raises(FileExistsError, match="remove it"), new_folder(tmp_path):
        pass


def test_what_a_crash_left_does_not_get_into_the_next_folder(tmp_path: Path):
    (tmp_path / ".partial_out").mkdir()
    (tmp_path / ".partial_out" / "stale").write_text("x")
    with new_folder(tmp_path / "out") as folder:
        (folder / "file").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["file"]


def test_all_but_weights_and_configuration_is_copied(tmp_path: Path):
    source, target = tmp_path / "a", tmp_path / "b"
    source.mkdir(), target.mkdir()
    files = ("tokenizer.json", "chat_template.jinja", "generation_config.json")
    weights = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    for name in (*files, *weights, "config.json"):
        (source / name).write_text(name)
    copy_other_files(source, target)
    assert {path.name for path in target.iterdir()} == set(files)

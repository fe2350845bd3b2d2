"""Tests for grpo/searching/records.py: finished searches survive a kill."""

from pathlib import Path

import pytest

from cotree.grpo.config_file import ConfigError
from cotree.grpo.searching.records import SearchFile, read_searches
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_json import Choice, SearchRecord
from cotree.search.types import Step


def record(search: int, token: int = 7) -> SearchRecord:
    tree = Tree()
    end = tree.add(ROOT, Step((token,), (-0.5,), "14", "stop"), (0, 0))
    counts = {"budget": 9, "spent": 1, "lost": 0}
    return SearchRecord(search, "p", "2+12", 3, "sample", tree, end, (Choice(1, end),), counts)


def test_what_was_written_is_read(tmp_path: Path):
    path = tmp_path / "trees.jsonl"
    with SearchFile(path) as file:
        file.append(record(4))
        file.append(record(1))
    found = read_searches(path)
    assert [one.search for one in found] == [1, 4]
    assert found[1].digest == record(4).digest


def test_a_torn_line_is_dropped_and_a_search_done_again_counts_once(tmp_path: Path):
    path = tmp_path / "trees.jsonl"
    with SearchFile(path) as file:
        file.append(record(1))
    with path.open("a") as file:
        file.write('{"schema": "cotr')
    with SearchFile(path) as file:
        file.append(record(1, token=8))
    (found,) = read_searches(path)
    assert found.tree.token_ids(1) == (8,)


def test_what_is_no_search_is_named(tmp_path: Path):
    path = tmp_path / "trees.jsonl"
    path.write_text("{}\n")
    with pytest.raises(ConfigError, match="line 1"):
        read_searches(path)
    with pytest.raises(ConfigError, match="there is no"):
        read_searches(tmp_path / "other.jsonl")

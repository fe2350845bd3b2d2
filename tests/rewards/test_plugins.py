"""Tests for rewards/plugins.py."""

from pathlib import Path

import pytest

from cotree.rewards.plugins import SourceFile, module_from_file, read_source, unique_entry_points


class RefusedError(Exception):
    """What these tests ask to be raised."""


def test_a_file_is_imported_once_for_each_of_its_states(tmp_path: Path):
    path = tmp_path / "ours.py"
    path.write_text("value = 1\n")
    first = read_source(path, what="reward", refusal=RefusedError)
    assert module_from_file(first) is module_from_file(first)
    path.write_text("value = 2\n")
    second = read_source(path, what="reward", refusal=RefusedError)
    assert (module_from_file(first).value, module_from_file(second).value) == (1, 2)


def test_a_module_that_failed_is_not_found_half_done():
    broken = SourceFile("/nowhere/broken.py", "value = 1\nraise KeyError('x')\n")
    for _ in range(2):
        with pytest.raises(KeyError, match="x"):
            module_from_file(broken)


def test_a_missing_file_is_refused_as_the_caller_wants(tmp_path: Path):
    with pytest.raises(RefusedError, match=r"no benchmark file '.*none\.py' in the working"):
        read_source(tmp_path / "none.py", what="benchmark", refusal=RefusedError)


def test_installed_plugins_come_by_name():
    found = unique_entry_points("cotree.rewards", what="reward", refusal=RefusedError)
    assert list(found) == sorted(found)
    assert found["math"].value == "cotree.rewards.math_answer:math_equal"
    assert unique_entry_points("cotree.nothing", what="reward", refusal=RefusedError) == {}

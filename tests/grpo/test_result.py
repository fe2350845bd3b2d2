"""Tests for grpo/result.py."""

from pathlib import Path

from cotree.grpo.result import add_seconds, read_result, update_result


def test_keys_of_other_stages_are_kept(tmp_path: Path):
    path = tmp_path / "run" / "result.json"
    update_result(path, {"steps": 3})
    update_result(path, {"accuracy_after": {"value": 0.5}})
    assert read_result(path) == {"steps": 3, "accuracy_after": {"value": 0.5}}


def test_a_resumed_stage_adds_to_its_time_and_a_new_one_starts_over(tmp_path: Path):
    path = tmp_path / "result.json"
    add_seconds(path, "train", 10.0, resumed=False)
    add_seconds(path, "train", 5.0, resumed=True)
    add_seconds(path, "sft", 1.0, resumed=True)
    assert read_result(path)["seconds"] == {"train": 15.0, "sft": 1.0}
    add_seconds(path, "train", 2.0, resumed=False)
    assert read_result(path)["seconds"]["train"] == 2.0


def test_there_are_no_results_before_the_first_stage(tmp_path: Path):
    assert read_result(tmp_path / "result.json") == {}

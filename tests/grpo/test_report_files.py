"""Tests for grpo/report_files.py: what cannot be read becomes a note, once."""

from pathlib import Path

from cotree.grpo.report_files import by_step, read_lines, read_object, read_pipeline


def test_rows_of_one_step_are_merged():
    rows = [{"step": 2, "loss": 1.0}, {"step": 1, "loss": 3.0}, {"step": 2, "eval/accuracy": 0.5}]
    assert by_step(rows) == [
        {"step": 1, "loss": 3.0},
        {"step": 2, "loss": 1.0, "eval/accuracy": 0.5},
    ]


def test_what_is_not_there_is_empty_without_a_note(tmp_path: Path):
    notes: list[str] = []
    assert read_lines(tmp_path / "no.jsonl", notes) == []
    assert read_object(tmp_path / "no.json", notes) == {}
    assert notes == []


def test_what_is_damaged_is_left_out_with_a_note(tmp_path: Path):
    notes: list[str] = []
    (tmp_path / "a.jsonl").write_text('{"step": 1}\n{"step\nnot JSON\n')
    (tmp_path / "a.json").write_text('{"steps": ')
    assert read_lines(tmp_path / "a.jsonl", notes) == [{"step": 1}]
    assert read_object(tmp_path / "a.json", notes) == {}
    assert notes[0] == "2 lines of a.jsonl could not be read and are not shown."
    assert notes[1].startswith("a.json is not valid JSON")


def test_a_configuration_that_two_stages_share_is_complained_of_once(tmp_path: Path):
    notes: list[str] = []
    (tmp_path / "c.toml").write_text("[retired]\nkey = 1\n")
    for _ in range(2):
        assert read_pipeline(tmp_path / "c.toml", notes) is None
    assert len(notes) == 1
    assert "another version" in notes[0]

"""Tests for grpo/cli_tree.py: what is no finished run is refused with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotree.grpo.cli import main


@pytest.mark.parametrize(
    "command",
    [
        ("dot", "RUN", "--problem", "p"),
        ("diff", "RUN", "RUN"),
        ("curves", "RUN", "RUN"),
        ("export", "RUN", "--traces", "t.jsonl"),
        ("label", "RUN", "--output", "l.jsonl"),
    ],
)
def test_a_folder_without_a_finished_search_is_refused(
    tmp_path: Path, command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
):
    arguments = [str(tmp_path) if word == "RUN" else word for word in command]
    assert main(["tree", *arguments]) == 2
    assert "holds no finished `cotree search`" in capsys.readouterr().err


def test_an_export_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["tree", "export", str(tmp_path)]) == 2
    assert "--traces, --pairs or --labels" in capsys.readouterr().err


def test_a_baseline_that_is_not_compared_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["tree", "curves", str(tmp_path), "--baseline", "elsewhere"]) == 2
    assert "is none of the runs" in capsys.readouterr().err

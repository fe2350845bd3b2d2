"""What a run left behind, read for its page: a part that cannot be read becomes a note on it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cotree.grpo.config import Pipeline
from cotree.grpo.report_curves import Row
from cotree.grpo.run_folder import ConfigError, load_pipeline


def by_step(rows: Sequence[Row]) -> list[Row]:
    """Rows with the same step merged, later keys winning, in the order of the steps."""
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(row["step"], {}).update(row)
    return [merged[step] for step in sorted(merged)]


def read_lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file; lines that are none are counted in `notes`."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            unreadable += 1
            continue
        rows.append(row)
    if unreadable:
        lines = "1 line" if unreadable == 1 else f"{unreadable} lines"
        notes.append(f"{lines} of {path.name} could not be read and are not shown.")
    return rows


def read_object(path: Path, notes: list[str]) -> dict[str, Any]:
    """The object of a JSON file; empty where there is none, with a note where it is damaged."""
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        notes.append(f"{path.name} is not valid JSON and is left out: {error}.")
        return {}


def read_pipeline(path: Path | None, notes: list[str]) -> Pipeline | None:
    """The configuration of a run or of one stage; None, with a note, where this code cannot."""
    note = "The run's configuration was not found."
    if path is not None:
        try:
            return load_pipeline(path, [])
        except ConfigError as error:
            note = f"The configuration is of another version of cotree: {error}"
    if note not in notes:
        notes.append(note)
    return None

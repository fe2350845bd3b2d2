"""result.json: the stable keys that scripts read after a run."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read_result(path: Path) -> dict[str, Any]:
    """The run's results so far; empty before the first stage has finished."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def update_result(path: Path, values: Mapping[str, Any]) -> None:
    """Sets top-level keys, leaving the others, atomically."""
    write_json(path, read_result(path) | dict(values))


def add_seconds(path: Path, stage: str, seconds: float, *, resumed: bool) -> None:
    """Sets `seconds.<stage>`; a resumed stage adds to the time it took before it was stopped."""
    result = read_result(path)
    spent: dict[str, float] = result.get("seconds", {})
    before = spent.get(stage, 0.0) if resumed else 0.0
    write_json(path, result | {"seconds": spent | {stage: before + seconds}})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes or replaces a JSON file: a reader sees all of the old one or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.tmp")
    with scratch.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)

"""`trees.jsonl`: the finished searches of a run, a line each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Self

from cotree.grpo.config_file import ConfigError
from cotree.search.lines import drop_torn_line
from cotree.search.tree_json import SearchRecord, record_from_json, record_json


def read_searches(path: Path) -> list[SearchRecord]:
    """The searches of a run by rising number; of one that is there twice, the later line.

    Raises:
        ConfigError: there is no such file, or a line is no search.
    """
    if not path.exists():
        raise ConfigError(f"there is no {path}; `cotree search --output` names the folder.")
    found: dict[int, SearchRecord] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = record_from_json(json.loads(line))
            except ValueError as error:
                raise ConfigError(f"{path}, line {number}: {error}") from error
            found[record.search] = record
    return [found[number] for number in sorted(found)]


class SearchFile:
    """Finished searches, appended. A context manager; it belongs to one process at a time."""

    def __init__(self, path: Path) -> None:
        """Opens the file; a last line that was cut short by a kill is dropped."""
        if path.exists():
            drop_torn_line(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, record: SearchRecord) -> None:
        """Writes one search; it is in the file when this returns."""
        self._file.write(json.dumps(record_json(record), allow_nan=False) + "\n")
        self._file.flush()

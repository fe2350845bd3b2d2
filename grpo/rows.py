"""Rows of local JSONL and parquet files and of hub data sets, with errors that name the row."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple


class Row(NamedTuple):
    """Two text fields of a row, where it stands, and what else it has."""

    number: int
    """Counted from 1, as editors do; a JSONL row's number is its line's."""
    id: str
    """The row's own `id` field when it has one, else its index from 0."""
    question: str
    answer: str
    columns: Mapping[str, object]
    """The row's other fields."""


def load_rows(source: str, *, question_field: str, answer_field: str) -> list[Row]:
    """All rows of a file or hub data set.

    Args:
        source: path of a .jsonl or .parquet file, or `hub:NAME[/SUBSET]:SPLIT`, where NAME is
            `owner/name` when a subset follows.
        question_field: a field of every row.
        answer_field: a field of every row; numbers are taken as their text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are no rows, a field is missing, or an answer or question is empty.
    """
    rows: list[Row] = []
    for number, record in records(source):
        place = f"{source}, row {number}"
        question = text_of(record, question_field, place)
        answer = text_of(record, answer_field, place)
        used = (question_field, answer_field, "id")
        columns = {name: value for name, value in record.items() if name not in used}
        rows.append(Row(number, str(record.get("id", len(rows))), question, answer, columns))
    if not rows:
        raise ValueError(f"{source} has no rows.")
    return rows


def text_of(record: Mapping[str, object], field: str, place: str) -> str:
    """The text of a field; of a number, as Python writes it.

    Args:
        record: a row.
        field: its name.
        place: where the row stands, for the message.

    Raises:
        ValueError: the row has no such field, or it is blank or neither text nor a number.
    """
    if field not in record:
        raise ValueError(f"{place}: there is no field {field!r}; it has {sorted(record)}.")
    value = record[field]
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError(f"{place}: {field!r} is {value!r}; it must be text or a number.")
    if not str(value).strip():
        raise ValueError(f"{place}: {field!r} is empty.")
    return str(value)


def records(source: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    """Every row of a file or hub data set, unchecked, with its number as in `Row.number`.

    Args:
        source: as `load_rows` takes it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: `source` is neither a file that can be read nor a hub name, or a line of a
            JSONL file is no JSON object.
    """
    if source.startswith("hub:"):
        return enumerate(_hub_records(source), start=1)
    path = Path(source)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(
            f"{source}: rows come from a .jsonl or .parquet file or `hub:NAME[/SUBSET]:SPLIT`."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no file {source!r} in the working directory {str(Path.cwd())!r}."
        )
    return enumerate(_parquet_records(path), start=1) if path.suffix == ".parquet" else _lines(path)


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, object]]]:
    # Not through `datasets`: its JSON reader guesses one type per column and names no line.
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{path}, row {number}: not JSON ({error}).") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, row {number}: {line[:80]!r} is not a JSON object.")
            yield number, record


def _parquet_records(path: Path) -> Iterator[Mapping[str, object]]:
    from datasets import Dataset  # noqa: PLC0415 - imports pandas and more: 2 s

    yield from Dataset.from_parquet(str(path), keep_in_memory=True)  # pyright: ignore[reportReturnType]


def _hub_records(source: str) -> Iterator[Mapping[str, object]]:
    from datasets import load_dataset  # noqa: PLC0415 - imports pandas and more: 2 s

    name, colon, split = source.removeprefix("hub:").rpartition(":")
    parts = name.split("/")
    if not colon or not all(parts) or not split or len(parts) > 3:
        raise ValueError(f"{source!r} must read `hub:NAME[/SUBSET]:SPLIT`.")
    repository, subset = "/".join(parts[:2]), parts[2] if len(parts) == 3 else None
    yield from load_dataset(repository, subset, split=split)  # pyright: ignore[reportReturnType]

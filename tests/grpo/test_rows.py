"""Tests for grpo/rows.py."""

import json
from pathlib import Path

import pytest

from cotree.grpo.rows import load_rows


def write(path: Path, *records: object) -> str:
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return str(path)


def load(source: str):
    return load_rows(source, question_field="question", answer_field="answer")


def test_jsonl_rows_keep_their_order_text_and_line_numbers(tmp_path: Path):
    source = write(tmp_path / "a.jsonl", {"question": "q0", "answer": "1"})
    with Path(source).open("a") as file:
        file.write('\n{"question": "é", "answer": 2.5, "id": "x", "more": null}\n')
    assert load(source) == [(1, "0", "q0", "1", {}), (3, "x", "é", "2.5", {"more": None})]


def test_parquet_rows_are_the_same_as_jsonl_rows(tmp_path: Path):
    from datasets import Dataset

    records = [
        {"question": f"q{i}", "answer": str(i), "id": i * 10, "tests": [f"{i}"], "level": i}
        for i in range(3)
    ]
    Dataset.from_list(records).to_parquet(tmp_path / "a.parquet")
    assert load(str(tmp_path / "a.parquet")) == load(write(tmp_path / "a.jsonl", *records))


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"question": "q"}, r"row 2: there is no field 'answer'; it has \['question'\]"),
        ({"question": "q", "answer": " "}, "row 2: 'answer' is empty"),
        ({"question": "", "answer": "1"}, "row 2: 'question' is empty"),
        ({"question": "q", "answer": None}, "row 2: 'answer' is None; it must be text or a number"),
        ({"question": "q", "answer": ["1"]}, r"row 2: 'answer' is \['1'\]"),
        (["q", "1"], "row 2: .* is not a JSON object"),
    ],
)
def test_an_unusable_row_is_named(tmp_path: Path, record: object, says: str):
    source = write(tmp_path / "a.jsonl", {"question": "q", "answer": "1"}, record)
    with pytest.raises(ValueError, match=says):
        load(source)


def test_a_line_that_is_not_json_is_named(tmp_path: Path):
    (tmp_path / "a.jsonl").write_text('{"question": "q", "answer": "1"}\n{"question": \n')
    with pytest.raises(ValueError, match="row 2: not JSON"):
        load(str(tmp_path / "a.jsonl"))


def test_a_source_without_rows_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="has no rows"):
        load(write(tmp_path / "a.jsonl"))


def test_a_missing_file_is_named_with_the_folder_it_was_looked_for_in(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"no file 'missing\.jsonl' in the working directory"
    ):
        load("missing.jsonl")


@pytest.mark.parametrize(
    "source", ["rows.csv", "hub:", "hub:name", "hub:a/b/c/d:train", "hub:a//b:x"]
)
def test_a_source_that_is_neither_file_nor_hub_name_is_refused(source: str):
    with pytest.raises(ValueError, match="hub:NAME"):
        load(source)

"""Tests for rewards/cases.py: what is read, and rates and times worked out by hand."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.cases import Case, Judged, json_rows, read_cases, summarized
from cotree.rewards.types import Failure, Problem, Reward, Ungraded

ROW = {"id": "a", "kind": "answer", "gold": "1", "pred": "2", "expected": False}


def case(expected: bool) -> Case:
    problem = Problem("p", "", "1", "cases")
    return Case("", problem, expected, disputed=False, tags=frozenset())


def judged(expected: bool, value: float | None, seconds: float = 0.001) -> Judged:
    """A case with its verdict; a value of `None` could not be graded."""
    failed = Ungraded(Failure.TIMEOUT, "late")
    return Judged(case(expected), failed if value is None else Reward(value, ""), seconds)


def write(folder: Path, *rows: object) -> Path:
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_bare_answer_is_boxed_and_a_response_is_taken_as_it_is(tmp_path: Path):
    response = {**ROW, "kind": "response", "pred": "so 2", "question": "1+1?", "disputed": True}
    bare, whole = read_cases(write(tmp_path, {**ROW, "tags": ["hang"]}, response))
    assert bare.completion == r"\boxed{2}"
    assert bare.problem.reference == "1"
    assert (bare.expected, bare.disputed, bare.tags) == (False, False, frozenset({"hang"}))
    assert whole.completion == "so 2"
    assert (whole.problem.question, whole.disputed) == ("1+1?", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "essay"}, "kind is 'essay'"),
        ({"gold": None}, "no field 'gold'"),
        ({"pred": 2}, "'pred' is 2; it must be text"),
        ({"expected": "no"}, "'expected' is 'no'"),
        ({"expected": None}, "'expected' is None"),
        ({"tags": "hang"}, "tags is 'hang'"),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path: Path, change: dict[str, object], message: str):
    path = write(tmp_path, ROW, {**ROW, **change})
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        read_cases(path)


def test_rows_that_are_not_json_objects_are_named(tmp_path: Path):
    path = tmp_path / "cases.jsonl"
    path.write_text('{"a": 1}\n\n[1]\n')
    with pytest.raises(ValueError, match=r"row 3: .* is not a JSON object"):
        list(json_rows(path))
    path.write_text("{\n")
    with pytest.raises(ValueError, match="row 1: not JSON"):
        list(json_rows(path))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (b'{"a": "\xff"}', "not UTF-8"),
        ('{"a": 1}'.encode("utf-16"), "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "not JSON"),  # a byte-order mark that begins no file
    ],
)
def test_a_row_that_no_reader_survives_is_named(tmp_path: Path, row: bytes, says: str):
    path = tmp_path / "cases.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n' + row)
    with pytest.raises(ValueError, match=f"row 2: {says}"):
        list(json_rows(path))


def test_a_folder_is_no_file_and_its_files_are_named(tmp_path: Path):
    write(tmp_path)
    with pytest.raises(IsADirectoryError, match=r"is a folder; give a file. .*\['cases.jsonl'\]"):
        list(json_rows(tmp_path))


def test_a_missing_and_an_empty_file_are_errors(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no file"):
        read_cases(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="has no rows"):
        read_cases(write(tmp_path))


def test_rates_have_the_denominators_they_claim():
    # To accept: 2 right, 1 refused, 1 not graded. To refuse: 1 accepted, 4 right.
    to_accept = [judged(True, 1.0), judged(True, 1.0), judged(True, 0.0), judged(True, None)]
    to_refuse = [judged(False, 1.0), *[judged(False, 0.0)] * 4]
    summary = summarized(to_accept + to_refuse)
    assert summary.n == 9
    assert summary.accuracy == 6 / 9
    assert summary.false_positive_rate == 1 / 5
    assert summary.false_negative_rate == 1 / 4
    assert summary.could_not_grade == 1


def test_a_case_that_could_not_be_graded_is_never_right():
    assert not judged(True, None).right
    assert not judged(False, None).right


def test_a_grader_that_says_minus_one_and_one_is_read_as_one_that_says_zero_and_one():
    assert judged(True, 1.0).accepted is True
    assert judged(True, -1.0).accepted is False
    assert judged(True, 0.5).accepted is True


def test_a_rate_over_no_cases_is_unknown_and_not_zero():
    summary = summarized([judged(True, 1.0)])
    assert summary.false_positive_rate is None
    assert summary.false_negative_rate == 0.0
    assert summarized([]).accuracy is None
    assert summarized([]).median_ms is None


def test_quantiles_of_a_hundred_times():
    # 1 ms, 2 ms, ..., 100 ms: 50 of them do not exceed 50 ms, 99 do not exceed 99 ms.
    summary = summarized([judged(True, 1.0, k / 1000) for k in range(100, 0, -1)])
    assert (summary.median_ms, summary.p99_ms, summary.max_ms) == (50.0, 99.0, 100.0)


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, None])), min_size=1))
def test_right_wrong_and_ungraded_cases_add_up(rows: list[tuple[bool, float | None]]):
    summary = summarized([judged(expected, value) for expected, value in rows])
    to_accept = sum(expected for expected, _ in rows)
    wrong = (summary.false_positive_rate or 0) * (len(rows) - to_accept)
    wrong += (summary.false_negative_rate or 0) * to_accept
    assert summary.accuracy is not None
    assert summary.accuracy * len(rows) + wrong + summary.could_not_grade == pytest.approx(
        len(rows)
    )

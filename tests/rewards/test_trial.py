"""Tests for rewards/trial.py: cases as read, the probes, and what is complained about."""

import json
from pathlib import Path

import pytest

from cotree.rewards.trial import Trial, Tried, options_from, probes, read_trials
from cotree.rewards.types import Failure, Problem, Reward, Ungraded

PROBLEM = Problem("p", "", "1", "t", columns={"unit": "cm"})


def write(folder: Path, *rows: object) -> Path:
    path = folder / "cases.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_fields_that_no_trial_has_are_the_columns_of_its_problem(tmp_path: Path):
    row = {"completion": "5 cm", "reference": "5", "expected": [0, 1], "unit": "cm", "level": None}
    (trial,) = read_trials(write(tmp_path, row))
    assert trial.name == "row 1"
    assert trial.problem.reference == "5"
    assert trial.problem.columns == {"unit": "cm", "level": None}
    assert trial.expected == (0.0, 1.0)


def test_nothing_expected_means_any_reward_will_do(tmp_path: Path):
    free, exact, flag = read_trials(
        write(
            tmp_path,
            {"completion": ""},
            {"completion": "", "expected": 0.5},
            {"completion": "", "expected": True},
        )
    )
    assert free.expected is None
    assert exact.expected == (0.5, 0.5)
    assert flag.expected == (1.0, 1.0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"reference": "1"}, "no field 'completion'"),
        ({"completion": "", "reference": 1}, "'reference' is 1; it must be text"),
        ({"completion": "", "expected": "1"}, "'expected' is '1'"),
        ({"completion": "", "expected": [1, 0]}, r"'expected' is \[1, 0\]"),
        ({"completion": "", "expected": [1]}, r"'expected' is \[1\]"),
    ],
)
def test_a_bad_row_is_named_by_its_number(tmp_path: Path, row: dict[str, object], message: str):
    path = write(tmp_path, {"completion": ""}, row)
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        read_trials(path)


def test_probes_have_the_columns_of_real_problems():
    tried = probes(PROBLEM)
    assert {trial.problem.columns["unit"] for trial in tried} == {"cm"}
    by_name = {trial.name: trial.completion for trial in tried}
    assert by_name["None, never in a run"] is None
    assert by_name["empty"] == ""
    assert len(by_name["1 MB of text"]) >= 1_000_000
    assert "\x00" in by_name["NUL and control characters"]
    with pytest.raises(UnicodeEncodeError):
        by_name["a lone surrogate"].encode()


@pytest.mark.parametrize(
    ("expected", "value", "complaint"),
    [
        (None, -7.0, ""),
        ((1.0, 1.0), 1.0, ""),
        ((1.0, 1.0), 0.0, "expected 1"),
        ((0.3, 0.3), 0.1 + 0.2, ""),
        ((0.0, 0.5), 0.6, "expected 0 to 0.5"),
    ],
)
def test_a_reward_out_of_its_range_is_a_complaint(
    expected: tuple[float, float] | None, value: float, complaint: str
):
    tried = Tried(Trial("row 1", "", PROBLEM, expected), Reward(value, ""), 0.0)
    assert tried.complaint == complaint
    assert tried.consequence == f"reward {value:g}"


def test_a_failure_is_a_complaint_unless_a_run_could_not_have_it():
    (none, empty, *_) = probes(PROBLEM)
    crash, skipped = Ungraded(Failure.CRASH, "broke"), Ungraded(Failure.SKIPPED, "None")
    assert none.unreal
    assert Tried(empty, crash, 0.0).complaint == "could not grade"
    assert Tried(empty, crash, 0.0).consequence == "masked, counted as crash"
    assert Tried(none, crash, 0.0).complaint == ""
    assert Tried(empty, skipped, 0.0).complaint == ""


def test_a_case_with_an_expected_value_that_was_skipped_is_a_complaint():
    trial = Trial("row 1", "", PROBLEM, (1.0, 1.0))
    skipped = Ungraded(Failure.SKIPPED, "None")
    assert Tried(trial, skipped, 0.0).complaint == "expected 1"


def test_options_are_read_as_toml_values_else_as_text():
    pairs = ["limit=4", "frac=1e-3", "strict=true", "name=gsm8k", 'quoted="4"', "text=a=b"]
    assert options_from(pairs) == {
        "limit": 4,
        "frac": 0.001,
        "strict": True,
        "name": "gsm8k",
        "quoted": "4",
        "text": "a=b",
    }


@pytest.mark.parametrize("pairs", [["limit"], ["=4"], ["a=1", "a=2"], ["a=[1]"], ["a=2026-01-01"]])
def test_what_is_no_option_is_refused(pairs: list[str]):
    with pytest.raises(ValueError, match="option"):
        options_from(pairs)

"""Tests for rewards/audit.py: what is read from a run's samples, and how agreement is counted."""

import json
from pathlib import Path

import pytest

from cotree.rewards.audit import (
    COULD_NOT_GRADE,
    RIGHT,
    WRONG,
    Sample,
    SecondOpinion,
    agreement,
    disagreement_share,
    read_samples,
)
from cotree.rewards.types import Failure, Problem, Reward, Ungraded

ROW = {
    "step": 3,
    "problem": "p/1",
    "task": "t",
    "prompt": "1+1",
    "question": "1+1",
    "reference": "2",
    "completion": r"\boxed{2}",
    "reward": {"value": 0.4, "reason": "answer=match", "breakdown": {"answer": 1.0, "length": 0.0}},
    "ungraded": None,
}
LOST = {**ROW, "reward": None, "ungraded": {"failure": "crash", "reason": "broke"}}


def write(folder: Path, *rows: object) -> Path:
    path = folder / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def opinion(first: str, second: float | None) -> SecondOpinion:
    sample = Sample(1, Problem("p", "", "1", "t"), "", first, "")
    failed = Ungraded(Failure.CRASH, "broke")
    return SecondOpinion(sample, failed if second is None else Reward(second, ""))


def test_the_first_reward_of_a_run_is_its_verdict_unless_another_is_named(tmp_path: Path):
    path = write(tmp_path, ROW, LOST)
    first, lost = read_samples(path, term=None, limit=None)
    assert (first.step, first.verdict, first.reason) == (3, RIGHT, "answer=match")
    assert first.problem == Problem("p/1", "1+1", "2", "t", "1+1")
    assert (lost.verdict, lost.reason) == (COULD_NOT_GRADE, "broke")
    assert read_samples(path, term="length", limit=1)[0].verdict == WRONG


def test_no_more_samples_are_read_than_asked_for(tmp_path: Path):
    assert len(read_samples(write(tmp_path, ROW, ROW, ROW), term=None, limit=2)) == 2


def test_a_reward_that_the_run_did_not_have_is_an_error_that_lists_those_it_had(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no row has a reward 'ansver'.*'answer', 'length'"):
        read_samples(write(tmp_path, ROW), term="ansver", limit=None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": None}, "no line of a run's samples.jsonl"),
        ({"reward": {"breakdown": {"answer": "yes"}}}, "rewards that are no numbers"),
        ({"reference": None}, "no field 'reference'"),
        ({"step": "three"}, "'step' is 'three'"),
    ],
)
def test_a_row_that_is_no_sample_is_named(tmp_path: Path, change: dict[str, object], message: str):
    with pytest.raises(ValueError, match=f"row 2: .*{message}"):
        read_samples(write(tmp_path, ROW, {**ROW, **change}), term=None, limit=None)


def test_an_empty_file_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="has no rows"):
        read_samples(write(tmp_path), term=None, limit=None)


def test_only_right_against_wrong_is_a_disagreement():
    rows = [
        opinion(RIGHT, 1.0),
        opinion(RIGHT, 0.0),
        opinion(WRONG, 1.0),
        opinion(WRONG, 0.0),
        opinion(WRONG, None),
        opinion(COULD_NOT_GRADE, 1.0),
    ]
    assert [row.disagrees for row in rows] == [False, True, True, False, False, False]
    assert disagreement_share(rows) == 2 / 4
    counts = agreement(rows)
    assert counts[RIGHT, WRONG] == 1
    assert counts[WRONG, COULD_NOT_GRADE] == 1
    assert counts.total() == len(rows)


def test_the_share_is_unknown_when_nothing_was_graded_by_both():
    assert disagreement_share([opinion(COULD_NOT_GRADE, 1.0), opinion(RIGHT, None)]) is None

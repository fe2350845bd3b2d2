"""Tests for grpo/distilling/corpus.py: what is read back, and what the report is told."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from teacher_texts import CUT, RIGHT, UNGRADED, WRONG, numbered, problem

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import Keep
from cotree.grpo.config_traces import RowTraces
from cotree.grpo.distilling.corpus import (
    corpus_digest,
    corpus_summary,
    read_traces,
    write_traces,
)
from cotree.grpo.distilling.rejection import Trace, kept_traces
from cotree.grpo.evaluation.intervals import mean_interval
from cotree.grpo.problems import TraceRow, trace_rows
from cotree.grpo.result import write_json

TRACES = [
    Trace("p0/1", "1+1?", "Q: 1+1?\n", " 2\u2028 lines\nand é ", 7, 0.25),
    Trace("a/b/0", "2+2?", "Q: 2+2?\n", "4", 1, 1.0),
]


PIPELINE = Pipeline.model_validate(
    {
        "output_dir": "run",
        "model": {"type": "pretrained", "path": "m"},
        "task": {"type": "arithmetic"},
        "rewards": [{"name": "answer"}],
    }
)


def test_traces_come_back_as_they_were_written(tmp_path: Path):
    write_traces(tmp_path / "traces.jsonl", TRACES)
    assert read_traces(tmp_path / "traces.jsonl") == TRACES
    write_traces(tmp_path / "traces.jsonl", TRACES[:1])
    assert read_traces(tmp_path / "traces.jsonl") == TRACES[:1]
    assert [path.name for path in tmp_path.iterdir()] == ["traces.jsonl"]


def test_a_cold_start_reads_the_traces_as_rows(tmp_path: Path):
    write_traces(tmp_path / "traces.jsonl", TRACES)
    rows = RowTraces(type="rows", path=str(tmp_path / "traces.jsonl"))
    assert trace_rows(PIPELINE, rows, lambda question: f"<{question}>") == [
        TraceRow("1+1?", "<1+1?>", TRACES[0].solution),
        TraceRow("2+2?", "<2+2?>", "4"),
    ]


def test_a_corpus_of_nothing_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="none of the teacher's completions was kept"):
        write_traces(tmp_path / "traces.jsonl", [])
    assert not list(tmp_path.iterdir())


def test_rows_from_elsewhere_are_no_traces(tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"question": "1+1?", "solution": "2"}))
    with pytest.raises(ValueError, match=r"rows\.jsonl, row 1: tokens is None and pass_rate None"):
        read_traces(path)


rows = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=4)


@given(rows, rows)
def test_two_corpora_have_one_digest_only_if_they_are_one(
    first: list[tuple[str, str]], second: list[tuple[str, str]]
):
    assert (corpus_digest(first) == corpus_digest(second)) == (first == second)


def test_the_summary_counts_everything(tmp_path: Path):
    # Pass rates: 1 of 2, 1 of 1 (one could not be graded), 0 of 2, and unknown.
    candidates = {
        "p0": numbered("p0", RIGHT, WRONG),
        "p1": numbered("p1", UNGRADED, RIGHT),
        "p2": numbered("p2", WRONG, CUT),
        "p3": numbered("p3", UNGRADED, UNGRADED),
    }
    traces, counts = kept_traces(candidates, [problem(index) for index in range(4)], Keep())
    summary = corpus_summary(candidates, traces, counts)
    write_json(tmp_path / "corpus.json", summary)
    assert json.loads((tmp_path / "corpus.json").read_text()) == {
        "problems": 4,
        "solved": 2,
        "in_corpus": 2,
        "candidates": 8,
        "kept": 2,
        "dropped": {
            "cut": 1, "ungraded": 3, "wrong": 2, "refuted": 0, "too_short": 0, "too_long": 0,
            "duplicate": 0, "pass_rate": 0, "per_problem": 0,
        },
        "accuracy": mean_interval([0.5, 1.0, 0.0])._asdict(),
        "pass_rates": [
            {"rate": 0.0, "problems": 1}, {"rate": 0.5, "problems": 1}, {"rate": 1.0, "problems": 1}
        ],
        "tokens": {"sampled": 7 * 9 + 16, "kept": 18, "mean_kept": 9.0},
    }  # fmt: skip
    assert summary["accuracy"]["value"] == 0.5


def test_a_teacher_that_could_not_be_graded_has_no_accuracy():
    candidates = {"p0": numbered("p0", UNGRADED)}
    summary = corpus_summary(candidates, *kept_traces(candidates, [problem(0)], Keep()))
    assert (summary["accuracy"], summary["pass_rates"]) == (None, [])
    assert summary["tokens"]["mean_kept"] is None

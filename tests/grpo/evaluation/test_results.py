"""Tests for grpo/evaluation/results.py: keys stay, and a line gives its record back."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from evaluated import CUT, RIGHT, UNGRADED, WRONG, record, sampled, summary
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.evaluation.records import ProblemRecord, Sample
from cotree.grpo.evaluation.results import (
    record_from_json,
    record_json,
    results_json,
    summary_json,
    write_json,
    write_samples_parquet,
)
from cotree.grpo.types import StopReason

ANY = st.text(st.characters())
"""Lone surrogates included."""
SAMPLES = st.builds(
    Sample,
    text=ANY,
    answer=st.none() | ANY,
    rule=ANY,
    correct=st.none() | st.booleans(),
    strict=st.none() | st.booleans(),
    reason=ANY,
    parse_error=st.booleans(),
    num_tokens=st.integers(0, 1 << 40),
    stop_reason=st.sampled_from(get_args(StopReason)),
    unfinished_thinking=st.booleans(),
)
RECORDS = st.builds(
    ProblemRecord,
    index=st.integers(0, 1 << 40),
    id=ANY,
    question=ANY,
    prompt=ANY,
    reference=ANY,
    samples=st.lists(SAMPLES, max_size=4).map(tuple),
)


def line(*samples: Sample) -> dict:
    return json.loads(json.dumps(record_json(record(3, *samples))))


# --- samples_BENCHMARK.jsonl


@given(RECORDS)
def test_a_record_survives_its_line(original: ProblemRecord):
    text = json.dumps(record_json(original), allow_nan=False)
    assert text.isascii()
    assert "\n" not in text
    read = record_from_json(json.loads(text))
    # JSON joins a high surrogate and a low one behind it; what it writes of the two is the same.
    assert json.dumps(record_json(read)) == text
    if not any("\ud800" <= c <= "\udbff" for c in repr_of(original)):
        assert read == original


def repr_of(original: ProblemRecord) -> str:
    texts = [original.id, original.question, original.prompt, original.reference]
    for sample in original.samples:
        texts += [sample.text, sample.answer or "", sample.rule, sample.reason]
    return "".join(texts)


def test_a_lone_surrogate_survives():
    broken = record(0, replace(RIGHT, text="half \ud83d of it", answer="\udc00"))
    assert record_from_json(json.loads(json.dumps(record_json(broken)))) == broken


def test_a_line_has_the_names_of_the_harness():
    assert record_json(record(3, RIGHT, WRONG, UNGRADED)) == {
        "doc_id": 3,
        "doc": {"id": "p3", "question": "6 x 7?"},
        "target": "42",
        "arguments": {"gen_args_0": {"arg_0": "Q: 6 x 7?\nA:"}},
        "resps": [["so 42", "so 17", "9^9^9"]],
        "filtered_resps": ["42", "17", "9^9^9"],
        "filter": "flexible-extract",
        "metrics": ["exact_match"],
        "exact_match": 0.5,  # 1 of the 2 that were graded
        "samples": [
            {
                "rule": "boxed",
                "correct": sample.correct,
                "strict": sample.strict,
                "reason": sample.reason,
                "parse_error": False,
                "num_tokens": sample.num_tokens,
                "stop_reason": "stop",
                "unfinished_thinking": False,
            }
            for sample in (RIGHT, WRONG, UNGRADED)
        ],
    }


def test_a_line_has_every_field_of_a_sample():
    written = set(line(RIGHT)["samples"][0]) | {"text", "answer"}
    assert written == {field.name for field in fields(Sample)}


def test_without_a_graded_sample_there_is_no_exact_match():
    assert line(UNGRADED)["exact_match"] is None
    assert record_from_json(line(UNGRADED)).samples == (UNGRADED,)


def change(row: dict, place: str, value: object) -> dict:
    """The row with the value at a dotted place; numbers index lists."""
    *path, last = place.split(".")
    inner = row
    for step in path:
        inner = inner[int(step) if step.isdigit() else step]
    inner[int(last) if last.isdigit() else last] = value
    return row


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("doc_id", "3", "doc_id"),
        ("doc_id", True, "doc_id"),
        ("doc.id", None, "doc.id"),
        ("doc.extra", 1, "extra"),
        ("target", 42, "target"),
        ("arguments.gen_args_0.arg_0", ["Q"], "arguments.gen_args_0.arg_0"),
        ("arguments", [["Q"]], "arguments"),
        ("resps", [["a"], ["b"]], "resps"),
        ("resps.0", ["so 42", "so 17", "more"], r"resps\[0\]"),
        ("resps.0.1", 17, r"resps\[0\]\[1\]"),
        ("filtered_resps", ["42"], "filtered_resps"),
        ("filtered_resps.0", 42, r"filtered_resps\[0\]"),
        ("filter", "none", "filter"),
        ("metrics", [], "metrics"),
        ("exact_match", 0.25, "exact_match"),
        ("exact_match", None, "exact_match"),
        ("samples", {}, "samples"),
        ("samples.1", "sample", r"samples\[1\]"),
        ("samples.1.correct", 1, r"samples\[1\]\.correct"),
        ("samples.0.strict", "yes", r"samples\[0\]\.strict"),
        ("samples.0.parse_error", None, r"samples\[0\]\.parse_error"),
        ("samples.0.num_tokens", -1, r"samples\[0\]\.num_tokens"),
        ("samples.0.num_tokens", 9.0, r"samples\[0\]\.num_tokens"),
        ("samples.0.stop_reason", "eos", r"samples\[0\]\.stop_reason"),
        ("samples.0.stop_reason", ["stop"], r"samples\[0\]\.stop_reason"),
        ("samples.0.text", "twice", "text"),
        ("surplus", 1, "surplus"),
    ],
)
def test_an_odd_field_is_refused_by_name(place: str, value: object, named: str):
    with pytest.raises(ValueError, match=named):
        record_from_json(change(line(RIGHT, WRONG), place, value))


@pytest.mark.parametrize("name", list(record_json(record(3, RIGHT))))
def test_a_missing_field_is_refused_by_name(name: str):
    row = line(RIGHT)
    del row[name]
    with pytest.raises(ValueError, match=f"the line has no .*{name}"):
        record_from_json(row)


@pytest.mark.parametrize("row", [None, [], "row", 3])
def test_a_line_that_is_no_object_is_refused(row: object):
    with pytest.raises(ValueError, match="the line is"):
        record_from_json(row)


# --- results.json


def test_the_keys_of_a_summary_are_stable():
    # design: "Results that programs read". A script that compares over time reads these.
    assert list(summary_json(sampled())) == [
        "n", "avg@k", "pass@k", "maj@k", "strict", "no_answer", "truncated", "mean_tokens",
        "fingerprint", "k", "num_total", "ungraded", "parse_error", "unfinished_thinking",
        "run_error", "total_tokens", "version", "pass_at", "maj_at",
    ]  # fmt: skip


def test_an_estimate_has_its_interval_and_curves_are_by_number():
    found = summary_json(sampled())
    assert found["avg@k"] == {"value": 0.625, "low": 0.581, "high": 0.667}
    assert found["pass@k"] == {"value": 0.5, "low": 0.3, "high": 0.7}
    assert found["maj@k"] == {"value": 0.3, "low": 0.1, "high": 0.5}
    assert found["strict"] is None
    assert list(found["pass_at"]) == ["1", "2", "4"]
    assert found["pass_at"]["4"] == found["pass@k"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_pass_at_k_is_null_where_no_problem_has_k_graded_samples():
    once = {1: sampled().pass_at[1]}
    few = sampled(pass_at=once, maj_at=once)
    assert summary_json(few)["pass@k"] is None
    assert summary_json(few)["maj@k"] is None
    scores = results_json([few], model="m", config={}, seconds=1.0)["results"]["aime"]
    assert not [name for name in scores if "@" in name]


def test_results_have_the_layout_of_the_harness():
    found = results_json(
        [summary("gsm8k", n=199, num_total=1319), sampled("aime")],
        model="Qwen/Qwen3-0.6B",
        config={"temperature": 0.6},
        seconds=12.5,
    )
    assert found["results"]["gsm8k"] == {
        "alias": "gsm8k",
        "sample_len": 199,
        "exact_match,strict-match": 0.5,
        "exact_match_stderr,strict-match": pytest.approx(0.05),  # (0.598 - 0.402) / 3.92
        "exact_match,flexible-extract": 0.625,
        "exact_match_stderr,flexible-extract": pytest.approx(0.086 / 3.92),
    }
    assert found["results"]["aime"] == {
        "alias": "aime",
        "sample_len": 30,
        "exact_match,flexible-extract": 0.625,
        "exact_match_stderr,flexible-extract": pytest.approx(0.086 / 3.92),
        "pass@4,flexible-extract": 0.5,
        "pass@4_stderr,flexible-extract": pytest.approx(0.4 / 3.92),
        "exact_match,maj@4": 0.3,
        "exact_match_stderr,maj@4": pytest.approx(0.4 / 3.92),
    }
    assert found["n-samples"]["gsm8k"] == {"original": 1319, "effective": 199}
    assert found["n-shot"] == {"gsm8k": 4, "aime": 4}
    assert found["versions"] == {"gsm8k": 1, "aime": 1}
    assert found["config"] == {"model": "Qwen/Qwen3-0.6B", "temperature": 0.6}
    assert found["model_name"] == "Qwen/Qwen3-0.6B"
    assert found["total_evaluation_time_seconds"] == "12.5"
    assert found["configs"]["gsm8k"]["filter_list"][0] == {"name": "strict-match"}
    assert found["configs"]["aime"]["repeats"] == 4
    assert found["cotree"]["aime"] == summary_json(sampled("aime"))


def test_the_number_of_examples_is_unknown_where_nothing_says_it():
    found = results_json([summary(parts={})], model="m", config={}, seconds=1.0)
    assert found["n-shot"] == {"gsm8k": None}


def test_two_summaries_of_one_benchmark_are_refused():
    with pytest.raises(ValueError, match="there twice"):
        results_json([summary(), summary()], model="m", config={}, seconds=1.0)


def test_a_file_is_replaced_as_a_whole(tmp_path: Path):
    path = tmp_path / "new" / "results.json"
    write_json(path, {"n": 1})
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert json.loads(path.read_text()) == {"n": 1}


# --- parquet


def test_parquet_has_a_row_a_sample(tmp_path: Path):
    from pyarrow import parquet

    path = tmp_path / "samples.parquet"
    broken = replace(WRONG, text="half \ud83d")
    write_samples_parquet(path, {"gsm8k": [record(0, RIGHT, broken), record(1, CUT)], "none": []})
    rows = parquet.read_table(path).to_pylist()
    assert [(row["benchmark"], row["id"], row["sample"]) for row in rows] == [
        ("gsm8k", "p0", 0), ("gsm8k", "p0", 1), ("gsm8k", "p1", 0),
    ]  # fmt: skip
    assert rows[0] == {
        "benchmark": "gsm8k", "doc_id": 0, "id": "p0", "question": "6 x 7?",
        "prompt": "Q: 6 x 7?\nA:", "reference": "42", "sample": 0, "text": "so 42", "answer": "42",
        "rule": "boxed", "correct": True, "strict": True, "reason": "match", "parse_error": False,
        "num_tokens": 9, "stop_reason": "stop", "unfinished_thinking": False,
    }  # fmt: skip
    assert rows[1]["text"] == r"half \ud83d"
    assert rows[2]["answer"] is None
    assert [entry.name for entry in tmp_path.iterdir()] == ["samples.parquet"]


def test_parquet_of_no_samples_still_has_its_columns(tmp_path: Path):
    from pyarrow import parquet

    path = tmp_path / "samples.parquet"
    write_samples_parquet(path, {"gsm8k": []})
    empty = parquet.read_table(path)
    assert len(empty) == 0
    assert "correct" in empty.column_names

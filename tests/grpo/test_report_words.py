"""Tests for grpo/report_words.py: sentences claim no more than was measured."""

from pathlib import Path

import pytest

from cotree.grpo.report_words import duration, method_told, progress, verdict
from cotree.grpo.run_folder import load_pipeline


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ((0.70, 0.66, 0.74), ("rose", "+20.0 points", "do not overlap")),
        ((0.55, 0.51, 0.59), ("rose", "+5.0 points", "overlap, so this run alone does not show")),
        ((0.30, 0.26, 0.34), ("fell", "-20.0 points", "do not overlap")),
    ],
)
def test_the_sentence_claims_no_more_than_the_intervals(after, expected):
    keys = ("value", "low", "high")
    before = dict(zip(keys, (0.50, 0.46, 0.54), strict=True)) | {"n": 500}
    result = {
        "accuracy_before": before,
        "accuracy_after": dict(zip(keys, after, strict=True)) | {"n": 500},
    }
    told = verdict(result, [])
    assert all(part in told for part in expected), told
    assert "50.0\N{NO-BREAK SPACE}% (46.0 to 54.0)" in told


def test_nothing_measured_claims_nothing():
    assert verdict({}, []) == "No accuracy has been measured yet."


@pytest.mark.parametrize(
    ("seconds", "told"), [(99.4, "99 s"), (150, "2.5 min"), (5940, "99.0 min"), (9000, "2.5 h")]
)
def test_a_duration_has_the_unit_that_reads_best(seconds: float, told: str):
    assert duration(seconds) == told


def test_progress_says_what_is_left():
    rows = [{"step": 2}]
    assert progress("cold start", rows, 3) == "cold start unfinished: 2 of 3 steps"
    assert progress("cold start", rows, 2) == "cold start finished: 2 steps"
    assert progress("cold start", rows, None) == "cold start: 2 steps"


def test_a_pipeline_that_only_distills_says_so(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(
        'task = { type = "arithmetic" }\nmodel = { type = "new" }\n[distill]\ntype = "traces"\n'
        'num_steps = 3\noptimizer = { learning_rate = 1e-3 }\ncorpus = { type = "generated" }\n'
    )
    assert method_told(load_pipeline(path, [])) == "distillation, traces"

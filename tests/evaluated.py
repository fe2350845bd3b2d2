"""Graded samples, problems and summaries to write about, for several test files."""

import json
from collections.abc import Mapping
from pathlib import Path

from cotree.grpo.evaluation.journal import EvaluationFolder
from cotree.grpo.evaluation.records import BenchmarkSummary, Estimate, ProblemRecord, Sample

RIGHT = Sample("so 42", "42", "boxed", True, True, "match", False, 9, "stop", False)
WRONG = Sample("so 17", "17", "boxed", False, False, "mismatch", False, 8, "stop", False)
SILENT = Sample("hm", None, "none", False, False, "no answer", False, 5, "stop", False)
CUT = Sample("<think>wait", None, "none", False, False, "no answer", False, 99, "length", True)
UNGRADED = Sample("9^9^9", "9^9^9", "boxed", None, None, "too large", False, 7, "stop", False)


def record(index: int, *samples: Sample, question: str = "6 x 7?") -> ProblemRecord:
    """A problem whose reference is 42."""
    return ProblemRecord(index, f"p{index}", question, f"Q: {question}\nA:", "42", samples)


def summary(benchmark: str = "gsm8k", **changes: object) -> BenchmarkSummary:
    """One sample a problem, unless `changes` say otherwise."""
    once: Mapping[int, Estimate] = {1: Estimate(0.625, 0.581, 0.667)}
    fields = {
        "benchmark": benchmark,
        "version": 1,
        "n": 200,
        "num_total": 200,
        "k": 1,
        "ungraded": 0,
        "avg": Estimate(0.625, 0.581, 0.667),
        "run_error": None,
        "strict": Estimate(0.5, 0.402, 0.598),
        "pass_at": once,
        "maj_at": once,
        "no_answer": 0.012,
        "parse_error": 0.0,
        "truncated": 0.034,
        "unfinished_thinking": 0.0,
        "mean_tokens": 512.4,
        "total_tokens": 102_480,
        "fingerprint": "3f9a1c0b",
        "parts": {"prompt": {"style": "boxed", "examples": 4}, "engine": {"temperature": 0.6}},
    }
    return BenchmarkSummary(**(fields | changes))


def sampled(benchmark: str = "aime", **changes: object) -> BenchmarkSummary:
    """Four samples a problem and no asked format."""
    curves = {
        "pass_at": {
            1: Estimate(0.25, 0.1, 0.4), 2: Estimate(0.4, 0.2, 0.6), 4: Estimate(0.5, 0.3, 0.7),
        },
        "maj_at": {
            1: Estimate(0.25, 0.1, 0.4), 2: Estimate(0.25, 0.1, 0.4), 4: Estimate(0.3, 0.1, 0.5),
        },
    }  # fmt: skip
    fields = {"n": 30, "num_total": 30, "k": 4, "strict": None, "run_error": 0.02, **curves}
    return summary(benchmark, **(fields | changes))


PARTS = {"benchmark": {"name": "gsm8k"}, "sampler": {"temperature": 0.0, "top_p": 1.0}}


def finished(root: Path, *records: ProblemRecord, parts: dict | None = None) -> Path:
    """An evaluation's folder as `measure` leaves it, as far as a comparison reads it."""
    with EvaluationFolder(root) as folder:
        plan = {"model": {}, "seed": 0, "benchmarks": {"gsm8k": parts or PARTS}}
        folder.begin(plan, resume=False)
        journal = folder.journal("gsm8k")
        for one in records:
            journal.append(one)
        folder.results.write_text(json.dumps({"cotree": {"gsm8k": {}}}))
    return root

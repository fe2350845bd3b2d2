"""scripts/bench_metrics.py on a small evaluation, without lm-eval: a peer that is not installed."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import RIGHT, SILENT, record

from cotree.grpo.evaluation.records import ProblemRecord, Sample
from cotree.grpo.evaluation.results import record_json

ROOT = Path(__file__).resolve().parents[2]
LATER = Sample(
    r"so \boxed{42}, not \boxed{17}", "42", "boxed", True, True, "match", False, 9, "stop", False
)
REFUSED = replace(RIGHT, correct=None, strict=None)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "bench_metrics.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def write_samples(folder: Path, records: Sequence[ProblemRecord], *, end: str = "\n") -> None:
    lines = [json.dumps(record_json(one)) for one in records]
    (folder / "samples_gsm8k.jsonl").write_text("\n".join(lines) + end)


def test_help_says_how_to_install_the_peers():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    assert "pip install --no-deps --target PEERS/lm-eval" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give either EVALUATION_DIR or --golds"),
        (("absent",), "'absent' is no folder"),
        ((ROOT / "configs",), "no samples_gsm8k.jsonl or samples_math500.jsonl"),
        (("--golds", ROOT / "configs"), "gsm8k/test.jsonl"),
    ],
)
def test_it_refuses(arguments: tuple[str | Path, ...], said: str):
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_verdicts_are_compared_and_a_missing_peer_is_left_out(tmp_path: Path):
    # References are 42. math-verify finds it in the words of the second sample, and takes the other
    # box of the third; on the last we have no verdict.
    samples = (RIGHT, replace(SILENT, text="42 it is, I think."), LATER, REFUSED)
    write_samples(tmp_path, [record(index, one) for index, one in enumerate(samples)])
    figures = tmp_path / "figures.json"
    done = run(tmp_path, "--json", figures)
    assert done.returncode == 0, done.stderr
    assert "gsm8k: 4 completions of 4 problems" in done.stdout
    assert "left out: lm-eval gsm8k, strict-match; lm-eval is not installed" in done.stdout

    (batch,) = json.loads(figures.read_text())
    ours, _, peer, _ = batch["graders"]
    assert (ours["right"], ours["could_not_grade"]) == (2, 1)
    assert peer["grader"] == "math-verify"
    assert (peer["right_where_wrong"], peer["wrong_where_right"]) == (1, 1)
    causes = {row["problem"]: row["cause"] for row in batch["disagreements"]}
    assert causes == {
        "p1": "we found no answer; the last number is the reference",
        "p2": "the completion goes on after the answer, and the peer took what follows",
    }
    assert causes["p1"] in done.stdout


def test_a_line_that_is_being_written_is_left_out(tmp_path: Path):
    write_samples(tmp_path, [record(0, RIGHT)], end='\n{"doc_id": 1, "do')
    done = run(tmp_path, "--only", "no such peer")
    assert done.returncode == 0, done.stderr
    assert "gsm8k: 1 completions of 1 problems" in done.stdout
    assert "which is not whole" in done.stderr

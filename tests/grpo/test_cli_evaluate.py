"""Tests for grpo/cli_evaluate.py: what is refused before anything is started, and how."""

import json
from pathlib import Path

import pytest
from evaluated import RIGHT, WRONG, finished, record

from cotree.grpo.cli import main
from cotree.grpo.cli_evaluate import verdict
from cotree.grpo.evaluation.compare import Compared
from cotree.grpo.evaluation.paired import paired_difference

PIPELINE = """
model = { type = "pretrained", path = "none" }
task = { type = "arithmetic" }
trackers = []
[train]
num_steps = 1
optimizer = { learning_rate = 1e-4 }
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTREE_DEBUG", raising=False)
    Path("run.toml").write_text(PIPELINE)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["m"], "error: which benchmarks? Add --benchmarks"),
        (["m", "--benchmarks", "gsm8k,,math500"], "separate names by single commas"),
        (["m", "--benchmarks", "gsm9k"], "gsm9k"),
        (["m", "--benchmarks", "arithmetic", "--engine", "server"], "needs --server URL"),
        (
            ["m", "--benchmarks", "arithmetic", "--engine", "vllm", "--server", "http://x"],
            "--server http://x has no effect with --engine vllm",
        ),
        (
            ["m", "--benchmarks", "arithmetic", "--server", "http://x", "--replicas", "2"],
            "replicas of our own engines have no effect with a server",
        ),
        (["m", "--benchmarks", "arithmetic", "-k", "4"], "4 samples at temperature 0"),
        (["m", "--benchmarks", "arithmetic", "-k", "0"], "benchmarks.samples: must be greater"),
        (["m", "--benchmarks", "arithmetic", "--dtype", "int4"], "engines.dtype: must be"),
        (
            ["m", "--benchmarks", "arithmetic", "--set", "engines.max_num_seq=3"],
            "engines.max_num_seq: unknown key; did you mean engines.max_num_seqs?",
        ),
        (["m", "--benchmarks", "arithmetic", "--model", "x"], "--model has no effect with a model"),
        (["run.toml", "--benchmarks", "gsm8k"], "--benchmarks has no effect with a .toml file"),
        (["run.toml", "--resume"], "--resume has no effect with a .toml file"),
        (["run.tom", "--benchmarks", "arithmetic"], "cannot load a model from 'run.tom'"),
    ],
)
def test_what_cannot_be_done_is_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
):
    code = main(["evaluate", *arguments])
    error = capsys.readouterr().err
    assert expected in error
    assert "Traceback" not in error
    assert code in (1, 2)


def test_a_relative_folder_is_refused_inside_a_ray_job(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert main(["evaluate", "m", "--benchmarks", "arithmetic"]) == 2
    assert "is deleted afterwards. Add --output $PWD/runs/evaluate/" in capsys.readouterr().err


def test_benchmarks_are_listed_with_their_sources(capsys: pytest.CaptureFixture[str]):
    assert main(["benchmarks"]) == 0
    shown = capsys.readouterr().out
    for name in ("gsm8k", "math500", "aime24", "aime25", "amc23", "minerva", "countdown"):
        assert name in shown


def test_compare_shows_what_it_found_and_what_it_could_have_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    a = finished(tmp_path / "a", *(record(i, WRONG) for i in range(20)))
    b = finished(tmp_path / "b", *(record(i, RIGHT if i < 9 else WRONG) for i in range(20)))
    assert main(["compare", str(a), str(b)]) == 0
    shown = capsys.readouterr().out
    assert "gsm8k: B is better by 45.0 points." in shown
    assert "is found 80 % of the time" in shown
    assert main(["compare", str(a), str(b), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["paired"]["difference"] == pytest.approx(0.45)
    assert found["accuracy_b"] == pytest.approx(0.45)


def test_a_comparison_of_unlike_evaluations_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    a = finished(tmp_path / "a", record(0, WRONG))
    b = finished(tmp_path / "b", record(0, RIGHT), parts={"sampler": {"temperature": 1.0}})
    assert main(["compare", str(a), str(b)]) == 2
    assert "was not measured alike" in capsys.readouterr().err


def compared(a: list[float], b: list[float]) -> Compared:
    paired = paired_difference(a, b)
    return Compared("x", sum(a) / len(a), sum(b) / len(b), paired, paired.p_value, ())


def test_a_verdict_claims_no_more_than_the_interval():
    few = verdict(compared([0.0, 1.0, 0.0, 1.0], [1.0, 1.0, 0.0, 0.0]))
    assert few.startswith("no difference is shown (0.0 points, within chance)")
    assert verdict(compared([1.0] * 40, [0.0] * 40)).startswith("A is better by 100.0 points")

"""The whole pipeline through its command line, on real Ray and real vLLM, in minutes.

What is tested is not whether a model learns (the quickstart shows that) but the promises: the
files, the exit codes, and that a run which was killed and resumed ends in the same bytes.
"""

import hashlib
import json
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest
from smoke_pipeline import CONFIG, STEPS, cotree, finish, wait_for_step

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def fingerprint(model: Path) -> str:
    return hashlib.sha256((model / "model.safetensors").read_bytes()).hexdigest()


def repeatable_metrics(run: Path) -> list[dict[str, float]]:
    """The metrics without what is time."""
    timed = ("time", "seconds", "tokens_per_second", "engine")
    return [
        {k: v for k, v in json.loads(line).items() if k.split("/")[0] not in timed}
        for line in (run / "metrics.jsonl").read_text().splitlines()
    ]


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def assert_all_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=20)
    left = [" ".join(p.cmdline())[:120] for p in alive if p.is_running()]
    assert not left, f"orphans: {left}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration and a finished cold start."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "smoke.toml").write_text(CONFIG)
    finish(cotree(folder, "sft", "smoke.toml"), code=0)
    return folder


@pytest.fixture(scope="module")
def uninterrupted(folder: Path) -> Path:
    """The run folder of a training run that nothing disturbed."""
    finish(cotree(folder, "train", "smoke.toml"), code=0)
    return folder / "runs" / "smoke"


def copy_of_the_cold_start(uninterrupted: Path, name: str) -> Path:
    """A second run folder that starts from the same cold start."""
    other = uninterrupted.parent / name
    shutil.copytree(uninterrupted / "sft", other / "sft")
    return other


def test_a_run_leaves_its_files_and_stable_results(uninterrupted: Path):
    result = json.loads((uninterrupted / "result.json").read_text())
    assert result["steps"] == STEPS
    assert {"sft", "train", "evaluate"} <= result["seconds"].keys()
    for key in ("accuracy_before", "accuracy_after"):
        accuracy = result[key]
        assert 0 <= accuracy["low"] <= accuracy["value"] <= accuracy["high"] <= 1
        assert accuracy["n"] == 20
    metrics = repeatable_metrics(uninterrupted)
    assert [row["step"] for row in metrics] == [0, 1, 2, 3, 4, 4]
    assert [row["staleness"] for row in metrics[1:5]] == [0, 1, 1, 1]
    # Sampled and scored with the same weights, both in bfloat16; later steps are one update apart.
    assert metrics[1]["mismatch/mean_abs_nats"] < 0.02
    # The benchmark is measured whenever the held-back problems are: before, at step 2, and after.
    assert [row["step"] for row in metrics if "eval/arithmetic/accuracy" in row] == [0, 2, 4]
    for when in ("before", "after"):
        measured = result[f"benchmarks_{when}"]["arithmetic"]
        assert (measured["n"], measured["k"], measured["num_total"]) == (12, 1, 500)
    samples = [json.loads(s) for s in (uninterrupted / "samples.jsonl").read_text().splitlines()]
    assert any(sample["steps"] for sample in samples)


def test_the_final_model_is_a_plain_checkpoint(uninterrupted: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(uninterrupted / "model")
    model = AutoModelForCausalLM.from_pretrained(uninterrupted / "model")
    ids = tokenizer("1+2\n", return_tensors="pt").input_ids
    assert model(ids).logits.shape[1] == ids.shape[1]


def test_a_run_whose_learner_is_killed_resumes_to_the_same_bytes(folder: Path, uninterrupted: Path):
    other = copy_of_the_cold_start(uninterrupted, "killed")
    settings = ("--set", "output_dir=runs/killed")
    process = cotree(folder, "train", "smoke.toml", *settings)
    wait_for_step(other, 2, process)
    family = descendants(process)
    (learner,) = [p for p in family if "Learner" in " ".join(p.cmdline())]
    learner.send_signal(signal.SIGKILL)
    output = finish(process, code=1)
    assert "--resume" in output
    assert "Traceback" not in output
    assert_all_gone(family)

    finish(cotree(folder, "train", "smoke.toml", *settings, "--resume"), code=0)
    assert fingerprint(other / "model") == fingerprint(uninterrupted / "model")
    assert repeatable_metrics(other) == repeatable_metrics(uninterrupted)


def test_a_run_whose_generator_is_killed_ends_in_the_same_bytes(folder: Path, uninterrupted: Path):
    other = copy_of_the_cold_start(uninterrupted, "healed")
    process = cotree(folder, "train", "smoke.toml", "--set", "output_dir=runs/healed")
    wait_for_step(other, 1, process)
    (generator,) = [p for p in descendants(process) if "Generator" in " ".join(p.cmdline())]
    generator.send_signal(signal.SIGKILL)
    output = finish(process, code=0)
    assert "Restarting it" in output
    assert fingerprint(other / "model") == fingerprint(uninterrupted / "model")


def test_an_interrupted_run_says_so_and_leaves_no_processes(folder: Path, uninterrupted: Path):
    other = copy_of_the_cold_start(uninterrupted, "interrupted")
    process = cotree(folder, "train", "smoke.toml", "--set", "output_dir=runs/interrupted")
    wait_for_step(other, 1, process)
    family = descendants(process)
    process.send_signal(signal.SIGINT)
    output = finish(process, code=130)
    assert "--resume" in output
    assert_all_gone(family)


def test_starting_over_an_existing_run_is_refused(folder: Path, uninterrupted: Path):
    before = fingerprint(uninterrupted / "model")
    output = finish(cotree(folder, "train", "smoke.toml"), code=2)
    assert "--resume" in output
    assert fingerprint(uninterrupted / "model") == before


def test_training_without_its_cold_start_says_what_to_run(folder: Path):
    output = finish(
        cotree(folder, "train", "smoke.toml", "--set", "output_dir=runs/nothing"), code=2
    )
    assert "cotree sft" in output

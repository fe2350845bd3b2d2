"""`cotree evaluate` from the command line, on a real engine: killed, resumed and compared."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from smoke_pipeline import cotree, finish
from tiny_models import write_character_tokenizer, write_tiny_model

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

NUM_PROBLEMS = 60
ARGUMENTS = (
    "--benchmarks", "arithmetic", "--limit", str(NUM_PROBLEMS), "--sampling", "policy", "-k", "2",
    "--max-tokens", "24", "--threads", "1", "--dtype", "float32",
    "--set", "engines.max_num_seqs=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny models, and the first one's evaluation, done without interruption."""
    folder = tmp_path_factory.mktemp("evaluate")
    for seed, name in enumerate(("a", "b")):
        size = write_character_tokenizer(folder / name)
        write_tiny_model(folder / name, seed=seed, vocab_size=-(-size // 32) * 32)
    finish(cotree(folder, "evaluate", "a", *ARGUMENTS, "--output", "whole"), code=0)
    return folder


def samples(output: Path) -> dict[int, dict[str, object]]:
    lines = (output / "samples_arithmetic.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len({row["doc_id"] for row in rows}) == len(rows), "a problem is there twice"
    return {row["doc_id"]: row for row in rows}


def test_it_leaves_results_samples_and_a_page(folder: Path):
    output = folder / "whole"
    results = json.loads((output / "results.json").read_text())
    found = results["cotree"]["arithmetic"]
    assert (found["n"], found["k"], found["num_total"]) == (NUM_PROBLEMS, 2, 500)
    rows = samples(output)
    assert sorted(rows) == list(range(NUM_PROBLEMS))
    tokens = [sample["num_tokens"] for row in rows.values() for sample in row["samples"]]
    assert found["total_tokens"] == sum(tokens)
    assert max(tokens) <= 24
    assert "arithmetic" in (output / "report.html").read_text()
    assert results["results"]["arithmetic"]["alias"] == "arithmetic"


def test_a_killed_evaluation_continues_without_repeating_a_problem(folder: Path):
    output = folder / "killed"
    process = cotree(folder, "evaluate", "a", *ARGUMENTS, "--output", "killed")
    journal = output / "samples_arithmetic.jsonl"
    deadline = time.monotonic() + 200
    while not journal.exists() or journal.read_bytes().count(b"\n") < 10:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "nothing was finished in time"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    before = journal.read_bytes()
    finished = before[: before.rfind(b"\n") + 1]
    assert finished.count(b"\n") < NUM_PROBLEMS, "it was killed too late to show anything"

    told = finish(
        cotree(folder, "evaluate", "a", *ARGUMENTS, "--output", "killed", "--resume", "--json"),
        code=0,
    )
    assert journal.read_bytes().startswith(finished)
    assert f"arithmetic: {finished.count(bytes([10]))} of {NUM_PROBLEMS} problems" in told
    assert samples(output) == samples(folder / "whole"), "a kill changed what was sampled"
    whole = json.loads((folder / "whole" / "results.json").read_text())["cotree"]
    (printed,) = [line for line in told.splitlines() if line.startswith("{")]
    assert json.loads(printed) == whole


def test_a_finished_evaluation_starts_no_engine(folder: Path):
    told = finish(
        cotree(folder, "evaluate", "a", *ARGUMENTS, "--output", "whole", "--resume"), code=0
    )
    assert "starting the engine" not in told


def test_other_settings_are_refused_and_other_models_compared(folder: Path):
    whole = ("--output", "whole")
    told = finish(cotree(folder, "evaluate", "a", *ARGUMENTS, *whole), code=2)
    assert "already holds an evaluation" in told
    warmer = ("--resume", "--temperature", "0.5")
    told = finish(cotree(folder, "evaluate", "a", *ARGUMENTS, *whole, *warmer), code=2)
    assert "sampler.temperature: 1.0 there, 0.5 now" in told
    told = finish(cotree(folder, "evaluate", "b", *ARGUMENTS, *whole, "--resume"), code=2)
    assert "model.model" in told

    finish(cotree(folder, "evaluate", "b", *ARGUMENTS, "--output", "b"), code=0)
    told = finish(cotree(folder, "compare", "whole", "b", "--json"), code=0)
    (found,) = json.loads(told)
    assert found["paired"]["n"] == NUM_PROBLEMS

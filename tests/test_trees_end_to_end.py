"""Training with rollout trees through the command line, on real Ray and real vLLM, in minutes."""

import json
import shutil
import signal
from pathlib import Path

import psutil
import pytest
from smoke_pipeline import CONFIG, STEPS, cotree, finish, wait_for_step

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

TREES = CONFIG.replace(
    "group_size = 4\n", 'type = "tree"\nchains = 2\npoints = 1\nforks = 2\nbranch = "step"\n'
)


def repeatable(run: Path) -> list[dict[str, float]]:
    timed = ("time", "seconds", "tokens_per_second", "engine")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.split("/")[0] not in timed} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a training run, one step off-policy, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("trees")
    (folder / "smoke.toml").write_text(TREES)
    finish(cotree(folder, "sft", "smoke.toml"), code=0)
    finish(cotree(folder, "train", "smoke.toml"), code=0)
    return folder / "runs" / "smoke"


def test_trees_cost_fewer_tokens_than_their_leaves_have(uninterrupted: Path):
    steps = [row for row in repeatable(uninterrupted) if "completion/mean_tokens" in row]
    assert len(steps) == STEPS
    assert [row["staleness"] for row in steps] == [0, 1, 1, 1]
    for row in steps:
        assert row["sampling/leaves_per_prompt"] == 6  # 2 * (1 + 1 * 2)
        assert row["sampling/generated_tokens"] < 4 * 6 * row["completion/mean_tokens"]


def test_a_killed_run_with_trees_in_flight_resumes_to_the_same_bytes(uninterrupted: Path):
    other, folder = uninterrupted.parent / "killed", uninterrupted.parents[1]
    shutil.copytree(uninterrupted / "sft", other / "sft")
    settings = ("--set", "output_dir=runs/killed")
    process = cotree(folder, "train", "smoke.toml", *settings)
    wait_for_step(other, 2, process)
    family = psutil.Process(process.pid).children(recursive=True)
    (learner,) = [p for p in family if "Learner" in " ".join(p.cmdline())]
    learner.send_signal(signal.SIGKILL)
    finish(process, code=1)
    pending = (other / "checkpoints" / "step_000002" / "pending.jsonl").read_text()
    completions = [
        rollout["completion"]
        for line in pending.splitlines()
        for group in json.loads(line)
        for rollout in group["rollouts"]
    ]
    assert completions
    assert all(completion["segments"] for completion in completions)

    finish(cotree(folder, "train", "smoke.toml", *settings, "--resume"), code=0)
    model = "model/model.safetensors"
    assert (other / model).read_bytes() == (uninterrupted / model).read_bytes()
    assert repeatable(other) == repeatable(uninterrupted)

"""A pipeline small enough for tests, and ways to run it as a user would: by its command line."""

import os
import subprocess
import sys
import time
from pathlib import Path

STEPS = 4

CONFIG = """
[model]
type = "new"
layers = 2
width = 64
heads = 2
kv_heads = 1
mlp_width = 128

[task]
type = "arithmetic"
operands = [2, 3]
num_train = 200
num_test = 20

[[rewards]]
name = "answer"

[[rewards]]
name = "rewriting_steps"

[generator]
max_model_len = 96
kv_cache_bytes = 33554432

[sft]
num_steps = 30
sequences_per_step = 16

[sft.traces]
type = "generated"

[sft.optimizer]
learning_rate = 3e-3

[train]
num_steps = 4
prompts_per_step = 4
save_every = 1
evaluate_every = 2

[train.rollout]
group_size = 4
max_tokens = 40
max_staleness = 1

[train.advantage]
process_coef = 0.5

[train.optimizer]
learning_rate = 1e-3

[evaluate]
num_problems = 20
max_tokens = 40

[evaluate.benchmarks]
names = ["arithmetic"]
limit = 12
max_tokens = 40
"""


def cotree(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Starts the command in `folder`, in a session of its own so that all of it can be ended."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    environment.pop("RAY_ADDRESS", None)
    return subprocess.Popen(
        [sys.executable, "-m", "cotree.grpo.cli", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], *, code: int) -> str:
    """Waits for the command, and fails with its whole output if it exits otherwise."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Returns once checkpoint `step` is complete."""
    deadline = time.monotonic() + 200
    while not (run / "checkpoints" / f"step_{step:06d}").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "no checkpoint in 200 s"
        time.sleep(0.05)

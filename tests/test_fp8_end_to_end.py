"""A cold start and GRPO in DeepSeek-V3's FP8 through the command line, on real Ray and real vLLM.

The learner computes in FP8, which a CPU emulates, and the engine in bfloat16: what is tested is
that the gap between them is measured, and that FP8 repeats its bytes when a run is resumed.
"""

import hashlib
import json
import math
import shutil
import tomllib
from pathlib import Path

import pytest
from smoke_pipeline import CONFIG, cotree, finish

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

STEPS = 2
COLD_STEPS, SWITCH = 60, 48
"""Updates of the cold start, and the first of them in FP8."""
SCHEDULE = (
    "{type='schedule', phases=["
    "{first_update=0, precision={type='float32'}},"
    f"{{first_update={SWITCH}, precision={{type='fp8_block'}}}}]}}"
)
FP8 = "{type='fp8_block', skip=['layers.0.self_attn.q_proj']}"


SMALL, _ = CONFIG.split("[evaluate.benchmarks]")
# A longer cold start and more rollouts, so that rewards differ in every step.
for before, after in {
    "num_steps = 30": f"num_steps = {COLD_STEPS}",
    "num_steps = 4": f"num_steps = {STEPS}",
    "prompts_per_step = 4": "prompts_per_step = 8",
    "group_size = 4": "group_size = 8",
}.items():
    assert before in SMALL
    SMALL = SMALL.replace(before, after)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a cold start ran in float32 and then in FP8."""
    folder = tmp_path_factory.mktemp("fp8")
    (folder / "smoke.toml").write_text(SMALL)
    finish(cotree(folder, "sft", "smoke.toml", "--set", f"learner.precision={SCHEDULE}"), code=0)
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    """The run folder after two updates in FP8."""
    finish(cotree(folder, "train", "smoke.toml", *settings("runs/smoke")), code=0)
    return folder / "runs" / "smoke"


def settings(output: str) -> list[str]:
    values = {"learner.precision": FP8, "output_dir": output}
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def metrics(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def updates(run: Path) -> list[dict[str, float]]:
    """What is measured in updates, without what is time."""
    timed = ("time", "seconds", "tokens_per_second", "engine")
    return [
        {name: value for name, value in row.items() if name.split("/")[0] not in timed}
        for row in metrics(run)
        if "loss" in row
    ]


def test_a_cold_start_goes_from_float32_to_fp8_and_learns(folder: Path):
    run = folder / "runs" / "smoke" / "sft"
    saved = tomllib.loads((run / "resolved_config.toml").read_text())
    phases = saved["learner"]["precision"]["phases"]
    assert [phase["precision"]["type"] for phase in phases] == ["float32", "fp8_block"]
    losses = [row["loss"] for row in metrics(run)]
    assert len(losses) == COLD_STEPS
    assert all(map(math.isfinite, losses))
    # Each step has other examples, which move the loss by some per cent; a switch that broke the
    # arithmetic would throw it back towards the first loss.
    before, after = losses[SWITCH - 1], losses[SWITCH]
    assert after == pytest.approx(before, rel=0.25)
    assert before < losses[0] / 2
    assert losses[-1] < losses[0] / 2


def test_updates_in_fp8_measure_how_far_the_engine_is(trained: Path):
    rows = updates(trained)
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert all(math.isfinite(value) for value in row.values())
        assert row["sync/canary_mean_gap_nats"] < 0.3  # generator.sync_tolerance_nats
        assert row["grad_norm"] > 0
    # The first was sampled with the weights that it is scored with, so what they differ by is the
    # arithmetic. Measured: 0.01 nats.
    first = rows[0]
    assert first["staleness"] == 0
    assert 1e-3 < first["mismatch/mean_abs_nats"] < 0.1
    assert first["mismatch/mean_abs_nats"] <= first["mismatch/max_abs_nats"]
    assert 0 < first["mismatch/kl_k3_nats"] < 0.1
    assert 0.5 < first["correction/mean_weight"] < 1.5


def test_a_run_in_fp8_that_is_resumed_ends_in_the_same_bytes(folder: Path, trained: Path):
    # What a kill during the second update leaves behind.
    other = folder / "runs" / "resumed"
    shutil.copytree(trained, other)
    shutil.rmtree(other / "checkpoints" / "step_000002")
    shutil.rmtree(other / "model")
    output = finish(
        cotree(folder, "train", "smoke.toml", *settings("runs/resumed"), "--resume"), code=0
    )
    assert "Traceback" not in output
    assert updates(other) == updates(trained)
    bytes_of = [(run / "model" / "model.safetensors").read_bytes() for run in (other, trained)]
    assert hashlib.sha256(bytes_of[0]).digest() == hashlib.sha256(bytes_of[1]).digest()
    cold = (trained / "sft" / "model" / "model.safetensors").read_bytes()
    assert cold not in bytes_of

#!/usr/bin/env python
"""Seconds and tokens per second of each phase of a GRPO step, beside what the parts can do alone.

    python scripts/bench_grpo.py configs/quickstart.toml [--steps 8] [--json FILE]

The pipeline's cold start must exist (`cotree sft CONFIG`). Three measurements, one after another,
on the same machine, model and prompts:

1. `cotree`: a training run of --steps steps; medians over all but the first.
2. the engine's ceiling: one generator alone, sampling the same step's requests.
3. the learner's ceiling: one learner alone, training on the rollouts of that step.
"""

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from cotree.grpo.cluster import cluster
from cotree.grpo.learner import LearnerGroup
from cotree.grpo.loop import step_batch
from cotree.grpo.phases import Phases
from cotree.grpo.provenance import machine
from cotree.grpo.rollout_source import RolloutSource
from cotree.grpo.run_folder import RunFolder, load_pipeline
from cotree.grpo.sampler import Sampler
from cotree.grpo.trainable import LearnerSpec

PHASES = ("generate", "grade", "learn", "sync", "step")


def measured_run(config: Path, cold_start: Path, *, steps: int) -> dict[str, float]:
    """Medians over a run's steps but the first, from its metrics."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(
            cold_start, Path(scratch) / "sft", ignore=shutil.ignore_patterns("checkpoints")
        )
        settings = {
            "output_dir": scratch,
            "train.num_steps": steps,
            "train.save_every": steps,
            "train.evaluate_every": 0,
            "evaluate.num_problems": 8,
        }
        overrides = [word for k, v in settings.items() for word in ("--set", f"{k}={v}")]
        command = [sys.executable, "-m", "cotree.grpo.cli", "train", str(config), *overrides]
        peak = peak_memory(subprocess.Popen(command, stdout=sys.stderr))
        rows = [json.loads(s) for s in (Path(scratch) / "metrics.jsonl").read_text().splitlines()]
    steady = [row for row in rows if "seconds/step" in row and row["step"] > 1]
    median = {
        name: statistics.median(row.get(name, 0.0) for row in steady)
        for name in [f"seconds/{phase}" for phase in PHASES]
        + ["tokens_per_second/generate", "tokens_per_second/learn", "completion/mean_tokens"]
    }
    return median | {"peak_rss_bytes": peak}


def peak_memory(process: subprocess.Popen) -> int:
    """Waits for the command; the largest sum of unique memory of it and its descendants, bytes."""
    largest = 0
    while process.poll() is None:
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            whole = psutil.Process(process.pid)
            for member in [whole, *whole.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    total += member.memory_full_info().uss
        largest = max(largest, total)
        time.sleep(1.0)
    if process.returncode:
        sys.exit(f"the measured run failed with exit code {process.returncode}.")
    return largest


def ceilings(config: Path, cold_start: Path, *, repeats: int, threads: int) -> dict[str, float]:
    """Seconds of the engine and of the learner alone, for one step's work, medians."""
    overrides = [f"{part}.threads={threads}" for part in ("generator", "learner")]
    pipeline = load_pipeline(config, [*overrides, "train.rollout.max_staleness=0"])
    train, model = pipeline.train, str(cold_start / "model")
    with contextlib.ExitStack() as stack:
        stack.enter_context(cluster(pipeline.generator, pipeline.learner, generators=1, learners=1))
        routes = train.rollout.replay_routes
        sampler = stack.enter_context(Sampler(pipeline, model, gpu_share=0, record_routes=routes))
        phases = Phases()
        source = RolloutSource(
            problems=sampler.train_problems,
            encode=sampler.encode,
            generators=sampler.generators,
            graders=sampler.graders,
            train=train,
            seed=pipeline.seed,
            phases=phases,
        )
        generate = []
        for step in range(repeats + 1):
            groups = source.take(step, version=0)
            generate.append(phases.take()["seconds/generate"])
        sampler.generators.stop()
        learner = LearnerGroup.start(
            LearnerSpec(
                model_path=model,
                learner=pipeline.learner,
                optimizer=train.optimizer,
                total_updates=train.num_steps,
                objective=train,
                seed=pipeline.seed,
            ),
            num_gpus=0,
        )
        stack.callback(learner.stop)
        batch = step_batch(train, groups, first_term=pipeline.rewards[0].name)
        learn = []
        for _ in range(repeats + 1):
            began = time.perf_counter()
            learner.step(batch)
            learn.append(time.perf_counter() - began)
    sampled = sum(len(r.completion.token_ids) for g in groups for r in g.rollouts)
    generate_seconds, learn_seconds = statistics.median(generate[1:]), statistics.median(learn[1:])
    return {
        "threads": threads,
        "generate_seconds": generate_seconds,
        "learn_seconds": learn_seconds,
        "generate_tokens_per_second": sampled / generate_seconds,
        "learn_tokens_per_second": int(batch.lengths.sum()) / learn_seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("config", type=Path)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cold_start = RunFolder.of(load_pipeline(arguments.config, [])).sft
    if not (cold_start / "model").exists():
        parser.error(f"{cold_start}/model is missing; run `cotree sft {arguments.config}` first.")
    run = measured_run(arguments.config, cold_start, steps=arguments.steps)
    alone = [
        ceilings(arguments.config, cold_start, repeats=arguments.repeats, threads=threads)
        for threads in (1, 2)
    ]
    result = {
        "cotree": {
            "step_seconds": run["seconds/step"],
            "tokens_per_second": run["tokens_per_second/generate"],
            **run,
        },
        "ceilings": alone[0],
        "ceilings_two_threads": alone[1],
        "machine": machine(),
    }
    print(json.dumps(result, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

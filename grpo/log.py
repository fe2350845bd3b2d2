"""What a run leaves while it goes: metrics, sample completions, trackers, and lines to read."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from accelerate import PartialState
from accelerate.tracking import TensorBoardTracker, TrackioTracker, WandBTracker
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cotree.grpo.run_folder import ConfigError, RunFolder
from cotree.grpo.types import Group, Rollout, Stats
from cotree.rewards.types import Reward

SAMPLES_PER_STEP = 8
"""Rollouts of a step kept in samples.jsonl unless the caller says otherwise."""

PLAIN_LINES = 100
"""Lines that a long stage writes to a log that is no terminal, about; metrics.jsonl has all."""

_SHOWN = (
    ("reward", "reward/mean", "{:.3f}"),
    ("accuracy", "accuracy", "{:.1%}"),
    ("eval", "eval/accuracy", "{:.1%}"),
    ("loss", "loss", "{:.4g}"),
    ("divergence", "distill/divergence_nats", "{:.3f} nats"),
    ("reverse KL", "distill/reverse_kl_nats", "{:.3f} nats"),
    ("entropy", "entropy_nats", "{:.3f} nats"),
    ("tokens", "completion/mean_tokens", "{:.0f}"),
    ("took", "seconds/step", "{:.1f} s"),
)
"""Label, key and format of what a person sees at each step; absent keys are left out."""


class Tracker(Protocol):
    """The part of `accelerate.tracking.GeneralTracker` used here."""

    def start(self) -> None: ...

    def log(self, values: dict[str, float], step: int | None) -> None: ...

    def finish(self) -> None: ...


class RunLog:
    """The log of one stage. A context manager: leaving it closes the bar and the trackers.

    Args:
        folder: the stage's folder; `metrics.jsonl`, `samples.jsonl` and `trackers/` are in it.
        num_steps: steps the stage will have taken when it is done, for the bar and the ETA.
        trackers: `tensorboard`, `wandb`, `trackio`, in any number.
        json_lines: write each step as a line of JSON to stdout, and nothing else there.

    Raises:
        ConfigError: a tracker is configured but not installed.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        num_steps: int,
        trackers: Sequence[str],
        json_lines: bool,
    ) -> None:
        refuse_missing_trackers(trackers)
        folder.root.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._num_steps = num_steps
        self._plain_every = max(1, num_steps // PLAIN_LINES)
        self._tracker_names = tuple(trackers)
        self._trackers: list[Tracker] | None = None  # started by the first write, see _started
        self._purge_step: int | None = None
        self._json_lines = json_lines
        self._bar: Progress | None = None
        self._metrics = folder.metrics.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        console = Console()
        if console.is_terminal and not self._json_lines:
            self._bar = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=console,
            )
            self._bar.add_task("", total=self._num_steps)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar:
            self._bar.stop()
        self._metrics.close()
        for tracker in self._trackers or ():
            tracker.finish()

    def write(self, step: int, stats: Stats) -> None:
        """Appends one line to metrics.jsonl, which survives this process, and shows it.

        Numbers that are not finite become null: JSON has no other way to say them.

        Args:
            step: steps done; 0 is before the first.
            stats: the step's measurements.
        """
        line = json.dumps(
            {"step": step, "time": time.time(), **{k: _finite(v) for k, v in stats.items()}},
            allow_nan=False,
        )
        self._metrics.write(line + "\n")
        self._metrics.flush()
        for tracker in self._started():
            tracker.log(dict(stats), step=step)
        self._show(step, stats, line)

    def write_samples(
        self, step: int, groups: Sequence[Group], limit: int = SAMPLES_PER_STEP
    ) -> None:
        """Appends up to `limit` rollouts of a step to samples.jsonl, graded or not.

        The first rollout of every group comes first, then the second of each, and so on: a few
        lines show many problems. Which ones is a matter of position, so two equal runs keep the
        same.
        """
        rows = [_sample(step, group, rollout) for group, rollout in _across(groups, limit)]
        with self._folder.samples.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)

    def truncate_after(self, step: int) -> None:
        """Drops lines of later steps, which a resumed run is about to take again.

        Each file is replaced whole or not at all. A last line without its newline was cut short
        by the end of the earlier process and goes too. TensorBoard is told to purge the steps;
        wandb and trackio get a new run of their own, beside the earlier one.
        """
        self._metrics.close()
        for path in (self._folder.metrics, self._folder.samples):
            if path.exists():
                _keep_until(path, step)
        self._metrics = self._folder.metrics.open("a", encoding="utf-8")
        self._purge_step = step + 1
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step)

    def _started(self) -> list[Tracker]:
        # Not in __init__: TensorBoard learns which steps to purge when it starts, which a
        # resumed run knows only after truncate_after.
        if self._trackers is None:
            PartialState()  # accelerate's trackers ask it whether this is the main process
            folder = self._folder.root
            self._trackers = [
                _tracker(name, folder, purge_step=self._purge_step) for name in self._tracker_names
            ]
            for tracker in self._trackers:
                tracker.start()
        return self._trackers

    def _show(self, step: int, stats: Stats, line: str) -> None:
        if self._json_lines:
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
            return
        shown = "  ".join(
            f"{label} {form.format(stats[key])}" for label, key, form in _SHOWN if key in stats
        )
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=step, description=shown)
        elif step % self._plain_every == 0 or step == self._num_steps or "eval/accuracy" in stats:
            sys.stdout.write(f"step {step}/{self._num_steps}  {shown}\n")
            sys.stdout.flush()


def refuse_missing_trackers(names: Sequence[str]) -> None:
    """Nothing, where every tracker is installed.

    Raises:
        ConfigError: one is not; a run that silently is not tracked is found out too late.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"trackers = {list(names)}, but {', '.join(missing)} is not installed: "
            f"pip install {' '.join(missing)}, or remove it from trackers."
        )


def _tracker(name: str, folder: Path, *, purge_step: int | None) -> Tracker:
    if name == "tensorboard":
        return TensorBoardTracker("tensorboard", folder / "trackers", purge_step=purge_step)
    run_name = folder.resolve().name
    if name == "wandb":
        return WandBTracker("cotree", name=run_name, dir=str(folder))
    if name == "trackio":
        return TrackioTracker("cotree", name=run_name)
    raise AssertionError(f"Pipeline.trackers let {name!r} through")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _across(groups: Sequence[Group], limit: int) -> Iterator[tuple[Group, Rollout]]:
    ranked = [
        (rank, position, group, rollout)
        for position, group in enumerate(groups)
        for rank, rollout in enumerate(group.rollouts)
    ]
    ranked.sort(key=lambda item: item[:2])
    yield from ((group, rollout) for _, _, group, rollout in ranked[:limit])


def _sample(step: int, group: Group, rollout: Rollout) -> dict[str, object]:
    """One rollout as a row of samples.jsonl: `reward` or `ungraded` is null, never both."""
    completion, reward = rollout.completion, rollout.reward
    graded = isinstance(reward, Reward)
    return {
        "step": step,
        "problem": group.problem.id,
        "task": group.problem.task,
        "prompt": group.problem.prompt,
        "question": group.problem.question,
        "reference": group.problem.reference,
        "completion": completion.text,
        "num_tokens": len(completion.token_ids),
        "stop_reason": completion.stop_reason,
        "policy_version": completion.policy_version,
        "reward": None
        if not graded
        else {
            "value": reward.value,
            "reason": reward.reason,
            "breakdown": dict(reward.breakdown),
            "status": reward.status,
        },
        "ungraded": None if graded else {"failure": reward.failure, "reason": reward.reason},
        "steps": [
            {
                "span": list(scored.span),
                "value": scored.value,
                "verdict": scored.verdict,
                "reason": scored.reason,
            }
            for scored in (reward.steps if graded else ())
        ],
    }


def _keep_until(path: Path, step: int) -> None:
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    rewritten = path.with_suffix(".rewritten")
    with rewritten.open("w", encoding="utf-8") as file:
        file.writelines(kept)
        file.flush()
        os.fsync(file.fileno())
    rewritten.replace(path)

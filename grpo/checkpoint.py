"""Checkpoints: whole or absent, and nothing that a resumed run needs is left out.

    RUN/checkpoints/step_000010/
        learner/        what the learner writes: model, optimizer state, version
        pending.jsonl   sampled groups not yet trained on, one line per step
        state.json      the loop's position; written last, with the size of every other file

A checkpoint is written to a temporary sibling, flushed to the disk and renamed, so a crash or a
full disk at any moment leaves the earlier ones as they were.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from cotree.grpo.durable import flush, publish
from cotree.grpo.types import Group, Problem, Rollout

SCHEMA = 2
_STATE, _PENDING, _LEARNER = "state.json", "pending.jsonl", "learner"
_NAME = re.compile(r"step_(\d{6,})")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or is not whole."""


def save_checkpoint(
    run_dir: Path,
    *,
    step: int,
    state: Mapping[str, Any],
    pending: Sequence[Sequence[Group]],
    write_learner: Callable[[Path], None],
) -> Path:
    """Writes the checkpoint of `step` and returns its folder.

    Args:
        run_dir: the run's folder.
        step: the step it was taken after.
        state: JSON values; `step` is added.
        pending: groups in flight, by step, oldest first.
        write_learner: writes the learner's part to the folder it is given.

    Raises:
        CheckpointError: it could not be written (a full disk, say). Earlier ones are untouched.
    """
    folder = run_dir / "checkpoints" / f"step_{step:06d}"
    partial = folder.with_name(f".partial_{folder.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # left by a crash
        (partial / _LEARNER).mkdir(parents=True)
        write_learner(partial / _LEARNER)
        lines = [json.dumps([_plain(group) for group in groups]) for groups in pending]
        (partial / _PENDING).write_text("".join(line + "\n" for line in lines))
        sizes = {
            file.relative_to(partial).as_posix(): file.stat().st_size
            for file in sorted(partial.rglob("*"))
            if file.is_file()
        }
        document = {"schema": SCHEMA, "state": {**state, "step": step}, "sizes": sizes}
        (partial / _STATE).write_text(json.dumps(document, indent=1))
        flush(partial)
        _replace(partial, folder)
    except Exception as error:  # whatever stopped the writer, the partial folder must go
        shutil.rmtree(partial, ignore_errors=True)
        earlier = latest(run_dir)
        free = shutil.disk_usage(run_dir).free >> 20
        raise CheckpointError(
            f"could not write the checkpoint of step {step} to {folder}: {error} "
            f"({free} MiB are free there). "
            + (f"{earlier} is intact. " if earlier else "There is no earlier one. ")
            + "Free some space or lower train.keep_checkpoints, then continue with --resume."
        ) from error
    return folder


def load_checkpoint(
    folder: Path, problems: Sequence[Problem] = ()
) -> tuple[dict[str, Any], list[list[Group]]]:
    """The state and the pending groups of a checkpoint; `folder/learner` is the learner's part.

    Args:
        folder: the checkpoint's.
        problems: those of the task; pending groups refer to them by id.

    Raises:
        CheckpointError: it is not whole, another version of the project wrote it, or it holds
            samples of a problem that is not given.
    """
    problem = _defect(folder)
    if problem:
        raise CheckpointError(
            f"{folder} {problem}. Remove that folder to resume from the one before it."
        )
    document = json.loads((folder / _STATE).read_text())
    lines = (folder / _PENDING).read_text().splitlines()
    known = {problem.id: problem for problem in problems}
    groups = [[_group(group, known) for group in json.loads(line)] for line in lines]
    return document["state"], groups


def latest(run_dir: Path) -> Path | None:
    """The newest whole checkpoint; damaged ones are skipped with a warning."""
    for folder in reversed(_folders(run_dir)):
        problem = _defect(folder)
        if problem is None:
            return folder
        warnings.warn(f"skipping checkpoint {folder}, which {problem}.", stacklevel=2)
    return None


def prune(run_dir: Path, keep: int) -> None:
    """Removes all but the newest `keep` whole checkpoints, and what is older and damaged."""
    whole = [folder for folder in _folders(run_dir) if _defect(folder) is None]
    if keep < 1 or len(whole) <= keep:
        return
    oldest_kept = whole[-keep]
    for folder in _folders(run_dir):
        if _step(folder) < _step(oldest_kept):
            shutil.rmtree(folder)


def _folders(run_dir: Path) -> list[Path]:
    found = (run_dir / "checkpoints").glob("step_*")
    return sorted((folder for folder in found if _NAME.fullmatch(folder.name)), key=_step)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _defect(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        document = json.loads((folder / _STATE).read_text())
    except FileNotFoundError:
        return f"has no {_STATE}"
    except ValueError as error:
        return f"has a damaged {_STATE} ({error})"
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        return f"was not written by this version (schema {SCHEMA})"
    for name, size in document["sizes"].items():
        file = folder / name
        if not file.is_file():
            return f"lacks {name}"
        if file.stat().st_size != size:
            return f"has {file.stat().st_size} bytes in {name} instead of {size}"
    return None


def _replace(partial: Path, folder: Path) -> None:
    """Renames the finished folder into place; an earlier one of the same step makes way."""
    replaced = folder.with_name(f".replaced_{folder.name}")
    shutil.rmtree(replaced, ignore_errors=True)
    if folder.exists():
        folder.rename(replaced)
    publish(partial, folder)
    shutil.rmtree(replaced, ignore_errors=True)


# --- groups as JSON --------------------------------------------------------------------------
# Python writes a float as the shortest text that reads back as the same number, so log-
# probabilities survive exactly. Problems are written by id: their columns may hold anything.

_ROLLOUTS = TypeAdapter(tuple[Rollout, ...])


def _plain(group: Group) -> dict[str, Any]:
    return {
        "problem": group.problem.id,
        "prompt_ids": group.prompt_ids,
        "rollouts": [dataclasses.asdict(rollout) for rollout in group.rollouts],
    }


def _group(plain: dict[str, Any], problems: Mapping[str, Problem]) -> Group:
    if plain["problem"] not in problems:
        raise CheckpointError(
            f"it holds samples of problem {plain['problem']!r}, which the task no longer has. "
            "Resume with the data that the run was started with."
        )
    return Group(
        problem=problems[plain["problem"]],
        prompt_ids=tuple(plain["prompt_ids"]),
        rollouts=_ROLLOUTS.validate_python(plain["rollouts"]),
    )

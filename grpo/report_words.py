"""What a page says of a run in words: figures with their intervals, and what the run was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cotree.grpo.config import Pipeline
from cotree.grpo.config_model import NewDeepseekModel, NewModel
from cotree.grpo.footprint import (
    ModelSize,
    new_model_active_parameters,
    new_model_parameters,
)
from cotree.grpo.report_curves import Row

Accuracy = Mapping[str, Any]
"""`value`, `low` and `high` of its 95 % interval, and `n` problems."""


def verdict(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What the run did to accuracy, as a sentence that claims no more than the intervals do."""
    before, after = result.get("accuracy_before"), result.get("accuracy_after")
    if before and after:
        change = 100 * (after["value"] - before["value"])
        went = "rose" if change > 0 else "fell" if change < 0 else "stayed"
        return (
            f"Accuracy on {after['n']} held-back problems {went} from {with_interval(before)} to "
            f"{with_interval(after)}, a change of {change:+.1f} points. "
            f"{told_apart(before, after)}"
        )
    if before:
        solved = with_interval(before)
        return f"Before training, {solved} of {before['n']} held-back problems were solved."
    accuracies = [row["accuracy"] for row in rows if row.get("accuracy") is not None]
    if accuracies:
        return (
            f"So far {accuracies[0]:.1%} of training rollouts were right at the first step and "
            f"{accuracies[-1]:.1%} at the last one. Held-back problems were not evaluated."
        )
    return "No accuracy has been measured yet."


def told_apart(one: Accuracy, other: Accuracy) -> str:
    """Whether two measurements differ by more than their intervals."""
    if one["high"] < other["low"] or other["high"] < one["low"]:
        return "The 95 % intervals do not overlap."
    return "The 95 % intervals overlap, so this run alone does not show a difference."


def with_interval(accuracy: Accuracy) -> str:
    """In per cent, such as 50.0 % (46.0 to 54.0)."""
    value, low, high = (100 * accuracy[key] for key in ("value", "low", "high"))
    return f"{value:.1f}\N{NO-BREAK SPACE}% ({low:.1f} to {high:.1f})"


def duration(seconds: float) -> str:
    """In the unit that leaves a number to be read."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def progress(stage: str, rows: Sequence[Row], wanted: int | None) -> str:
    """How far a stage is that has taken a step at least."""
    done = rows[-1]["step"]
    if wanted is None:
        return f"{stage}: {done} steps"
    if done >= wanted:
        return f"{stage} finished: {wanted} steps"
    return f"{stage} unfinished: {done} of {wanted} steps"


def model_told(pipeline: Pipeline) -> str:
    """Which model a pipeline starts from."""
    model = pipeline.model
    if isinstance(model, NewModel):
        size = ModelSize(new_model_parameters(model))
        return f"new {model.layers}-layer decoder of width {model.width}, {size}"
    if isinstance(model, NewDeepseekModel):
        size = ModelSize(new_model_parameters(model))
        active = ModelSize(new_model_active_parameters(model))
        return (
            f"new {model.layers}-layer DeepSeek-V3 of width {model.width}, {model.experts} experts "
            f"of which a token uses {model.experts_per_token}, {size} ({active} a token)"
        )
    return f"{model.path}{f' at {model.revision}' if model.revision else ''}"


def task_told(pipeline: Pipeline) -> str:
    """What is asked, and what is paid for."""
    rewards = " + ".join(f"{term.weight:g} x {term.name}" for term in pipeline.rewards)
    return f"{pipeline.task.type}; reward = {rewards}"


def method_told(pipeline: Pipeline) -> str:
    """How the model is trained."""
    train = pipeline.train
    if train is None:
        if pipeline.distill is not None:
            return f"distillation, {pipeline.distill.type.replace('_', '-')}"
        return "cold start only"
    stale = train.rollout.max_staleness
    policy = f"up to {stale} updates stale" if stale else "on-policy"
    kl = f", KL {train.kl.estimator} x {train.kl.coef:g}" if train.kl else ", no KL term"
    return (
        f"{train.loss.type} loss, {train.prompts_per_step} prompts x {train.rollout.group_size} "
        f"completions a step, {train.advantage.baseline} baseline{kl}, "
        f"correction {train.correction.type}, {policy}"
    )

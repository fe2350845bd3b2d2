"""One self-contained HTML page about a run: what changed, at what cost, and what it writes now."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from cotree.grpo.config import Pipeline
from cotree.grpo.config_model import NewDeepseekModel, NewModel
from cotree.grpo.footprint import (
    ModelSize,
    new_model_active_parameters,
    new_model_parameters,
)
from cotree.grpo.page_templates import page_template
from cotree.grpo.report_charts import Chart, draw, summary
from cotree.grpo.report_curves import (
    Row,
    evaluations,
    phase_table,
    supervised_charts,
    training_charts,
)
from cotree.grpo.run_folder import ConfigError, RunFolder, load_pipeline
from cotree.rewards.types import Verdict

SAMPLES_A_SIDE = 4
"""Completions shown of the earliest and of the latest step."""

_MARKS = {Verdict.VERIFIED: "✓", Verdict.REFUTED: "✗", Verdict.UNCHECKED: "?"}
"""Beside the colour, for those who do not see it."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a completion: a judged step, or text between steps (no verdict)."""

    text: str
    verdict: str = ""
    mark: str = ""
    reason: str = ""


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into the folder of a run, finished or not, and returns its path.

    It makes no request to anywhere, runs no script, and escapes all that a model wrote.

    Raises:
        ConfigError: the folder holds no metrics of any stage.
    """
    folder = RunFolder(run_dir)
    notes: list[str] = []
    rows = by_step(_read_lines(folder.metrics, notes))
    sft_rows = by_step(_read_lines(RunFolder(folder.sft).metrics, notes))
    if not rows and not sft_rows:
        raise ConfigError(
            f"{run_dir} has no metrics.jsonl and no sft/metrics.jsonl: nothing was run there yet."
        )
    samples = _read_lines(folder.samples, notes)
    starts = _read_lines(folder.starts, notes)
    result = _read_result(folder.result, notes)
    config_path = next(
        (p for p in (folder.config, RunFolder(folder.sft).config) if p.exists()), None
    )
    pipeline = _read_config(config_path, notes)
    if folder.traceback.exists():
        lines = folder.traceback.read_text(encoding="utf-8").strip().splitlines() or ["(empty)"]
        notes.append(f"The last start ended in an error: {lines[-1]} (see traceback.txt)")
    page = page_template(Path(__file__).with_name("report.html.jinja")).render(
        title=folder.root.resolve().name,
        facts=_facts(pipeline, starts, result, rows, sft_rows),
        verdict=verdict(result, rows),
        status=_status(pipeline, rows, sft_rows),
        charts=_drawn(_training_charts(rows, result, pipeline), "train"),
        sft_charts=_drawn(supervised_charts(sft_rows), "sft"),
        phases=phase_table(rows),
        sides=_sides(samples),
        config=config_path.read_text(encoding="utf-8") if config_path else "",
        notes=notes,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    scratch = folder.report.with_suffix(".tmp")
    scratch.write_text(page, encoding="utf-8")
    scratch.replace(folder.report)
    return folder.report


# --- reading ---------------------------------------------------------------------------------


def by_step(rows: Sequence[Row]) -> list[Row]:
    """Rows with the same step merged, later keys winning, in the order of the steps."""
    merged: dict[int, dict[str, Any]] = {}
    for row in rows:
        merged.setdefault(row["step"], {}).update(row)
    return [merged[step] for step in sorted(merged)]


def _read_lines(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file; lines that are none are counted in `notes`."""
    if not path.exists():
        return []
    rows: list[dict[str, Any]] = []
    unreadable = 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            unreadable += 1
            continue
        rows.append(row)
    if unreadable:
        lines = "1 line" if unreadable == 1 else f"{unreadable} lines"
        notes.append(f"{lines} of {path.name} could not be read and are not shown.")
    return rows


def _read_result(path: Path, notes: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        notes.append(f"{path.name} is not valid JSON and is left out: {error}.")
        return {}


def _read_config(path: Path | None, notes: list[str]) -> Pipeline | None:
    if path is None:
        notes.append("The run's configuration was not found.")
        return None
    try:
        return load_pipeline(path, [])
    except ConfigError as error:
        notes.append(f"The configuration is of another version of cotree: {error}")
        return None


# --- words -----------------------------------------------------------------------------------


def verdict(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """What the run did to accuracy, as a sentence that claims no more than the intervals do."""
    before, after = result.get("accuracy_before"), result.get("accuracy_after")
    if before and after:
        change = 100 * (after["value"] - before["value"])
        went = "rose" if change > 0 else "fell" if change < 0 else "stayed"
        apart = before["high"] < after["low"] or after["high"] < before["low"]
        told = (
            f"Accuracy on {after['n']} held-back problems {went} from {_share(before)} to "
            f"{_share(after)}, a change of {change:+.1f} points. "
        )
        if apart:
            return told + "The 95 % intervals do not overlap."
        return told + "The 95 % intervals overlap, so this run alone does not show a difference."
    if before:
        return f"Before training, {_share(before)} of {before['n']} held-back problems were solved."
    accuracies = [row["accuracy"] for row in rows if row.get("accuracy") is not None]
    if accuracies:
        return (
            f"So far {accuracies[0]:.1%} of training rollouts were right at the first step and "
            f"{accuracies[-1]:.1%} at the last one. Held-back problems were not evaluated."
        )
    return "No accuracy has been measured yet."


def _share(accuracy: Mapping[str, Any]) -> str:
    value, low, high = (100 * accuracy[key] for key in ("value", "low", "high"))
    return f"{value:.1f}\N{NO-BREAK SPACE}% ({low:.1f} to {high:.1f})"


def _status(pipeline: Pipeline | None, rows: Sequence[Row], sft_rows: Sequence[Row]) -> str:
    if not rows:
        wanted = pipeline.sft.num_steps if pipeline and pipeline.sft else None
        return _progress("cold start", sft_rows, wanted) + "; reinforcement has not begun"
    wanted = pipeline.train.num_steps if pipeline and pipeline.train else None
    return _progress("reinforcement", rows, wanted)


def _progress(stage: str, rows: Sequence[Row], wanted: int | None) -> str:
    done = rows[-1]["step"]
    if wanted is None:
        return f"{stage}: {done} steps"
    if done >= wanted:
        return f"{stage} finished: {wanted} steps"
    return f"{stage} unfinished: {done} of {wanted} steps"


def _facts(
    pipeline: Pipeline | None,
    starts: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    rows: Sequence[Row],
    sft_rows: Sequence[Row],
) -> dict[str, str]:
    """Label -> text of the header: what ran, with which code, where, and for how long."""
    facts: dict[str, str] = {}
    if pipeline:
        facts["Model"] = _model(pipeline)
        facts["Task"] = _task(pipeline)
        facts["Method"] = _method(pipeline)
    seconds: Mapping[str, float] = result.get("seconds", {})
    if seconds:
        facts["Time"] = ", ".join(f"{name} {_duration(s)}" for name, s in seconds.items())
    elif len(rows or sft_rows) > 1:
        timed = rows or sft_rows
        facts["Time"] = (
            f"{_duration(timed[-1]['time'] - timed[0]['time'])} between first and last step"
        )
    if starts:
        last = starts[-1]
        code, machine = last["code"], last["machine"]
        commit = f", commit {code['commit']}" if "commit" in code else ""
        facts["Code"] = f"cotree {code['version']}{commit}, {code['path']}"
        facts["Machine"] = (
            f"{machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory_bytes'] / 2**30:.0f} GiB, {machine['system']}"
        )
        described = ("processor", "cores", "memory_bytes", "system")
        versions = {name: v for name, v in machine.items() if name not in described}
        facts["Software"] = ", ".join(f"{name} {v}" for name, v in versions.items())
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(starts[0]["time"]))
        resumed = sum(bool(start["resume"]) for start in starts)
        facts["Started"] = when + (f", with --resume {resumed} times" if resumed else "")
        if len({json.dumps(start["code"], sort_keys=True) for start in starts}) > 1:
            facts["Code"] += " (earlier starts of this run used other code)"
    return facts


def _model(pipeline: Pipeline) -> str:
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


def _task(pipeline: Pipeline) -> str:
    rewards = " + ".join(f"{term.weight:g} x {term.name}" for term in pipeline.rewards)
    return f"{pipeline.task.type}; reward = {rewards}"


def _method(pipeline: Pipeline) -> str:
    train = pipeline.train
    if train is None:
        return "cold start only"
    stale = train.rollout.max_staleness
    policy = f"up to {stale} updates stale" if stale else "on-policy"
    kl = f", KL {train.kl.estimator} x {train.kl.coef:g}" if train.kl else ", no KL term"
    return (
        f"{train.loss.type} loss, {train.prompts_per_step} prompts x {train.rollout.group_size} "
        f"completions a step, {train.advantage.baseline} baseline{kl}, "
        f"correction {train.correction.type}, {policy}"
    )


def _training_charts(
    rows: Sequence[Row], result: Mapping[str, Any], pipeline: Pipeline | None
) -> list[Chart]:
    train = pipeline.train if pipeline else None
    rollouts = train.prompts_per_step * train.rollout.group_size if train else None
    held_back = evaluations(rows, result)
    return training_charts(rows, held_back=held_back, rollouts_per_round=rollouts)


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 100 * 60:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


# --- samples ---------------------------------------------------------------------------------


def _sides(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The samples of the earliest and the latest step, to be read side by side."""
    steps = sorted({sample["step"] for sample in samples})
    if not steps:
        return []
    sides = {"Early": steps[0], "Late": steps[-1]} if len(steps) > 1 else {"So far": steps[0]}
    return [
        {
            "title": f"{name}: step {step}",
            "samples": [
                {**sample, "pieces": pieces(sample["completion"], sample["steps"])}
                for sample in samples
                if sample["step"] == step
            ][:SAMPLES_A_SIDE],
        }
        for name, step in sides.items()
    ]


def pieces(text: str, steps: Sequence[Mapping[str, Any]]) -> list[Piece]:
    """The text cut at the steps' spans; joined, the pieces are the text again."""
    cut: list[Piece] = []
    position = 0
    for step in sorted(steps, key=lambda s: s["span"][0]):
        start, end = (min(max(position, edge), len(text)) for edge in step["span"])
        if start > position:
            cut.append(Piece(text[position:start]))
        found = Verdict(step["verdict"])
        if end > start:
            cut.append(Piece(text[start:end], found.value, _MARKS[found], step["reason"]))
        position = max(position, end)
    if position < len(text):
        cut.append(Piece(text[position:]))
    return cut


def _drawn(charts: Sequence[Chart], stage: str) -> list[dict[str, Any]]:
    return [
        {
            "title": chart.title,
            "svg": Markup(draw(chart, name=f"{stage}{i}")),
            "summary": summary(chart),
            "note": chart.note,
        }
        for i, chart in enumerate(charts)
    ]

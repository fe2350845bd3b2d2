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
from cotree.grpo.page_templates import page_template
from cotree.grpo.report_charts import Chart, draw, summary
from cotree.grpo.report_curves import (
    Row,
    evaluations,
    phase_table,
    supervised_charts,
    training_charts,
)
from cotree.grpo.report_distill import (
    Distillation,
    completions_table,
    distill_charts,
    distill_facts,
    distill_status,
    distill_verdict,
    pass_rate_table,
    read_distillation,
)
from cotree.grpo.report_files import by_step, read_lines, read_object, read_pipeline
from cotree.grpo.report_words import (
    duration,
    method_told,
    model_told,
    progress,
    task_told,
    verdict,
)
from cotree.grpo.run_folder import ConfigError, RunFolder
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


@dataclass(frozen=True, slots=True)
class _Stages:
    """What the stages of a run measured; each is empty where it was not run or is not asked for."""

    rows: Sequence[Row]
    sft_rows: Sequence[Row]
    distillation: Distillation

    @property
    def newest(self) -> Sequence[Row]:
        """Rows of the last stage that has any."""
        return self.rows or self.distillation.rows or self.sft_rows


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a folder and returns its path.

    It makes no request to anywhere, runs no script, and escapes all that a model wrote.

    Args:
        run_dir: of a run, finished or not, or its `distill` folder: then of that stage alone.

    Raises:
        ConfigError: the folder holds no metrics of any stage.
    """
    folder = RunFolder(run_dir)
    alone = _is_distill_folder(folder)
    run = RunFolder(folder.root.resolve().parent) if alone else folder
    own = folder if alone else RunFolder(run.distill)
    notes: list[str] = []
    stages = _Stages(
        [] if alone else by_step(read_lines(run.metrics, notes)),
        [] if alone else by_step(read_lines(RunFolder(run.sft).metrics, notes)),
        read_distillation(own, notes),
    )
    if not stages.newest and not stages.distillation.begun:
        raise ConfigError(
            f"{run_dir} has no metrics.jsonl, no distill/metrics.jsonl and no sft/metrics.jsonl: "
            "nothing was run there yet."
        )
    configs = (folder.config, own.config, RunFolder(run.sft).config)
    config_path = next((path for path in configs if path.exists()), None)
    pipeline = read_pipeline(config_path, notes)
    starts = read_lines(run.starts, notes)
    if run.traceback.exists() and (not alone or starts[-1:] == _of_distill(starts)[-1:]):
        lines = run.traceback.read_text(encoding="utf-8").strip().splitlines() or ["(empty)"]
        notes.append(f"The last start ended in an error: {lines[-1]} (see traceback.txt)")
    result = {} if alone else read_object(run.result, notes)
    page = page_template(Path(__file__).with_name("report.html.jinja")).render(
        title=f"{run.root.name}/distill" if alone else run.root.resolve().name,
        facts=_facts(pipeline, _of_distill(starts) if alone else starts, result, stages),
        verdict=_verdict(result, stages),
        status=_status(pipeline, stages),
        charts=_drawn(_training_charts(stages.rows, result, pipeline), "train"),
        phases=phase_table(stages.rows),
        distill=_distill_section(stages, own),
        sft_charts=_drawn(supervised_charts(stages.sft_rows), "sft"),
        writer="policy" if stages.rows else "student",
        sides=_sides(read_lines(folder.samples, notes) or stages.distillation.samples),
        config=config_path.read_text(encoding="utf-8") if config_path else "",
        notes=notes,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    scratch = folder.report.with_suffix(".tmp")
    scratch.write_text(page, encoding="utf-8")
    scratch.replace(folder.report)
    return folder.report


def _is_distill_folder(folder: RunFolder) -> bool:
    """Whether it is the folder of a distill stage: a run's own has a line for each start."""
    return folder.root.resolve().name == "distill" and not folder.starts.exists()


def _of_distill(starts: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [start for start in starts if start["stage"] == "distill"]


# --- words -----------------------------------------------------------------------------------


def _verdict(result: Mapping[str, Any], stages: _Stages) -> str:
    if stages.distillation.begun and not stages.rows:
        return distill_verdict(stages.distillation)
    return verdict(result, stages.rows)


def _status(pipeline: Pipeline | None, stages: _Stages) -> str:
    train = pipeline.train if pipeline else None
    if stages.rows:
        return progress("reinforcement", stages.rows, train.num_steps if train else None)
    if stages.distillation.begun:
        told = distill_status(stages.distillation)
        return f"{told}; reinforcement has not begun" if train else told
    wanted = pipeline.sft.num_steps if pipeline and pipeline.sft else None
    told = progress("cold start", stages.sft_rows, wanted)
    return f"{told}; reinforcement has not begun" if train or not pipeline else told


def _facts(
    pipeline: Pipeline | None,
    starts: Sequence[Mapping[str, Any]],
    result: Mapping[str, Any],
    stages: _Stages,
) -> dict[str, str]:
    """Label -> text of the header: what ran, with which code, where, and for how long."""
    facts: dict[str, str] = {}
    if pipeline:
        facts["Model"] = model_told(pipeline)
        facts["Task"] = task_told(pipeline)
        facts["Method"] = method_told(pipeline)
    taught: Mapping[str, float] = stages.distillation.result.get("seconds", {})
    seconds = {name: s for name, s in taught.items() if name == "distill"}
    seconds |= result.get("seconds", {})
    timed = stages.newest
    if seconds:
        facts["Time"] = ", ".join(f"{name} {duration(s)}" for name, s in seconds.items())
    elif len(timed) > 1:
        facts["Time"] = (
            f"{duration(timed[-1]['time'] - timed[0]['time'])} between first and last step"
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


def _training_charts(
    rows: Sequence[Row], result: Mapping[str, Any], pipeline: Pipeline | None
) -> list[Chart]:
    train = pipeline.train if pipeline else None
    rollouts = train.prompts_per_step * train.rollout.group_size if train else None
    held_back = evaluations(rows, result)
    return training_charts(rows, held_back=held_back, rollouts_per_round=rollouts)


def _distill_section(stages: _Stages, folder: RunFolder) -> dict[str, Any] | None:
    """What the template shows of a distillation; None without any."""
    found = stages.distillation
    if not found.begun:
        return None
    return {
        "verdict": distill_verdict(found) if stages.rows else "",
        "facts": distill_facts(found, model=folder.root / "model"),
        "completions": completions_table(found),
        "pass_rates": pass_rate_table(found),
        "charts": _drawn(distill_charts(found), "distill"),
        "phases": phase_table(found.rows),
    }


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

"""The distillation of a run on its page: who taught whom, with what, and what was kept of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import (
    AnyDistill,
    Divergence,
    EngineTeacher,
    LogitsDistill,
    OnPolicyDistill,
    ResidentTeacher,
    SampledTraces,
    ServerTeacher,
)
from cotree.grpo.config_traces import RowTraces
from cotree.grpo.footprint import ModelSize, model_size
from cotree.grpo.footprint_distill import checkpoint_size
from cotree.grpo.report_charts import Chart, Points
from cotree.grpo.report_curves import (
    Row,
    curves,
    evaluations,
    points,
    speed_charts,
    training_charts,
)
from cotree.grpo.report_files import by_step, read_lines, read_object, read_pipeline
from cotree.grpo.report_words import model_told, progress, told_apart, verdict, with_interval
from cotree.grpo.run_folder import RunFolder

_DIVERGENCES = {
    "forward_kl": "the forward KL divergence KL(p || q)",
    "reverse_kl": "the reverse KL divergence KL(q || p)",
    "jsd": "the generalised Jensen-Shannon divergence",
    "skewed_forward_kl": "the skewed forward KL divergence",
    "skewed_reverse_kl": "the skewed reverse KL divergence",
}
_UNMIXED = ("forward_kl", "reverse_kl")
_REASONS = {
    "cut": "cut at the token limit",
    "ungraded": "could not be graded",
    "wrong": "wrong answer",
    "refuted": "a step is refuted",
    "too_short": "too short",
    "too_long": "too long",
    "duplicate": "same text as an earlier one",
    "pass_rate": "problem solved too often or too rarely",
    "per_problem": "problem has enough already",
}
"""By the names in corpus.json; one that is not here is shown as it is."""
_MOST_RATES = 12
"""Pass rates that are listed one by one; more are put together by tenths."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A line of a table: how many, and which share of all."""

    label: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class Distillation:
    """What a distill stage left in its folder, however far it got."""

    pipeline: Pipeline | None = None
    rows: Sequence[Row] = ()
    samples: Sequence[Mapping[str, Any]] = ()
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    corpus: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """corpus.json; empty where the texts are not the teacher's."""
    reading: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """reading.json: which texts the teacher could read."""
    logits: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The manifest of the teacher's answers."""

    @property
    def begun(self) -> bool:
        """Whether there is anything to show."""
        return bool(self.rows or self.corpus or self.logits)

    @property
    def settings(self) -> AnyDistill | None:
        """The distill section, where the configuration could be read."""
        return self.pipeline.distill if self.pipeline else None


def read_distillation(folder: RunFolder, notes: list[str]) -> Distillation:
    """Reads the folder of a distill stage; what is not there is left empty.

    Args:
        folder: of the stage, not of its run.
        notes: takes what could not be read.
    """
    pipeline = read_pipeline(folder.config, notes) if folder.config.exists() else None
    settings = pipeline.distill if pipeline else None
    store = settings.store if isinstance(settings, LogitsDistill) else None
    answers = Path(store) if store else folder.root / "logits"
    return Distillation(
        pipeline=pipeline,
        rows=by_step(read_lines(folder.metrics, notes)),
        samples=read_lines(folder.samples, notes),
        result=read_object(folder.result, notes),
        corpus=read_object(folder.root / "corpus" / "corpus.json", notes),
        reading=read_object(folder.root / "reading.json", notes),
        logits=read_object(answers / "logits.json", notes),
    )


# --- words -----------------------------------------------------------------------------------


def distill_verdict(found: Distillation) -> str:
    """How much of its teacher's accuracy the student has, claiming no more than was measured."""
    teacher, student = found.result.get("accuracy_teacher"), found.result.get("accuracy_after")
    if not teacher:
        if student and "accuracy_before" not in found.result:
            solved = with_interval(student)
            return (
                f"The student solves {solved} of {student['n']} held-back problems; "
                "its teacher was not evaluated."
            )
        return verdict(found.result, found.rows)
    held_back = f"of {teacher['n']} held-back problems"
    if not student:
        return f"The teacher solves {with_interval(teacher)} {held_back}; the student is to come."
    if not teacher["value"]:
        return f"The teacher solves none {held_back}; the student {with_interval(student)}."
    kept = student["value"] / teacher["value"]
    told = (
        f"The student keeps {100 * kept:.1f}\N{NO-BREAK SPACE}% of its teacher's accuracy on "
        f"{student['n']} held-back problems: {with_interval(teacher)} → {with_interval(student)}. "
        f"{told_apart(teacher, student)}"
    )
    if found.result.get("accuracy_before"):
        told += f" {verdict(found.result, found.rows)}"
    return told


def distill_status(found: Distillation) -> str:
    """How far it got."""
    settings = found.settings
    if not found.rows:
        return "distillation: no step of the student yet"
    loop = settings.train if isinstance(settings, OnPolicyDistill) else settings
    return progress("distillation", found.rows, loop.num_steps if loop else None)


def distill_facts(found: Distillation, *, model: Path) -> dict[str, str]:
    """Label -> text: the two models, the texts, what is minimised, and what became of it.

    Args:
        found: the stage.
        model: the student's folder, which tells its size once it is there.
    """
    facts: dict[str, str] = {}
    pipeline, settings = found.pipeline, found.settings
    if pipeline and settings:
        name, where, path = _teacher(settings, found.logits)
        theirs = checkpoint_size(pipeline, path) if path else ModelSize(None)
        facts["Teacher"] = f"{name}{f', {theirs}' if theirs.parameters else ''}{where}"
        facts["Student"] = _student(pipeline, theirs, model)
        facts["Texts"] = _texts(settings)
        facts["Minimised"] = _minimised(settings)
    return facts | dict(_outcomes(found))


def _teacher(settings: AnyDistill, logits: Mapping[str, Any]) -> tuple[str, str, str | None]:
    """The teacher's name, where it is, and its folder where that is known."""
    teacher = settings.teacher
    if isinstance(teacher, ServerTeacher):
        return teacher.model or "the model", f" on the server {teacher.url}", None
    if isinstance(teacher, EngineTeacher | ResidentTeacher):
        where = "on engines" if isinstance(teacher, EngineTeacher) else "in the learner"
        return teacher.path, f", {teacher.dtype} {where}", teacher.path
    about: Mapping[str, Any] = logits.get("about", {}).get("teacher", {})
    if not about:
        return "none in this run", ": the texts were there", None
    name = about.get("model") or "the model"
    if "server" in about:
        return name, f" on the server {about['server']}; its answers were there", None
    return name, "; its answers were there", name


def _student(pipeline: Pipeline, teacher: ModelSize, model: Path) -> str:
    size = model_size(pipeline)
    told = model_told(pipeline)
    if size.parameters is None:
        size = checkpoint_size(pipeline, str(model))
    if size.parameters is None:
        return told
    if str(size) not in told:
        told += f", {size}"
    if teacher.parameters:
        told += f": {_percent(size.parameters / teacher.parameters)} of the teacher's"
    return told


def _texts(settings: AnyDistill) -> str:
    if isinstance(settings, OnPolicyDistill):
        train = settings.train
        return (
            f"the student's own, {train.prompts_per_step} prompts x {train.rollout.group_size} "
            "completions a step"
        )
    corpus = settings.corpus
    if isinstance(corpus, SampledTraces):
        every = corpus.num_problems or "all"
        told = (
            f"the teacher's, {corpus.samples} of each of {every} train problems at temperature "
            f"{corpus.temperature:g}"
        )
    elif isinstance(corpus, RowTraces):
        told = f"rows of {corpus.path}"
    else:
        told = "worked solutions by rules"
    if settings.selection is not None:
        told += f"; the {_percent(settings.selection.share)} of them "
        told += "drawn at random" if settings.selection.by == "random" else "of the highest value"
    return told


def _minimised(settings: AnyDistill) -> str:
    if isinstance(settings, LogitsDistill):
        more = settings.cross_entropy_coef
        extra = f" + {more:g} x cross-entropy on the texts" if more else ""
        return f"{_divergence(settings.divergence)} at each token of the texts{extra}"
    if not isinstance(settings, OnPolicyDistill):
        return "cross-entropy of the next token, on the texts"
    signal, rewards = settings.signal, settings.reward_coef
    beside = f"{rewards:g} x the rewards' advantages" if rewards else "no weight on the rewards"
    if signal.type == "advantage":
        return (
            f"{settings.train.loss.type} loss with {signal.coef:g} x (log p - log q) in the "
            f"advantage of each token (the reverse KL divergence as a reward), {beside}"
        )
    loss = _divergence(signal.divergence)
    return f"{signal.coef:g} x {loss} at each token that the student sampled, {beside}"


def _divergence(divergence: Divergence) -> str:
    told = f"{_DIVERGENCES[divergence.kind]} of teacher p and student q"
    if divergence.kind not in _UNMIXED:
        told += f" with mix {divergence.mixture:g}"
    if divergence.temperature != 1:
        told += f" at temperature {divergence.temperature:g}"
    return told


def _outcomes(found: Distillation) -> Iterator[tuple[str, str]]:
    """What was counted."""
    corpus, reading = found.corpus, found.reading
    if corpus:
        yield (
            "Kept",
            f"{corpus['kept']:,} of {corpus['candidates']:,} completions, of "
            f"{corpus['in_corpus']:,} of {corpus['problems']:,} problems; "
            f"{corpus['tokens']['kept']:,} of {corpus['tokens']['sampled']:,} tokens",
        )
        if corpus["accuracy"]:
            right = with_interval(corpus["accuracy"])
            yield "Teacher on the train problems", f"{right} of its completions right"
    if reading:
        same = "the same tokenizer" if reading["same_tokenizer"] else "another tokenizer"
        reasons = "".join(f"; {n} refused: {why}" for why, n in reading["refused"].items())
        yield (
            "Read by the teacher",
            f"{reading['read']:,} of {reading['texts']:,} texts, with {same}{reasons}",
        )
    totals: Mapping[str, Any] = found.logits.get("totals", {})
    if totals and totals["num_tokens"]:
        # Bytes a token are megabytes a million tokens.
        yield (
            "Answers kept",
            f"{totals['num_tokens']:,} tokens, {totals['num_bytes'] / 1e6:.3g} MB "
            f"({totals['num_bytes'] / totals['num_tokens']:.1f} MB a million tokens); the tokens "
            f"that are not listed have {_percent(totals['mean_tail_mass'])} of the probability on "
            f"average, {_percent(totals['max_tail_mass'])} at most",
        )
    refused = points(found.rows, "distill/refused")
    if refused:
        texts = sum(value for _, value in refused)
        told = f"{texts:,.0f} completions that the teacher cannot read"
        inside = [value for _, value in points(found.rows, "distill/inside_frac")]
        if inside:
            told += f"; besides, {_percent(fmean(inside))} of the tokens inside a teacher's token"
        yield "Refused", told


def _percent(share: float) -> str:
    return f"{100 * share:.3g}\N{NO-BREAK SPACE}%"


# --- tables ----------------------------------------------------------------------------------


def completions_table(found: Distillation) -> list[Bar]:
    """What became of the teacher's completions; reasons that never held are left out."""
    corpus = found.corpus
    if not corpus or not corpus["candidates"]:
        return []
    total: int = corpus["candidates"]
    reasons: Mapping[str, int] = corpus["dropped"]
    dropped = {name: count for name, count in reasons.items() if count}
    lines: dict[str, int] = {"kept": corpus["kept"]}
    lines |= {_REASONS.get(name, name): count for name, count in dropped.items()}
    return [Bar(label, count, count / total) for label, count in lines.items()]


def pass_rate_table(found: Distillation) -> list[Bar]:
    """How many problems the teacher solves how often."""
    rates: Sequence[Mapping[str, Any]] = found.corpus.get("pass_rates", [])
    total = sum(one["problems"] for one in rates)
    counts: dict[str, int] = {}
    for one in rates:
        label = f"{100 * one['rate']:.0f}\N{NO-BREAK SPACE}%"
        if len(rates) > _MOST_RATES:
            tenth = min(9, int(10 * one["rate"]))
            label = f"{10 * tenth} to {10 * tenth + 10}\N{NO-BREAK SPACE}%"
        counts[label] = counts.get(label, 0) + one["problems"]
    return [Bar(label, count, count / total) for label, count in counts.items()]


# --- curves ----------------------------------------------------------------------------------


def distill_charts(found: Distillation) -> list[Chart]:
    """The curves of the stage: the teacher's side first, then what the same loop always has."""
    rows, settings = found.rows, found.settings
    held_back = evaluations(rows, found.result)
    share = {"distill/inside_frac": "tokens inside a teacher's token"}
    charts = [
        Chart(
            "Divergence from the teacher",
            "nats a token",
            curves(
                rows,
                {"distill/divergence_nats": "divergence", "distill/reverse_kl_nats": "reverse KL"},
            ),
            note="The reverse KL is that of the tokens which the student sampled.",
        ),
        Chart("Unread", "share of tokens", curves(rows, share), percent=True),
    ]
    if any("reward/mean" in row for row in rows):  # the loop's, whatever is known of its settings
        train = settings.train if isinstance(settings, OnPolicyDistill) else None
        rollouts = train.prompts_per_step * train.rollout.group_size if train else None
        charts += training_charts(rows, held_back=held_back, rollouts_per_round=rollouts)
    else:
        charts += [
            Chart("Accuracy", "solved", {}, intervals=held_back, percent=True),
            Chart("Loss", "nats a token", curves(rows, {"loss": ""})),
            Chart("Entropy", "nats a token", curves(rows, {"entropy_nats": ""})),
            Chart("Gradient norm", "before clipping", curves(rows, {"grad_norm": ""})),
            Chart("Learning rate", "", curves(rows, {"learning_rate": ""})),
            *speed_charts(rows),
        ]
    charts = [chart for chart in charts if chart.curves or chart.intervals]
    teacher = found.result.get("accuracy_teacher")
    if teacher and rows:
        level = [(rows[0]["step"], teacher["value"]), (rows[-1]["step"], teacher["value"])]
        charts = [_beside(chart, level) if chart.title == "Accuracy" else chart for chart in charts]
    return charts


def _beside(chart: Chart, level: Points) -> Chart:
    return replace(chart, curves={**chart.curves, "teacher, held-back": level})

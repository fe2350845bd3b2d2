"""Which curves a run's metrics give: absent measurements give no empty charts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from cotree.grpo.report_charts import Chart, Interval, Points

Row = Mapping[str, Any]
"""One step of metrics.jsonl: numbers, and null where a number was not finite."""

PHASES = ("generate", "grade", "teach", "learn", "sync", "evaluate", "save")
"""Phases of a step in the order they run; others follow by name."""


def points(rows: Sequence[Row], key: str) -> list[tuple[int, float]]:
    """(step, value) wherever the key was measured and finite."""
    return [(row["step"], row[key]) for row in rows if row.get(key) is not None]


def curves(rows: Sequence[Row], keys: Mapping[str, str]) -> dict[str, Points]:
    """Label -> points for the keys that were measured at all; `keys` maps key to label."""
    found = {label: points(rows, key) for key, label in keys.items()}
    return {label: values for label, values in found.items() if values}


def with_prefix(rows: Sequence[Row], prefix: str) -> dict[str, str]:
    """Keys `prefix/name` in use -> name, in order of first appearance."""
    return {key: key.removeprefix(prefix) for row in rows for key in row if key.startswith(prefix)}


def training_charts(
    rows: Sequence[Row], *, held_back: Sequence[Interval], rollouts_per_round: int | None
) -> list[Chart]:
    """The curves of reinforcement, those that people look at first coming first.

    Args:
        rows: one a step, in order.
        held_back: accuracy on held-back problems; see `evaluations`.
        rollouts_per_round: prompts * group size, or None when it is not known.
    """
    charts = [
        *_outcome_charts(rows, held_back),
        *_policy_charts(rows),
        *_update_charts(rows),
        Chart(
            "Left out, cut short or unanswered",
            "share",
            _left_out(rows, rollouts_per_round=rollouts_per_round),
            percent=True,
            note="Groups whose rewards are all equal teach nothing; "
            "rollouts that could not be graded are dropped, never scored as zero.",
        ),
        *speed_charts(rows),
    ]
    return [chart for chart in charts if chart.curves or chart.intervals]


def _outcome_charts(rows: Sequence[Row], held_back: Sequence[Interval]) -> list[Chart]:
    """What training is for."""
    terms = {k: v for k, v in with_prefix(rows, "reward/").items() if v != "mean"}
    terms = terms if len(terms) > 1 else {}  # one term is the reward
    return [
        Chart("Reward", "reward", curves(rows, {"reward/mean": "total", **terms})),
        Chart(
            "Accuracy",
            "solved",
            curves(rows, {"accuracy": "training rollouts"}),
            intervals=held_back,
            percent=True,
            note="Training rollouts are sampled from training problems.",
        ),
        *_benchmark_charts(rows),
        Chart(
            "Reasoning steps by verdict",
            "share of steps",
            curves(rows, {f"steps/{v}_frac": v for v in ("verified", "refuted", "unchecked")}),
            percent=True,
        ),
    ]


def _benchmark_charts(rows: Sequence[Row]) -> list[Chart]:
    """Accuracy on each benchmark that was measured while training."""
    names = [
        key.removeprefix("eval/").removesuffix("/accuracy")
        for key in with_prefix(rows, "eval/")
        if key.endswith("/accuracy") and key != "eval/accuracy"
    ]
    return [
        Chart(
            f"Benchmark {name}",
            "solved",
            {},
            intervals=_intervals(rows, f"eval/{name}"),
            measured=name,
            percent=True,
            note="The same problems, prompts and seeds at every step.",
        )
        for name in names
    ]


def _policy_charts(rows: Sequence[Row]) -> list[Chart]:
    """How the policy changes, and whether the engine still samples from it."""
    return [
        Chart("Completion length", "tokens", curves(rows, {"completion/mean_tokens": "mean"})),
        Chart("Entropy", "nats a token", curves(rows, {"entropy_nats": ""})),
        Chart(
            "Divergence from the starting policy",
            "nats a token",
            curves(rows, {"kl_ref_nats": ""}),
        ),
        Chart(
            "Engine against learner",
            "nats",
            curves(
                rows,
                {
                    "mismatch/mean_abs_nats": "mean |difference|",
                    "mismatch/max_abs_nats": "largest",
                    "sync/canary_mean_gap_nats": "canary after sync, mean",
                },
            ),
            log=True,
            note="Log-probability of the same token by the two programs. "
            "A jump means that weights or arithmetic no longer agree; with staleness above 0 it "
            "also counts the updates in between.",
        ),
    ]


def _update_charts(rows: Sequence[Row]) -> list[Chart]:
    """The optimizer's side."""
    return [
        Chart("Loss", "loss", curves(rows, {"loss": ""})),
        Chart("Gradient norm", "before clipping", curves(rows, {"grad_norm": ""})),
        Chart("Clipped tokens", "share of tokens", curves(rows, {"clip_frac": ""}), percent=True),
        Chart("Learning rate", "", curves(rows, {"learning_rate": ""})),
        Chart("Staleness", "updates", _staleness(rows)),
    ]


def supervised_charts(rows: Sequence[Row]) -> list[Chart]:
    """The curves of the cold start."""
    charts = [
        Chart("Loss", "nats a token", curves(rows, {"loss": ""})),
        Chart("Gradient norm", "before clipping", curves(rows, {"grad_norm": ""})),
        Chart("Learning rate", "", curves(rows, {"learning_rate": ""})),
        *speed_charts(rows),
    ]
    return [chart for chart in charts if chart.curves]


def speed_charts(rows: Sequence[Row]) -> list[Chart]:
    """Seconds by phase and tokens per second."""
    phases = {f"seconds/{name}": name for name in phase_names(rows)}
    rates = with_prefix(rows, "tokens_per_second/")
    return [
        Chart("Time by phase", "seconds a step", curves(rows, phases), stacked=True),
        Chart(
            "Speed",
            "tokens a second",
            curves(rows, rates),
            log=_spans_decades(rows, rates),
            note="generate: new tokens over the time the engine sampled. learn: prompt and "
            "completion tokens over the time the loop waited for the learner.",
        ),
    ]


def _spans_decades(rows: Sequence[Row], keys: Mapping[str, str]) -> bool:
    values = [value for key in keys for _, value in points(rows, key) if value > 0]
    return bool(values) and max(values) > 100 * min(values)


def evaluations(rows: Sequence[Row], result: Mapping[str, Any]) -> list[Interval]:
    """Accuracy on held-back problems, at the steps where it was measured.

    The evaluations before and after training are in the run's result, not in its metrics.
    """
    found = {interval.step: interval for interval in _intervals(rows, "eval")}
    for step, name in ((0, "accuracy_before"), (result.get("steps"), "accuracy_after")):
        measured = result.get(name)
        if measured and step is not None:
            found[step] = Interval(step, measured["value"], measured["low"], measured["high"])
    return [found[step] for step in sorted(found)]


def _intervals(rows: Sequence[Row], prefix: str) -> list[Interval]:
    keys = [f"{prefix}/{name}" for name in ("accuracy", "low", "high")]
    return [
        Interval(row["step"], *(row[key] for key in keys))
        for row in rows
        if all(row.get(key) is not None for key in keys)
    ]


def phase_names(rows: Sequence[Row]) -> list[str]:
    """Measured phases in the order they run, without `step`, which is their sum."""
    names = set(with_prefix(rows, "seconds/").values()) - {"step"}
    return sorted(names, key=lambda n: (PHASES.index(n) if n in PHASES else len(PHASES), n))


def phase_table(rows: Sequence[Row]) -> list[dict[str, float | str | None]]:
    """Median seconds, share of all measured time and median tokens per second by phase.

    A phase that few steps have (an evaluation) has its median over those steps alone. With
    `step` measured, what no phase accounts for is the row `rest`.
    """
    totals = {
        name: sum(v for _, v in points(rows, f"seconds/{name}")) for name in phase_names(rows)
    }
    steps = sum(v for _, v in points(rows, "seconds/step"))
    outside = {"evaluate", "save"}  # may run outside of the measured step
    rest = steps - sum(v for name, v in totals.items() if name not in outside)
    whole = sum(totals.values()) + max(0.0, rest)
    table: list[dict[str, float | str | None]] = []
    for name, total in totals.items():
        rates = [v for _, v in points(rows, f"tokens_per_second/{name}")]
        table.append(
            {
                "name": name,
                "seconds": median(v for _, v in points(rows, f"seconds/{name}")),
                "share": total / whole if whole else 0.0,
                "rate": median(rates) if rates else None,
            }
        )
    if steps and rest > 0.005 * whole:
        per_step = rest / len(points(rows, "seconds/step"))
        table.append({"name": "rest", "seconds": per_step, "share": rest / whole, "rate": None})
    return table


def _left_out(rows: Sequence[Row], *, rollouts_per_round: int | None) -> dict[str, Points]:
    labels = {
        "completion/truncated_frac": "cut at the token limit",
        "status/no_answer_frac": "no answer",
        "status/parse_error_frac": "answer cannot be read",
    }
    found = curves(rows, labels)
    constant: list[tuple[int, float]] = []
    ungraded: list[tuple[int, float]] = []
    for row in rows:
        groups = (row.get("groups/kept") or 0) + (row.get("groups/constant") or 0)
        if row.get("groups/constant") is not None and groups:
            constant.append((row["step"], row["groups/constant"] / groups))
        if row.get("groups/kept") is not None and rollouts_per_round:
            failures = sum(v or 0 for key, v in row.items() if key.startswith("ungraded/"))
            sampled = rollouts_per_round * (row.get("sampling/rounds") or 1)
            ungraded.append((row["step"], failures / sampled))
    if constant:
        found["groups with equal rewards"] = constant
    if ungraded:
        found["could not be graded"] = ungraded
    return found


def _staleness(rows: Sequence[Row]) -> dict[str, Points]:
    found = curves(rows, {"staleness": ""})
    always_fresh = all(fmean(v for _, v in values) == 0 for values in found.values())
    return {} if always_fresh else found

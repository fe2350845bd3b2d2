"""What `cotree grade` and `cotree reward …` print for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import typer
from rich.console import Console
from rich.table import Table

from cotree.grpo.cli_boundary import plain
from cotree.rewards.audit import VERDICTS, SecondOpinion, agreement, disagreement_share
from cotree.rewards.cases import HOSTILE, Judged, summarized
from cotree.rewards.extract import extract
from cotree.rewards.registry import Description
from cotree.rewards.signature import BoundReward
from cotree.rewards.trial import Tried
from cotree.rewards.types import Reward, Ungraded

LONGEST = 160
"""Characters of a completion, reference or reason shown."""


def show_grades(judged: Sequence[Judged]) -> None:
    """A table of rates and times, hostile rows and disputed ones apart."""
    counted = [row for row in judged if not row.case.disputed]
    disputed = [row for row in judged if row.case.disputed]
    hostile = [row for row in counted if row.case.tags & HOSTILE]
    table = Table(box=None, pad_edge=False)
    table.add_column("rows", no_wrap=True)
    for heading in ("n", "right", "false+", "false-", "ungraded", "median", "p99", "max ms"):
        table.add_column(heading, justify="right", no_wrap=True)
    groups = [("undisputed", counted)] if counted else []
    if hostile:
        groups.append(("  not hostile", [row for row in counted if row not in hostile]))
        groups.append(("  hostile", hostile))
    if disputed:
        groups.append(("disputed", disputed))
    for label, rows in groups:
        table.add_row(label, *_rates(rows))
    Console().print(table)


def _rates(rows: Sequence[Judged]) -> list[str]:
    summary = summarized(rows)
    times = (summary.median_ms, summary.p99_ms, summary.max_ms)
    return [
        str(summary.n),
        *map(_percent, (summary.accuracy, summary.false_positive_rate)),
        _percent(summary.false_negative_rate),
        str(summary.could_not_grade),
        *("-" if value is None else _milliseconds(value) for value in times),
    ]


def show_wrong(judged: Iterable[Judged]) -> None:
    """Each row whose verdict is not the expected one, with the reason."""
    for row in judged:
        if row.right:
            continue
        fault = {True: "wrongly accepted", False: "wrongly refused", None: "could not grade"}
        took = _milliseconds(1000 * row.seconds)
        typer.echo(f"\n{row.case.problem.id}: {fault[row.accepted]} in {took} ms")
        typer.echo(f"  reference   {shown(row.case.problem.reference)}")
        typer.echo(f"  completion  {shown(row.case.completion)}")
        typer.echo(f"  reason      {_reason(row.result)}")


def show_installed(rewards: Iterable[Description]) -> None:
    """Each reward that packages offer: what it is, what it takes, where it comes from."""
    for reward in rewards:
        form = f"{'batch' if reward.is_batch else 'per sample'}"
        form += ", async" if reward.is_async else ""
        typer.echo(f"{reward.name}  ({reward.origin}; {form})")
        if reward.error:
            typer.echo(f"  cannot be used here: {shown(reward.error)}")
            continue
        typer.echo(f"  {shown(reward.summary)}")
        if reward.needs:
            typer.echo(f"  needs (column or option): {', '.join(reward.needs)}")
        if reward.options:
            options = ", ".join(f"{name} = {value!r}" for name, value in reward.options.items())
            typer.echo(f"  options: {shown(options)}")
        if reward.checks_problems:
            typer.echo("  checks every problem's reference before a run starts")


def show_binding(bound: BoundReward) -> None:
    """How each parameter of a reward function is filled."""
    form = f"{'batch' if bound.is_batch else 'per sample'}, {'async' if bound.is_async else 'sync'}"
    typer.echo(f"{bound.name}: {form}")
    given = {"completion", "completions"}
    rows = [
        *((name, "from the run") for name in bound.fields if name in given),
        *((name, "the problem's field") for name in bound.fields if name not in given),
        *((name, "a column that every row must have") for name in bound.columns),
        *((name, f"{value!r}, the option") for name, value in bound.options.items()),
        *(
            (name, f"{value!r} unless an option or a column sets it")
            for name, value in bound.defaults.items()
        ),
    ]
    for name, source in rows:
        typer.echo(f"  {name:<16} {shown(source)}")
    if bound.check is not None:
        typer.echo("  every problem is checked before a run starts")


def show_tried(tried: Sequence[Tried]) -> None:
    """A table of what a run would make of each completion, and how many complaints there are."""
    table = Table("completion", "a run would give", "reason", "ms", "", box=None, pad_edge=False)
    for one in tried:
        mark = f"[red]{plain(one.complaint)}[/]" if one.complaint else "[green]ok[/]"
        cells = (
            one.trial.name,
            one.consequence,
            shown(one.result.reason),
            _milliseconds(1000 * one.seconds),
        )
        table.add_row(*map(plain, cells), mark)
    Console().print(table)
    wrong = sum(bool(one.complaint) for one in tried)
    typer.echo(f"{len(tried) - wrong} of {len(tried)} as they should be")


def show_audit(opinions: Sequence[SecondOpinion], against: str) -> None:
    """A table of how often the verdicts agree, then each disagreement with both reasons."""
    counts = agreement(opinions)
    table = Table(f"the run \\ {against}", box=None, pad_edge=False)
    for verdict in VERDICTS:
        table.add_column(verdict, justify="right")
    for ours in VERDICTS:
        table.add_row(ours, *(str(counts[ours, theirs]) for theirs in VERDICTS))
    Console().print(table)
    share = disagreement_share(opinions)
    typer.echo(f"disagreement: {_percent(share)} of the samples that both could grade")
    for row in opinions:
        if not row.disagrees:
            continue
        sample = row.sample
        typer.echo(f"\n{sample.problem.id}, step {sample.step}: {sample.verdict} in the run")
        typer.echo(f"  reference  {shown(sample.problem.reference)}")
        typer.echo(f"  answer     {shown(extract(sample.completion).answer or '(none found)')}")
        typer.echo(f"  the run    {shown(sample.reason)}")
        typer.echo(f"  {against:<9}  {row.verdict}: {_reason(row.second)}")


def shown(text: str) -> str:
    """Text on one line, cut short, with what a terminal would obey or cannot print escaped."""
    cut = text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text)} characters)"
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in cut
    )


def _reason(result: Reward | Ungraded) -> str:
    if isinstance(result, Ungraded):
        return shown(f"{result.failure.value}: {result.reason}")
    return shown(result.reason)


def _milliseconds(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"

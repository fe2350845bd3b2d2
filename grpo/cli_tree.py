"""`cotree tree`: look at searches, compare them at equal tokens, and export what they found."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from cotree.grpo.cli_boundary import (
    FAILED,
    Debug,
    Json,
    boundary,
    plain,
    what_a_user_can_fix,
)
from cotree.grpo.config_file import ConfigError
from cotree.search.trees.registry import TREE_STRATEGIES

if TYPE_CHECKING:
    from cotree.grpo.searching.finished import FinishedRun
    from cotree.search.tree_json import SearchRecord

tree_app = typer.Typer(
    no_args_is_help=True, help="Look at searches, compare them at equal tokens, export from them."
)

_RUN = typer.Argument(help="Folder of a `cotree search`.", metavar="RUN", show_default=False)
_Task = Annotated[str | None, typer.Option(help="Which benchmark, where the run has several.")]


def strategies(debug: Debug = False) -> None:
    """The strategies of `cotree search`, and their settings."""
    with boundary(debug=debug, resumable=False):
        table = Table("name", "number", "settings", "needs", box=None, pad_edge=False)
        for name, kind in TREE_STRATEGIES.items():
            needs = "verdicts or --value" if kind.needs_verdicts else ""
            table.add_row(*map(plain, (name, kind.number or "", ", ".join(kind.keys), needs)))
        Console().print(table)


@tree_app.command()
def dot(
    run: Annotated[Path, _RUN],
    problem: Annotated[str, typer.Option(help="Its id.", show_default=False)],
    task: _Task = None,
    debug: Debug = False,
) -> None:
    """One tree as Graphviz source, for `dot -Tsvg`. `cotree search` leaves pages to look at."""
    with boundary(debug=debug, resumable=False):
        from cotree.search.tree_dot import to_dot

        (record, *_) = _of_problem(_read(run, task).records, problem, run)
        typer.echo(to_dot(record.tree, record.best))


@tree_app.command()
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a `cotree search`.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, of the same problems.")],
    task: _Task = None,
    debug: Debug = False,
) -> None:
    """Where the trees of two runs differ; exit code 1 if they do."""
    with boundary(debug=debug, resumable=False):
        from cotree.search.tree_diff import tree_diff

        ours, theirs = (
            {one.search: one for one in _read(root, task).records} for root in (first, second)
        )
        unlike: dict[int, list[str]] = {}
        for number in sorted(ours.keys() | theirs.keys()):
            one, other = ours.get(number), theirs.get(number)
            if one is None or other is None:
                unlike[number] = [f"only in {second if one is None else first}"]
            else:
                unlike[number] = list(map(str, tree_diff(one.tree, other.tree)))
        _show_unlike(unlike)


@tree_app.command()
def replay(run: Annotated[Path, _RUN], task: _Task = None, debug: Debug = False) -> None:
    """Run the searches again from their log, without an engine; exit code 1 if a tree differs."""
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.searching.replay import replayed

        found = replayed(_read(run, task))
        _show_unlike({number: list(map(str, unlike)) for number, unlike in found.items()})


@tree_app.command()
def curves(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders to compare.")],
    output: Annotated[Path, typer.Option(help="The page.")] = Path("curves.html"),
    baseline: Annotated[
        str | None, typer.Option(help="Folder of the baseline; default: the first.")
    ] = None,
    task: _Task = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Accuracy against generated tokens, with paired differences; writes a page."""
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.searching.curves_compared import curves_json, plain_lines
        from cotree.grpo.searching.curves_run import compare_runs

        roots = [run.resolve() for run in runs]
        base = roots[0] if baseline is None else Path(baseline).resolve()
        if base not in roots:
            raise ConfigError(f"--baseline {baseline} is none of the runs given.")
        found = [_read(root, task) for root in roots]
        comparison = compare_runs(found, baseline=roots.index(base), target=output, seed=seed)
        if as_json:
            typer.echo(json.dumps(curves_json(comparison)))
            return
        for line in plain_lines(comparison):
            typer.echo(line)
        typer.echo(f"page: {output}", err=True)


@tree_app.command()
def export(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders to export from.")],
    traces: Annotated[
        Path | None, typer.Option(help="Right completions, for [sft.traces].", metavar="FILE")
    ] = None,
    pairs: Annotated[
        Path | None, typer.Option(help="Better and worse steps.", metavar="FILE")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Values of prefixes, to train a PRM.", metavar="FILE")
    ] = None,
    per_problem: Annotated[int, typer.Option(help="Traces of a problem, at most.")] = 2,
    rank: Annotated[Literal["mean-q", "score"], typer.Option(help="What a good trace has.")] = (
        "mean-q"
    ),
    min_outcomes: Annotated[int, typer.Option(help="Completions that a value needs.")] = 4,
    min_errors: Annotated[float, typer.Option(help="Standard errors between a pair.")] = 2.0,
    use_verdicts: Annotated[
        bool, typer.Option("--use-verdicts", help="A refuted step is worse than another.")
    ] = False,
    task: _Task = None,
    debug: Debug = False,
) -> None:
    """Write what the searches of training problems found, graded with the references."""
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.searching.exports import export_labels, export_pairs, export_traces
        from cotree.search.export import PairRule

        if traces is None and pairs is None and labels is None:
            raise ConfigError("nothing to export: give --traces, --pairs or --labels a FILE.")
        opened = [_read(run, task) for run in runs]
        (policy, *others) = {run.model for run in opened}
        if others:
            raise ConfigError(f"the runs are of several models: {policy}, {', '.join(others)}.")
        graded = []
        for run in opened:
            with run.scorer() as scorer:
                graded += run.graded(scorer)
        done = []
        with what_a_user_can_fix():
            if traces is not None:
                made = export_traces(
                    graded, traces, policy=policy, per_problem=per_problem, rank=rank
                )
                done.append(made)
            if pairs is not None:
                rule = PairRule(
                    min_errors=min_errors, min_outcomes=min_outcomes, use_verdicts=use_verdicts
                )
                done.append(export_pairs(graded, pairs, policy=policy, rule=rule))
            if labels is not None:
                made = export_labels(graded, labels, policy=policy, min_outcomes=min_outcomes)
                done.append(made)
        for one in done:
            left = "; ".join(f"{count:,} {reason}" for reason, count in one.left_out.items())
            typer.echo(f"{one.path}: {one.num_items:,} items. Left out: {left or 'nothing'}.")


@tree_app.command()
def label(
    run: Annotated[Path, _RUN],
    output: Annotated[Path, typer.Option(help="The labels.", metavar="FILE", show_default=False)],
    samples: Annotated[int, typer.Option(help="Rollouts from each prefix.")] = 8,
    per_problem: Annotated[int, typer.Option(help="Completions of a problem, at most.")] = 1,
    budget_tokens: Annotated[
        int | None,
        typer.Option(help="Generated tokens of one completion's label, hard; default: enough."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Problems, at most: the first ones.")] = None,
    task: _Task = None,
    debug: Debug = False,
) -> None:
    """Find the first wrong steps of wrong completions, by rollouts graded with the references.

    It runs the model; after a kill, the same command goes on where it stopped.
    """
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.searching.first_errors import label_first_errors

        found = label_first_errors(
            _read(run, task),
            output,
            samples=samples,
            per_problem=per_problem,
            budget_tokens=budget_tokens,
            limit=limit,
        )
        endings = ", ".join(f"{count:,} {ending}" for ending, count in found.endings.items())
        typer.echo(
            f"{output}: {len(found.rows):,} completions. First errors: "
            f"{endings or 'nothing was wrong'}. {found.num_tokens:,} tokens."
        )


def _show_unlike(found: Mapping[int, Sequence[str]]) -> None:
    """Says where trees differ, by the numbers of their searches.

    Raises:
        Exit: one of them does.
    """
    for number, lines in found.items():
        for line in lines[:5]:
            typer.echo(f"search {number}: {line}")
        if len(lines) > 5:
            typer.echo(f"search {number}: and {len(lines) - 5} more")
    num_unlike = sum(map(bool, found.values()))
    if num_unlike:
        typer.echo(f"{num_unlike} of {len(found)} trees differ")
        raise typer.Exit(FAILED)
    typer.echo(f"{len(found)} trees are equal")


def _read(root: Path, task: str | None) -> FinishedRun:
    from cotree.grpo.searching.finished import read_run

    return read_run(root, task)


def _of_problem(records: Sequence[SearchRecord], problem: str, run: Path) -> list[SearchRecord]:
    found = [record for record in records if record.problem_id == problem]
    if not found:
        raise ConfigError(
            f"{run} has no search of problem {problem!r}; the first is {records[0].problem_id!r}."
        )
    return found

"""`cotree search`: tree search over chain of thought, at a price in generated tokens."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cotree.grpo.cli_boundary import Debug, Json, boundary
from cotree.grpo.config_file import validated
from cotree.grpo.config_search import ModelSearch
from cotree.grpo.evaluation.benchmark import benchmark_named
from cotree.grpo.evaluation.journal import EvaluationFolder
from cotree.grpo.run_folder import refuse_lost_after_job

_TASK = "What to search: `cotree benchmarks` lists the installed ones; or path/file.py:Class."
_STRATEGY = "NAME, NAME:N or NAME:key=value,…; `cotree strategies` lists them."
_BUDGET = "Generated tokens of one search, hard: what is discarded counts."
_WIDTH = "Jobs under way at once in one search."
_STEPS = "Where a step ends: line, paragraph, sentence or tokens:N."
_VALUE = "A reward function that scores states from 0 to 1 without the reference (a PRM)."
_DATA = "Folder with NAME.jsonl or NAME/test.jsonl (or .parquet), instead of the hub."
_SET = "Any other setting, such as engines.max_num_seqs=64. Repeatable."
_OUTPUT = "Folder of the search; default: runs/search/MODEL/STRATEGY."
_RESUME = "Continue what is in the folder; no token that an engine returned is generated again."

_Int = Annotated[int | None, typer.Option(show_default=False)]


def search(
    model: Annotated[str, typer.Argument(help="A model: checkpoint folder or hub name.")],
    task: Annotated[str, typer.Option(help=_TASK, metavar="A,B,…", show_default=False)],
    strategy: Annotated[str, typer.Option(help=_STRATEGY, show_default=False)],
    budget_tokens: Annotated[int, typer.Option(help=_BUDGET, show_default=False)],
    width: Annotated[int, typer.Option(help=_WIDTH)] = 1,
    steps: Annotated[str, typer.Option(help=_STEPS)] = "line",
    value: Annotated[str | None, typer.Option(help=_VALUE, metavar="NAME")] = None,
    data: Annotated[str | None, typer.Option(help=_DATA, metavar="DIR")] = None,
    limit: Annotated[int | None, typer.Option(help="A random subset, always the same.")] = None,
    prompt: Annotated[str | None, typer.Option(help="As of `cotree evaluate`.")] = None,
    samples: Annotated[int, typer.Option("--samples", "-k", help="Searches a problem.")] = 1,
    temperature: Annotated[float, typer.Option(help="Of the sampling.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of the sampling.")] = 1.0,
    max_tokens: Annotated[int, typer.Option(help="Of one completion.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the sampling and of the strategy.")] = 0,
    replicas: Annotated[int | None, typer.Option(help="Engines; default: 1.")] = None,
    threads: _Int = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help=_SET)] = None,
    output: Annotated[Path | None, typer.Option(help=_OUTPUT, metavar="DIR")] = None,
    resume: Annotated[bool, typer.Option("--resume", help=_RESUME)] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search for each problem's answer with a tree, and measure what it selects."""
    with boundary(debug=debug):
        names = [name.strip() for name in task.split(",")]
        given = {"data": data, "limit": limit, "prompt": prompt}
        engines = {"replicas": replicas, "threads": threads}
        sections = {
            "benchmarks": {
                "names": names,
                "samples": samples,
                "temperature": temperature,
                "top_p": top_p,
                "max_tokens": max_tokens,
                "seed": seed,
            }
            | {key: one for key, one in given.items() if one is not None},
            "search": {
                "strategy": strategy,
                "budget_tokens": budget_tokens,
                "width": width,
                "steps": steps,
            }
            | ({} if value is None else {"value": value}),
            "engines": {key: one for key, one in engines.items() if one is not None},
        }
        settings = validated(ModelSearch, sections, overrides or [], source="the command line")
        for name in names:
            benchmark_named(name)  # before seconds are spent on imports
        _search(model, settings, output or _folder(model, strategy), resume=resume, as_json=as_json)


def _folder(model: str, strategy: str) -> Path:
    name = "-".join(Path(model).resolve().parts[-2:])
    return Path("runs/search") / name / strategy.replace("/", "_")


def _search(model: str, settings: ModelSearch, root: Path, *, resume: bool, as_json: bool) -> None:
    refuse_lost_after_job(root, "--output ")
    from cotree.grpo.evaluation.measure import measure
    from cotree.grpo.provenance import describe_code
    from cotree.grpo.searching.finish import finish
    from cotree.grpo.searching.setup import prepare_searches

    typer.echo(describe_code(), err=True)
    with EvaluationFolder(root) as folder:
        prepared = prepare_searches(model, settings, root)
        measured = measure(
            prepared, settings.benchmarks, folder, resume=resume, regrade=False, parquet=False
        )
        found = finish(prepared, settings, folder, measured.summaries)
    if as_json:
        typer.echo(json.dumps({name: one.as_json() for name, one in found.items()}))
        return
    for one in found.values():
        if sys.stdout.isatty():
            Console().print(one.line(), markup=False, highlight=False)
        else:
            typer.echo(one.line())
        typer.echo(f"trees to look at: {one.page}", err=True)
    typer.echo(f"results: {folder.results}", err=True)

"""The `cotree` command. Each stage is imported inside its command: `check` stays instant."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cotree.grpo.cli_boundary import FAILED, OK, Debug, Json, boundary, plain
from cotree.grpo.cli_distill import distill
from cotree.grpo.cli_evaluate import benchmarks, compare, evaluate
from cotree.grpo.cli_export import experts_app, export
from cotree.grpo.cli_kernels import kernels_app
from cotree.grpo.cli_rewards import grade, reward_app
from cotree.grpo.cli_search import search
from cotree.grpo.cli_stage import Config, Overrides, Resume, show_result, stage
from cotree.grpo.cli_tree import strategies, tree_app
from cotree.grpo.config import Pipeline, RowsTask
from cotree.grpo.evaluation.benchmark import benchmark_named
from cotree.grpo.reward_terms import bound_rewards
from cotree.grpo.run_folder import ConfigError, RunFolder, dump_toml, load_pipeline

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Teach a language model to reason: cold start (sft), reinforcement (train), "
        "distillation, evaluation.\n\n"
        "Exit codes: 0 all went well; 1 a run failed, or doctor found a fault; 2 the command line "
        "or the configuration is wrong; 130 interrupted (Ctrl-C, SIGTERM, `ray job stop`)."
    ),
)


app.command()(distill)
app.command()(evaluate)
app.command()(compare)
app.command()(benchmarks)
app.command()(search)
app.command()(strategies)
app.add_typer(tree_app, name="tree")
app.command()(grade)
app.add_typer(reward_app, name="reward")
app.add_typer(kernels_app, name="kernels")
app.command()(export)
app.add_typer(experts_app, name="experts")


# --- commands --------------------------------------------------------------------------------


@app.command()
def sft(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = False,
    json_lines: Json = False,
    debug: Debug = False,
) -> None:
    """Cold start: teach the starting model the format with worked solutions."""
    with boundary(debug=debug):
        pipeline = load_pipeline(config, overrides or [])
        with stage(pipeline):
            from cotree.grpo.stages import sft_stage

            result = sft_stage(pipeline, resume=resume, json_lines=json_lines)
        show_result(result, json_lines=json_lines)


@app.command()
def train(
    config: Config,
    overrides: Overrides = None,
    resume: Resume = False,
    json_lines: Json = False,
    debug: Debug = False,
) -> None:
    """Reinforcement learning, with an evaluation before and after."""
    with boundary(debug=debug):
        pipeline = load_pipeline(config, overrides or [])
        bound_rewards(pipeline)
        with stage(pipeline):
            from cotree.grpo.stages import train_stage

            result = train_stage(pipeline, resume=resume, json_lines=json_lines)
        show_result(result, json_lines=json_lines)


@app.command()
def report(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, or its .toml file.", show_default=False)
    ],
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Write report.html: one file with the run's curves, times, samples and configuration."""
    with boundary(debug=debug):
        if run.is_dir() and overrides:
            raise ConfigError("--set has no effect with a run's folder; give its .toml file.")
        root = run if run.is_dir() else RunFolder.of(load_pipeline(run, overrides or [])).root
        from cotree.grpo.report import write_report

        typer.echo(write_report(root))


@app.command()
def check(config: Config, overrides: Overrides = None, debug: Debug = False) -> None:
    """Validate a configuration and its rewards; print it in full, defaults included."""
    with boundary(debug=debug):
        pipeline = load_pipeline(config, overrides or [])
        bound_rewards(pipeline)
        for name in pipeline.evaluate.benchmarks.names if pipeline.evaluate.benchmarks else ():
            benchmark_named(name)
        _check_rows(pipeline)
        typer.echo(dump_toml(pipeline), nl=False)


@app.command()
def doctor(
    config: Annotated[
        Path | None, typer.Argument(help="Also check that this pipeline fits the machine.")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look for what would stop a run on this machine: versions, memory, cores, ports."""
    with boundary(debug=debug):
        from cotree.grpo.doctor import examine

        if overrides and not config:
            raise ConfigError("--set has no effect without a CONFIG.")
        findings = examine(load_pipeline(config, overrides or []) if config else None)
        if as_json:
            rows = [
                {"name": f.name, "ok": f.ok, "message": f.message, "remedy": f.remedy}
                for f in findings
            ]
            typer.echo(json.dumps(rows, indent=2))
        else:
            marks = {True: "[green]ok[/]", None: "[yellow]warning[/]", False: "[red]FAULT[/]"}
            table = Table("", "looked at", "found", "what to do", box=None, pad_edge=False)
            for f in findings:
                table.add_row(marks[f.ok], *(map(plain, (f.name, f.message, f.remedy))))
            Console().print(table)
        if any(f.ok is False for f in findings):
            raise typer.Exit(FAILED)


# --- what the commands share -----------------------------------------------------------------


def _check_rows(pipeline: Pipeline) -> None:
    """The rewards can grade the problems, as far as that can be told without a network.

    Raises:
        ConfigError: a row cannot be used, a column is missing, or a reference cannot be graded
            against.
    """
    from cotree.grpo.problems import load_problems
    from cotree.grpo.reward_terms import refuse_unfit

    task = pipeline.task
    if isinstance(task, RowsTask):
        absent = [path for path in (task.train, task.test) if not Path(path).is_file()]
        if absent:
            typer.echo(f"note: no local file {absent[0]!r}; its rows are checked later", err=True)
            return
    else:  # generated problems are all of one kind
        pipeline = pipeline.model_copy(
            update={"task": task.model_copy(update={"num_train": 1, "num_test": 1})}
        )
    try:
        problems = [load_problems(pipeline, split, render=str) for split in ("train", "test")]
    except ValueError as error:  # a row without the fields, say
        raise ConfigError(str(error)) from error
    refuse_unfit(pipeline, [problem for part in problems for problem in part])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. `argv` defaults to the process's arguments."""
    try:
        app(args=list(argv) if argv is not None else None, prog_name="cotree")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else FAILED
    return OK


if __name__ == "__main__":
    sys.exit(main())

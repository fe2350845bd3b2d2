"""`cotree evaluate` on benchmarks, `cotree compare` and `cotree benchmarks`.

What needs torch is imported when it is needed: the others answer at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table

from cotree.grpo.cli_boundary import Debug, Json, boundary, plain
from cotree.grpo.cli_stage import show_result, stage
from cotree.grpo.config_evaluation import PRESETS, ModelEvaluation
from cotree.grpo.config_file import ConfigError, load_pipeline, validated
from cotree.grpo.evaluation.benchmark import benchmark_named, installed_benchmarks
from cotree.grpo.evaluation.compare import Compared, compare_evaluations
from cotree.grpo.evaluation.journal import EvaluationFolder
from cotree.grpo.reward_terms import bound_rewards
from cotree.grpo.run_folder import refuse_lost_after_job

if TYPE_CHECKING:
    from cotree.grpo.evaluation.measure import Measured, Prepared


_TARGET = "A model: checkpoint folder, hub name, or name on a server. Or a pipeline's .toml file."
_NAMES = "`cotree benchmarks` lists the installed ones; or path/file.py:Class."
_DATA = "Folder with NAME.jsonl or NAME/test.jsonl (or .parquet), instead of the hub."
_PROMPT = (
    "boxed, boxed-system, few-shot, bare, or a text with {question}; default: the benchmark's."
)
_SAMPLING = "greedy; r1 (temperature 0.6, top-p 0.95); policy (temperature 1); default: greedy."
_STRATEGY = "majority:N, vetoed-majority:N or resample:N: chooses among N completions a sample."
_MAX_TOKENS = "Of one completion; default: 2048, of r1 32768."
_ENGINE = "vllm: our own actors; server: an OpenAI-compatible one."
_THREADS = "Of one engine on a CPU; default: all cores but one, divided."
_SET = "Any other setting, such as engines.max_num_seqs=64. With a .toml: override a key of it."
_OUTPUT = "Folder of the results; default: runs/evaluate/MODEL."
_REGRADE = "Continue it after a change of the graders: all its samples are graded again."
_RESUME = "Continue what is in the folder; no finished problem is repeated."

_Preset = Literal["greedy", "r1", "policy"]
_Int = Annotated[int | None, typer.Option(show_default=False)]
_Float = Annotated[float | None, typer.Option(show_default=False)]
_OF_A_PIPELINE = {"target", "overrides", "checkpoint", "as_json", "debug"}
"""Parameters with an effect where the target is a pipeline."""


def evaluate(
    context: typer.Context,
    target: Annotated[str, typer.Argument(help=_TARGET, show_default=False)],
    benchmarks: Annotated[str | None, typer.Option(help=_NAMES, metavar="A,B,…")] = None,
    data: Annotated[str | None, typer.Option(help=_DATA, metavar="DIR")] = None,
    limit: Annotated[int | None, typer.Option(help="A random subset, always the same.")] = None,
    prompt: Annotated[str | None, typer.Option(help=_PROMPT)] = None,
    examples: Annotated[int | None, typer.Option(help="Worked ones before the question.")] = None,
    samples: Annotated[int, typer.Option("--samples", "-k", help="Completions a problem.")] = 1,
    sampling: Annotated[_Preset, typer.Option(help=_SAMPLING, show_default=False)] = "greedy",
    temperature: _Float = None,
    top_p: _Float = None,
    max_tokens: Annotated[int | None, typer.Option(help=_MAX_TOKENS)] = None,
    strategy: Annotated[str | None, typer.Option(help=_STRATEGY, metavar="NAME:N")] = None,
    seed: _Int = None,
    engine: Annotated[Literal["vllm", "server"] | None, typer.Option(help=_ENGINE)] = None,
    server: Annotated[str | None, typer.Option(help="Ask this one.", metavar="URL")] = None,
    replicas: Annotated[int | None, typer.Option(help="Engines; default: 1.")] = None,
    threads: Annotated[int | None, typer.Option(help=_THREADS)] = None,
    dtype: Annotated[str | None, typer.Option(help="float32; default: bfloat16.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--model", help="With a .toml: another than its latest model.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Option("--set", help=_SET)] = None,
    output: Annotated[Path | None, typer.Option(help=_OUTPUT, metavar="DIR")] = None,
    resume: Annotated[bool, typer.Option("--resume", help=_RESUME)] = False,
    regrade: Annotated[bool, typer.Option("--regrade", help=_REGRADE)] = False,
    parquet: Annotated[bool, typer.Option("--parquet", help="Also samples.parquet.")] = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Accuracy with error bars: of a model on benchmarks, or of a run on its held-back problems."""
    with boundary(debug=debug):
        if target.endswith(".toml"):
            _refuse_given(context, set(context.params) - _OF_A_PIPELINE, "a .toml file")
            _evaluate_pipeline(Path(target), overrides or [], checkpoint, as_json=as_json)
            return
        _refuse_given(context, {"checkpoint"}, "a model")
        if benchmarks is None:
            raise ConfigError(f"which benchmarks? Add --benchmarks A,B,… {_NAMES}")
        _refuse_unlike(engine, server)
        sampled = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens}
        given = {"data": data, "limit": limit, "prompt": prompt, "examples": examples, "seed": seed}
        given["strategy"] = strategy
        sections = {
            "benchmarks": PRESETS[sampling]._asdict()
            | _given(names=_names(benchmarks), samples=samples, **sampled, **given),
            "engines": _given(replicas=replicas, threads=threads, dtype=dtype),
        }
        if server is not None:
            sections["server"] = {"url": server}
        source = "the command line"
        settings = validated(ModelEvaluation, sections, overrides or [], source=source)
        files = {"resume": resume, "regrade": regrade, "parquet": parquet}
        _evaluate_model(target, settings, output, as_json=as_json, **files)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of an evaluation.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another, of another model.")],
    benchmarks: Annotated[
        str | None, typer.Option(metavar="A,B,…", help="Default: all that both have.")
    ] = None,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Compare although this key of the fingerprint differs. Repeatable.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Is B better than A? A paired test over problems, with what it could have found."""
    with boundary(debug=debug, resumable=False):
        names = _names(benchmarks) if benchmarks else []
        found = compare_evaluations(first, second, benchmarks=names, allow=allow or [])
        if as_json:
            typer.echo(json.dumps([asdict(one) for one in found], indent=2))
            return
        typer.echo(f"A  {first}\nB  {second}")
        Console().print(_comparison_table(found))
        for one in found:
            typer.echo(f"{one.benchmark}: {verdict(one)}")
            if one.unlike:
                typer.echo(f"  compared although these differ: {', '.join(one.unlike)}")


def benchmarks(debug: Debug = False) -> None:
    """The benchmarks that are installed, and where their problems come from."""
    with boundary(debug=debug, resumable=False):
        table = Table("name", "prompt", "from", "what", box=None, pad_edge=False)
        for name in installed_benchmarks():
            found = benchmark_named(name)
            source = found.hub or "generated"
            table.add_row(*map(plain, (name, found.prompt, source, found.description)))
        Console().print(table)


def verdict(compared: Compared) -> str:
    """What a comparison shows, in a sentence that claims no more than its interval does."""
    paired = compared.paired
    points = 100 * abs(paired.difference)
    if paired.minimum_detectable is None:
        reach = "The differences do not vary, so how small a difference would be found is unknown."
    else:
        reach = (
            f"With these {paired.n} problems a difference of "
            f"{100 * paired.minimum_detectable:.1f} points is found 80 % of the time."
        )
    if paired.low > 0 or paired.high < 0:
        better = "B" if paired.difference > 0 else "A"
        return f"{better} is better by {points:.1f} points. {reach}"
    return f"no difference is shown ({points:.1f} points, within chance). {reach}"


def _evaluate_pipeline(
    config: Path, overrides: list[str], checkpoint: str | None, *, as_json: bool
) -> None:
    pipeline = load_pipeline(config, overrides)
    bound_rewards(pipeline)
    with stage(pipeline):
        from cotree.grpo.stages import evaluate_stage

        result = evaluate_stage(pipeline, model=Path(checkpoint) if checkpoint else None)
    show_result(result, json_lines=as_json)


def _evaluate_model(
    model: str,
    settings: ModelEvaluation,
    output: Path | None,
    *,
    resume: bool,
    regrade: bool,
    parquet: bool,
    as_json: bool,
) -> None:
    root = output or Path("runs/evaluate") / "-".join(Path(model).resolve().parts[-2:])
    refuse_lost_after_job(root, "--output ")
    for name in settings.benchmarks.names:
        benchmark_named(name)  # before seconds are spent on imports
    from cotree.grpo.evaluation.measure import measure
    from cotree.grpo.provenance import describe_code

    typer.echo(describe_code(), err=True)
    with EvaluationFolder(root) as folder:
        measured = measure(
            _prepared(model, settings),
            settings.benchmarks,
            folder,
            resume=resume,
            regrade=regrade,
            parquet=parquet,
        )
        _show(measured, as_json=as_json)
        typer.echo(f"results: {folder.results}\nanswers to look at: {folder.page}", err=True)


def _given(**values: object) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _refuse_given(context: typer.Context, names: set[str], what: str) -> None:
    """Refuses options that were typed and would have no effect."""
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name == "COMMANDLINE":
            raise ConfigError(f"{parameter.opts[0]} has no effect with {what}; drop it.")


def _refuse_unlike(engine: str | None, server: str | None) -> None:
    if engine == "server" and server is None:
        raise ConfigError("--engine server needs --server URL.")
    if engine == "vllm" and server is not None:
        raise ConfigError(f"--server {server} has no effect with --engine vllm; drop one of them.")


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise ConfigError(f"--benchmarks {text!r}: separate names by single commas.")
    return names


def _prepared(model: str, settings: ModelEvaluation) -> Prepared:
    if settings.server is not None:
        from cotree.grpo.evaluation.server_setup import prepare_server

        return prepare_server(model, settings=settings.benchmarks, server=settings.server)
    from cotree.grpo.evaluation.engine_setup import prepare_engines

    return prepare_engines(model, settings=settings.benchmarks, engines=settings.engines)


def _show(measured: Measured, *, as_json: bool) -> None:
    from cotree.grpo.evaluation.equal_tokens import to_terminal_table
    from cotree.grpo.evaluation.results import summary_json
    from cotree.grpo.evaluation.tables import plain_lines, summary_table

    if as_json:
        shown = {summary.benchmark: summary_json(summary) for summary in measured.summaries}
        typer.echo(json.dumps(shown))
    elif sys.stdout.isatty():
        Console().print(summary_table(measured.summaries))
        for table in measured.equal_tokens:
            Console().print("", to_terminal_table(table), sep="\n")
    else:
        for line in plain_lines(measured.summaries):
            typer.echo(line)


def _comparison_table(found: Sequence[Compared]) -> Table:
    adjusted = len(found) > 1
    columns = ["benchmark", "problems", "A", "B", "B - A (95 % interval)", "better/worse", "p"]
    table = Table(*columns, *(["p (Holm)"] if adjusted else []), box=None, pad_edge=False)
    for one in found:
        paired = one.paired
        difference, low, high = (100 * x for x in (paired.difference, paired.low, paired.high))
        row = [
            plain(one.benchmark),
            str(paired.n),
            f"{one.accuracy_a:.1%}",
            f"{one.accuracy_b:.1%}",
            f"{difference:+.1f} ({low:+.1f} to {high:+.1f}) points",
            f"{paired.num_better}/{paired.num_worse}",
            f"{paired.p_value:.3g} ({paired.test})",
        ]
        table.add_row(*row, *([f"{one.p_adjusted:.3g}"] if adjusted else []))
    return table

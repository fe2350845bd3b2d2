"""What the commands that run a stage of a pipeline share: their options, and how they end."""

from __future__ import annotations

import json
import traceback
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cotree.grpo.config import Pipeline
from cotree.grpo.run_folder import ConfigError, RunFolder

Config = Annotated[Path, typer.Argument(help="A pipeline's .toml file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override one key, e.g. --set train.num_steps=5. Repeatable.",
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Continue from the last checkpoint; start if there is none."),
]


@contextmanager
def stage(pipeline: Pipeline) -> Generator[None]:
    """Says which code runs and what the machine may lack; keeps the traceback of a failure."""
    from cotree.grpo.doctor import examine
    from cotree.grpo.provenance import describe_code

    typer.echo(describe_code(), err=True)
    for finding in examine(pipeline):
        if not finding.ok:
            label = "warning" if finding.ok is None else "fault"
            typer.echo(f"{label}: {finding.name}: {finding.message}. {finding.remedy}", err=True)
    try:
        yield
    except ConfigError:
        raise
    except Exception:
        _keep_traceback(RunFolder.of(pipeline).traceback)
        raise
    RunFolder.of(pipeline).traceback.unlink(missing_ok=True)


def _keep_traceback(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(traceback.format_exc(), encoding="utf-8")
    typer.echo(f"The traceback is in {path}.", err=True)


def show_result(result: Mapping[str, object], *, json_lines: bool) -> None:
    """Prints what a stage returned: a line for each key, or all as JSON."""
    if json_lines:
        typer.echo(json.dumps(result))
        return
    for key, value in result.items():
        typer.echo(f"{key}: {_readable(value)}")


def _readable(value: object) -> str:
    """One result on one line: a share with its interval, a float with four digits."""
    if isinstance(value, Mapping) and {"value", "low", "high", "n"} <= set(value):
        share, low, high = (float(value[k]) for k in ("value", "low", "high"))
        return f"{share:.1%} (95 % interval {low:.1%} to {high:.1%}, {value['n']} problems)"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_readable(v)}" for k, v in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)

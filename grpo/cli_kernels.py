"""`cotree kernels`: what each kernel runs on here, what FP8 would cost a model, what compiles."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Column, Table

from cotree.grpo.cli_boundary import Debug, Json, boundary, what_a_user_can_fix
from cotree.grpo.config_file import ConfigError

if TYPE_CHECKING:
    from cotree.grpo.evaluation.records import Estimate
    from cotree.grpo.precision_preview.preview import LossGap, Preview

kernels_app = typer.Typer(no_args_is_help=True, help=__doc__)

_SHOWN = 20
"""Layers in the table; --json has all."""

Precision = Literal["fp8_block", "fp8_tensorwise", "fp8_rowwise"]


@kernels_app.command()
def status(json_lines: Json = False, debug: Debug = False) -> None:
    """Which implementation each kernel uses on this machine, and why."""
    with boundary(debug=debug, resumable=False):
        from cotree.kernels import dispatch

        found = dispatch.status()
        if json_lines:
            typer.echo(json.dumps([asdict(choice) for choice in found]))
            return
        table = Table("kernel", "runs on", "because")
        for choice in found:
            table.add_row(choice.op, choice.backend, choice.reason)
        Console().print(table)


@kernels_app.command()
def preview(
    model: Annotated[str, typer.Argument(help="Folder or hub name.", show_default=False)],
    precision: Annotated[Precision, typer.Option(help="What to compare with bfloat16.")] = (
        "fp8_block"
    ),
    texts: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Texts: .jsonl or .parquet with `text`, or a text a line.",
        ),
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of a batch, about.")] = 1024,
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps to compare; 0: the model as it is.")
    ] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of those steps, above 0.")] = 1e-5,
    runs: Annotated[
        int,
        typer.Option(min=1, help="Times to train, each with the texts in another order."),
    ] = 1,
    json_lines: Json = False,
    debug: Debug = False,
) -> None:
    """Measures what training in FP8 would cost a model: errors by layer, underflow, loss gap.

    Without --texts it reads worked arithmetic. The numbers are those of a GPU's tensor cores as
    far as bytes go: quantised values are the same to the bit, sums differ in the last places.
    """
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.config_learner import Fp8Block, Fp8Scaled
        from cotree.grpo.precision_preview import preview as measure

        if not learning_rate > 0:
            raise ConfigError(f"--learning-rate {learning_rate} must be above 0.")
        settings = Fp8Block() if precision == "fp8_block" else Fp8Scaled(type=precision)
        with what_a_user_can_fix():
            found = measure.preview(
                model,
                measure.texts_of(model, texts, longest=tokens),
                precision=settings,
                tokens=tokens,
                steps=steps,
                learning_rate=learning_rate,
                runs=runs,
                tell=lambda line: typer.echo(line, err=True),
            )
        if json_lines:
            estimate = found.estimate()
            relative = None if estimate is None else estimate._asdict()
            rows = {"model": model, "precision": precision, **asdict(found), "relative": relative}
            typer.echo(json.dumps(rows))
        else:
            _show(found, precision)


@kernels_app.command(name="compile")
def compile_all(
    only: Annotated[str, typer.Option(help="Part of the names of those to compile.")] = "",
    debug: Debug = False,
) -> None:
    """Compiles the Triton kernels for Hopper and Blackwell, without a GPU: registers and spills."""
    with boundary(debug=debug, resumable=False):
        from cotree.kernels import aot

        raise typer.Exit(aot.main(["--only", only] if only else []))


def _show(found: Preview, precision: str) -> None:
    console = Console()
    table = Table(
        Column("layer", no_wrap=True),
        *("output", "dx", "dw", "bf16", "x to 0", "w to 0", "dy to 0"),
        title=f"{precision}: relative errors against float32, and values that underflow",
    )
    worst = sorted(found.layers, key=lambda layer: layer.low.output, reverse=True)
    for layer in worst[:_SHOWN]:
        low = layer.low
        table.add_row(
            layer.name.removeprefix("model.layers."),
            *(f"{error:.2%}" for error in (low.output, low.input_grad, low.weight_grad)),
            f"{layer.bfloat16.output:.2%}",
            *(
                f"{share:.2%}"
                for share in (layer.input_underflow, layer.weight_underflow, layer.grad_underflow)
            ),
        )
    console.print(table)
    if len(worst) > _SHOWN:
        console.print(f"The {_SHOWN} worst of {len(worst)} layers; --json has all.")
    console.print(f"loss of the model as it is ({found.tokens} tokens): {_gap(found.loss)}")
    for run, gap in enumerate(found.trained, start=1):
        console.print(f"loss while training (later half, run {run}): {_gap(gap)}")
    if found.largest_step_gap is not None:
        console.print(_verdict(found.estimate(), found.largest_step_gap))


def _verdict(estimate: Estimate | None, largest_step_gap: float) -> str:
    from cotree.grpo.precision_preview.preview import LOSS_GAP_BOUND

    if estimate is None:
        mean = "one run's gap is chance in part, --runs 8 gives an interval"
    else:
        value, low, high = estimate
        mean = f"mean of the runs {value:+.3%} (95 % interval {low:+.3%} to {high:+.3%})"
    bound = f"DeepSeek-V3 kept it below {LOSS_GAP_BOUND:.2%}"
    return f"{mean}; largest of a step {largest_step_gap:.3%}; {bound}"


def _gap(gap: LossGap) -> str:
    low = f"{gap.low:.4f} in the low precision"
    return f"{gap.bfloat16:.4f} nats in bfloat16, {low} ({gap.relative:+.3%})"

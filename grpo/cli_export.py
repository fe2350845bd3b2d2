"""`cotree export` and `cotree experts`: a checkpoint in low precision, or with other experts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cotree.grpo.cli_boundary import Debug, boundary, what_a_user_can_fix
from cotree.grpo.config_file import ConfigError

if TYPE_CHECKING:
    from cotree.grpo.exporting.expert_layout import ExpertLayout
    from cotree.grpo.exporting.experts import ExpertChange

experts_app = typer.Typer(
    no_args_is_help=True,
    help="Add experts to a checkpoint of Qwen3-MoE or DeepSeek-V3, or remove some.",
)

_Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="A checkpoint's folder.", show_default=False)
]
_Out = Annotated[
    Path, typer.Argument(metavar="OUT", help="The new one's; must not exist.", show_default=False)
]
_Loads = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help='JSON: tokens sent to each expert, {"model.layers.1.mlp.gate": [12, 0, …], …}.',
    ),
]


def export(
    model: _Model,
    out: _Out,
    to: Annotated[
        Literal["fp8-block", "int8"],
        typer.Option(
            "--format",
            help="fp8-block: E4M3 in 128x128 blocks, as DeepSeek-V3. int8: W8A8, which vLLM runs "
            "on CPUs as well, but for experts.",
            show_default=False,
        ),
    ],
    scales: Annotated[
        Literal["pow2", "float32"] | None,
        typer.Option(help="Of fp8-block. Blackwell needs powers of two.  [default: pow2]"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a checkpoint's linear layers in low precision, for a serving engine."""
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.exporting.fp8_checkpoint import write_fp8_checkpoint
        from cotree.grpo.exporting.int8_checkpoint import write_int8_checkpoint
        from cotree.kernels.fp8 import TILE

        if to == "int8" and scales is not None:
            raise ConfigError("--scales has no effect on int8, which has a float32 scale a row.")
        with what_a_user_can_fix():
            if to == "int8":
                done = write_int8_checkpoint(model, out)
            else:
                done = write_fp8_checkpoint(model, out, scales=scales or "pow2")
        if done.ragged:
            typer.echo(
                f"warning: {len(done.ragged)} weights do not divide into {TILE}x{TILE} blocks, "
                f"the first {done.ragged[0]}. vLLM refuses them in layers that it fuses; "
                "transformers misreads those of more than one block where it dequantizes, as on a "
                "CPU.",
                err=True,
            )
        typer.echo(
            f"{done.folder}: {done.num_quantized:,} weights in {to}, {done.num_kept:,} tensors as "
            f"they were; {done.bytes_before:,} bytes became {done.bytes_after:,}."
        )


@experts_app.command()
def add(
    model: _Model,
    out: _Out,
    copies: Annotated[
        int | None,
        typer.Option(
            help="Every expert so often, and a token uses so many times as many: the model stays "
            "the same function."
        ),
    ] = None,
    to: Annotated[
        int | None,
        typer.Option(help="Experts of a layer in the end; a token uses as many as it did."),
    ] = None,
    loads: _Loads = None,
    dormant: Annotated[
        bool,
        typer.Option(
            "--dormant",
            help="With --to: no token chooses the copies until learner.expert_bias_rate has "
            "lifted their bias (DeepSeek-V3).",
        ),
    ] = False,
    noise: Annotated[
        float,
        typer.Option(help="On the copies' rows of the router, of their own size; 0.01 is little."),
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    debug: Debug = False,
) -> None:
    """Add copies of experts (sparse upcycling)."""
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.exporting.experts import copy_experts, grow_experts

        with what_a_user_can_fix():
            if to is not None and copies is None:
                read = None if loads is None else _read_loads(loads)
                change = grow_experts(
                    model, out, num_experts=to, loads=read, dormant=dormant, noise=noise, seed=seed
                )
            elif copies is not None and to is None:
                if loads is not None or dormant:
                    raise ConfigError("--loads and --dormant have no effect on --copies.")
                change = copy_experts(model, out, copies=copies, noise=noise, seed=seed)
            else:
                raise ConfigError("give either --copies N or --to E.")
        _show(change)
        if noise == 0:
            typer.echo(
                "note: exact copies that are used together get the same gradient and stay equal; "
                "--noise 0.01 breaks the tie.",
                err=True,
            )


@experts_app.command()
def remove(
    model: _Model,
    out: _Out,
    ids: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IDS",
            help="Experts to remove: 3,5 in every layer, or 1=3,5 in layer 1. Repeatable.",
        ),
    ] = None,
    loads: _Loads = None,
    count: Annotated[
        int | None, typer.Option(help="With --loads: the least loaded of each layer, so many.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Remove experts, by id or because few tokens were sent to them."""
    with boundary(debug=debug, resumable=False):
        from cotree.grpo.exporting.expert_choice import least_loaded
        from cotree.grpo.exporting.expert_layout import by_layer, read_layout
        from cotree.grpo.exporting.experts import remove_experts

        if bool(ids) == (loads is not None) or (loads is None) != (count is None):
            raise ConfigError("give --ids IDS, or --loads FILE and --count N.")
        with what_a_user_can_fix():
            layout = read_layout(model)
            if loads is not None and count is not None:
                removed = least_loaded(layout, count, by_layer(layout, _read_loads(loads)))
            else:
                removed = _parse_ids(ids or [], layout)
            change = remove_experts(model, out, removed=removed)
        _show(change)


def _show(change: ExpertChange) -> None:
    typer.echo(
        f"{change.folder}: {change.num_before} experts a layer became {change.num_after}, of which "
        f"a token uses {change.per_token}; {len(change.sources)} layers. experts.json says which."
    )


def _parse_ids(given: Sequence[str], layout: ExpertLayout) -> dict[str, set[int]]:
    """Experts by layer, from texts such as `3,5` and `1=3,5`.

    Raises:
        ConfigError: a text is not of that form, or there is no such layer.
    """
    found: dict[str, set[int]] = {}
    for text in given:
        layer, equals, numbers = text.rpartition("=")
        layers = [one for one in layout.layers if not equals or f".layers.{layer}." in f".{one}."]
        try:
            ids = {int(number) for number in numbers.split(",")}
        except ValueError as error:
            raise ConfigError(f"--ids {text!r} is not of the form 3,5 or 1=3,5.") from error
        if not layers:
            raise ConfigError(
                f"--ids {text!r}: no layer {layer} with experts; those are "
                f"{', '.join(layout.layers)}."
            )
        for one in layers:
            found.setdefault(one, set()).update(ids)
    return found


def _read_loads(path: Path) -> Mapping[str, Sequence[float]]:
    """Loads from a file.

    Raises:
        ConfigError: it is not what `--loads` wants.
    """
    try:
        loads = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read loads from {path}: {error}.") from error
    if not (
        isinstance(loads, dict)
        and all(isinstance(counts, list) for counts in loads.values())
        and all(isinstance(n, int | float) for counts in loads.values() for n in counts)
    ):
        raise ConfigError(f"{path} must hold an object with a list of numbers for each router.")
    return loads

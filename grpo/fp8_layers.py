"""The layers of a transformers model that can multiply in FP8, and which recipe they follow now."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from cotree.grpo.config_learner import FixedPrecision, Fp8Block, Fp8Scaled, Precision, phases_of
from cotree.grpo.expert_layers import stacked_experts, use_grouped_experts, use_scales
from cotree.kernels.fp8 import block_linear

_LOG = logging.getLogger(__name__)

_TorchaoRecipe: TypeAlias = Any
"""torchao's objects, untyped and not installed everywhere."""


_NEVER = ("eh_proj",)
"""Stays as it is: DeepSeek-V3's checkpoints have this part of the prediction module in bfloat16."""


class Fp8Linear(nn.Linear):
    """A linear layer that multiplies as `precision` says: FP8, or whatever autocast does.

    A layer becomes one by a change of its class, so that its parameters, its name and its hooks
    stay as they are.
    """

    precision: FixedPrecision | None
    """Neither of the FP8 ones: as any linear layer."""
    torchao: _TorchaoRecipe | None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """[..., in] to [..., out]."""
        if isinstance(self.precision, Fp8Block):
            return block_linear(input, self.weight, self.bias, scales=self.precision.scales)
        if isinstance(self.precision, Fp8Scaled):
            return self._scaled(_autocast(input))
        return functional.linear(input, self.weight, self.bias)

    def _scaled(self, values: Tensor) -> Tensor:
        assert self.torchao is not None, "Fp8Layers sets both"
        multiply, products, settings = self.torchao
        output = cast(Tensor, multiply(values, self.weight.t(), products, settings))
        bias = cast("Tensor | None", self.bias)
        return output if bias is None else output + bias.to(output.dtype)


def _autocast(values: Tensor) -> Tensor:
    device = values.device.type
    if torch.is_autocast_enabled(device):
        return values.to(torch.get_autocast_dtype(device))
    return values


class Fp8Layers:
    """A model's layers that can compute in FP8, dense ones and experts, by name."""

    def __init__(self, linears: Mapping[str, Fp8Linear], experts: Mapping[str, nn.Module]) -> None:
        self.linears, self.experts = linears, experts

    def use(self, precision: FixedPrecision) -> None:
        """Sets the recipe of the passes that follow, until the next call.

        Not a context: with gradient checkpointing a backward pass computes its forward again, long
        after any context has ended.
        """
        recipe = torchao_recipe(precision) if isinstance(precision, Fp8Scaled) else None
        scales = precision.scales if isinstance(precision, Fp8Block) else None
        used = self.used_by(precision)
        for name, layer in self.linears.items():
            layer.precision, layer.torchao = (precision if name in used else None), recipe
        for name, layer in self.experts.items():
            use_scales(layer, scales if name in used else None)

    def used_by(self, precision: FixedPrecision) -> set[str]:
        """Names of the layers that compute in FP8 under the precision."""
        if isinstance(precision, Fp8Block):
            names = [*self.linears, *self.experts]
        else:
            # torchao has products of experts for GPUs alone.
            names = [*self.linears] if isinstance(precision, Fp8Scaled) else []
        skip = precision.skip if isinstance(precision, Fp8Block | Fp8Scaled) else ()
        return {name for name in names if not _ends_in(name, skip)}

    def check_skipped(self, precision: Fp8Block | Fp8Scaled) -> None:
        """Raises ValueError where a name to skip has no effect, or leaves nothing in FP8."""
        names = self.used_by(precision.model_copy(update={"skip": ()}))
        for end in precision.skip:
            if not any(_ends_in(name, (end,)) for name in names):
                raise ValueError(
                    f"learner.precision.skip names {end!r}, which no layer's name ends in that "
                    f"{precision.type} computes; the first are {', '.join(sorted(names)[:8])}."
                )
        if not self.used_by(precision):
            raise ValueError(
                f'learner.precision.type = "{precision.type}" has no effect: skip = '
                f"{list(precision.skip)} leaves no layer of this model. Skip less, or use "
                '"bfloat16".'
            )


def fp8_layers(model: PreTrainedModel, precision: Precision) -> Fp8Layers:
    """Prepares the model's layers for the precision, and for each phase of a schedule.

    Its routed experts compute in groups whatever the precision is. Of its linear layers, all but
    the output head can compute in FP8 where a phase asks for it; adapters, which come later, stay
    out of it, and so do routers and embeddings, which are no linear layers.

    Args:
        model: float32, without adapters yet. Changed in place; names and parameters stay.
        precision: settings of the run.

    Raises:
        ValueError: a name to skip ends no layer's name, or FP8 is asked for and there is no layer.
        ModuleNotFoundError: the precision needs torchao, which is not installed.
    """
    grouped = use_grouped_experts(model)
    experts = {name: module for name, module in model.named_modules() if module in grouped}
    wanted = [
        phase.precision
        for phase in phases_of(precision)
        if isinstance(phase.precision, Fp8Block | Fp8Scaled)
    ]
    if not wanted:
        return Fp8Layers({}, experts)
    head = model.get_output_embeddings()
    linears = {
        name: _converted(module)
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module is not head and not _ends_in(name, _NEVER)
    }
    if left := len(stacked_experts(model)) - len(experts):
        _LOG.warning(
            "the experts of %d layers of this architecture have a layout of their own: they are "
            "multiplied in bfloat16, not in FP8.",
            left,
        )
    layers = Fp8Layers(linears, experts)
    for found in wanted:
        layers.check_skipped(found)
        if isinstance(found, Fp8Scaled):
            torchao_recipe(found)
    return layers


def torchao_recipe(precision: Fp8Scaled) -> _TorchaoRecipe:
    """Torchao's settings for its products and its scales.

    Raises:
        ModuleNotFoundError: torchao is not installed.
    """
    try:
        linear = importlib.import_module("torchao.float8.float8_linear")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'learner.precision.type = "{precision.type}" needs torchao: pip install '
            "'cotree[float8]', or use \"fp8_block\", which needs nothing."
        ) from error
    config = importlib.import_module("torchao.float8.config").Float8LinearConfig
    settings = config.from_recipe_name(precision.type.removeprefix("fp8_"))
    # The weight's gradient contracts over tokens, and a GPU multiplies multiples of 16 alone.
    settings = replace(settings, pad_inner_dim=True)
    # A layer of theirs, for the settings of the three products that it derives.
    with torch.device("meta"):
        layer = linear.Float8Linear(16, 16, bias=False, config=settings)
    return linear.matmul_with_hp_or_float8_args.apply, layer.linear_mm_config, settings


def _converted(layer: nn.Linear) -> Fp8Linear:
    layer.__class__ = Fp8Linear
    converted = cast(Fp8Linear, layer)
    converted.precision, converted.torchao = None, None
    return converted


def _ends_in(name: str, ends: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{end}") for end in ends)

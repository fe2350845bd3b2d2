"""How a checkpoint lays out its mixture of experts: how many, in which layers, in what groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cotree.grpo.exporting.safetensors_stream import read_config
from cotree.grpo.stored_tensors import tensors_in

EXPERT = re.compile(r"(?P<layer>.+\.mlp)\.experts\.(?P<id>\d+)\.(?P<rest>.+)")
"""Matches the name of one expert's tensor."""
ROUTER, BIAS = ".gate.weight", ".gate.e_score_correction_bias"
"""What a layer's name is followed by: the router's rows and the bias of its choice."""

_ARCHITECTURES = ("qwen3_moe", "deepseek_v3")
_NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Names of one number: the hub's for Qwen3, transformers 5's for it, and DeepSeek's."""


@dataclass(frozen=True, slots=True)
class ExpertLayout:
    """The experts of a checkpoint; every layer with experts has the same number."""

    num_experts: int
    per_token: int
    groups: int
    """Of consecutive experts, as many in each. 1 of an architecture without groups."""
    groups_per_token: int
    """Groups that a token's experts may come from."""
    layers: tuple[str, ...]
    """Modules with experts, such as `model.layers.1.mlp`, a multi-token prediction module's too."""
    has_bias: bool
    """The router adds a bias of its own to an expert's score when it chooses (DeepSeek-V3)."""
    mtp_layers: tuple[str, ...] = ()
    """Those of `layers` that are multi-token prediction modules, behind the model's own layers."""

    def group(self, index: int) -> range:
        """Ids of the experts in a group."""
        size = self.num_experts // self.groups
        return range(index * size, (index + 1) * size)

    def resized(
        self, *, num_experts: int, per_token: int, groups: int, groups_per_token: int
    ) -> ExpertLayout:
        """The layout with other numbers.

        Raises:
            ValueError: a router cannot route with them.
        """
        if num_experts % groups:
            raise ValueError(
                f"{num_experts} experts do not divide into {groups} groups; their number must be a "
                f"multiple of {groups}."
            )
        size = num_experts // groups
        if per_token > size * groups_per_token:
            raise ValueError(
                f"a token is sent to {per_token} experts, and {num_experts} experts leave only "
                f"{size * groups_per_token} that it may use; keep more."
            )
        if groups > 1 and size < 2:
            raise ValueError(
                f"{num_experts} experts leave one in each of {groups} groups, and a group is "
                "scored by its two best; keep more."
            )
        return replace(
            self,
            num_experts=num_experts,
            per_token=per_token,
            groups=groups,
            groups_per_token=groups_per_token,
        )


def read_layout(folder: Path) -> ExpertLayout:
    """The layout of the checkpoint in `folder`.

    Raises:
        FileNotFoundError: it is no checkpoint.
        ValueError: it has no experts, is of another architecture than Qwen3-MoE and DeepSeek-V3, or
            its tensors are not what its config.json says.
    """
    config, stored = read_config(folder), tensors_in(folder)
    if config.get("model_type") not in _ARCHITECTURES:
        raise ValueError(
            f"{folder} is a {config.get('model_type')!r}; experts can be added to and removed from "
            f"{' and '.join(_ARCHITECTURES)}."
        )
    num_experts = next(int(config[key]) for key in _NUM_EXPERTS if key in config)
    found: dict[str, set[int]] = {}
    for name in stored.names():
        if match := EXPERT.fullmatch(name):
            found.setdefault(match["layer"], set()).add(int(match["id"]))
    if not found:
        raise ValueError(f"{folder} has no tensors of experts, one by one; nothing can be changed.")
    for layer, ids in found.items():
        rows = stored.shape(layer + ROUTER)[0]
        if ids != set(range(num_experts)) or rows != num_experts:
            raise ValueError(
                f"config.json says {num_experts} experts; {layer} has {len(ids)} and a router of "
                f"{rows}. The checkpoint is broken."
            )
    layers = tuple(sorted(found, key=_layer_order))
    num_own = int(config["num_hidden_layers"])
    return ExpertLayout(
        num_experts=num_experts,
        per_token=int(config["num_experts_per_tok"]),
        groups=int(config.get("n_group") or 1),
        groups_per_token=int(config.get("topk_group") or 1),
        layers=layers,
        has_bias=any(name.endswith(BIAS) for name in stored.names()),
        mtp_layers=tuple(layer for layer in layers if _layer_order(layer)[0] >= num_own),
    )


def with_layout(config: Mapping[str, Any], layout: ExpertLayout) -> dict[str, Any]:
    """config.json with the layout's numbers, under the names that it has already."""
    numbers = dict.fromkeys(_NUM_EXPERTS, layout.num_experts) | {
        "num_experts_per_tok": layout.per_token,
        "n_group": layout.groups,
        "topk_group": layout.groups_per_token,
    }
    # An architecture without groups may have them as null.
    return {key: value and numbers.get(key, value) for key, value in config.items()}


def by_layer(
    layout: ExpertLayout, loads: Mapping[str, Sequence[float]]
) -> dict[str, Sequence[float]]:
    """The loads of each layer's experts, from those of routers.

    A multi-token prediction module that was not trained, only carried along, has no router that was
    counted. It reads the states of the last layer with experts of the model's own, and gets the
    loads of that.

    Args:
        layout: whose layers.
        loads: tokens sent to each expert, by the router's name; what a wrapper (PEFT, DDP) puts in
            front of a name is ignored.

    Raises:
        ValueError: a layer's router is not there, is there twice, has another number of experts,
            or no token was counted.
    """
    own = [layer for layer in layout.layers if layer not in layout.mtp_layers]
    found: dict[str, Sequence[float]] = {}
    for layer in layout.layers:
        router = layer + ROUTER.removesuffix(".weight")
        names = [name for name in loads if f".{name}".endswith(f".{router}")]
        if not names and own and layer in layout.mtp_layers:
            found[layer] = found[own[-1]]
            continue
        if len(names) != 1 or len(loads[names[0]]) != layout.num_experts:
            raise ValueError(
                f"the loads need one entry for router {router}, with {layout.num_experts} numbers; "
                f"they have {names or 'none'}. Take those of a run of this model."
            )
        if not sum(loads[names[0]]) > 0:
            raise ValueError(
                f"the loads of router {names[0]} add up to {sum(loads[names[0]])}: nothing was "
                "counted. Take those of a run that trained this model."
            )
        found[layer] = loads[names[0]]
    return found


def _layer_order(layer: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", layer)]

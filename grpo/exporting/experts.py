r"""A checkpoint with more experts, or with fewer.

What of the model's function stays, for expert weights g_i, k experts a token, E experts:

copy_experts   All of it, but for rounding. With every expert N times and N k experts a token, the
               top N k are all copies of the old top k. Softmax scores become p_i / N, so the copies
               of an expert sum up to p_i, normalized over the top k or not. Sigmoid scores stay
               s_i: normalized, s_i / (N \sum s) N times is s_i / \sum s; not normalized, the sum is
               N s_i, for which `routed_scaling_factor` is divided by N. Groups are copied whole.
grow_experts   Not all: k stays, so a token that finds an expert and its copy in its top k gives
               both a place, and its k-th choice none. `dormant` keeps all of it.
remove_experts Tokens that chose a removed expert take their next choice. The others keep their
               experts. Their weights stay if these are normalized (`norm_topk_prob`) or sigmoids;
               softmax weights that are not normalized grow by 1 / (1 - p_removed). With groups, an
               expert that nobody chose may still have lifted its group among the best.

An exact copy gets the gradient of its original and never becomes different; `noise` on its row of
the router breaks the tie, and the equalities above then hold only as far as it is small.

Source: Komatsuzaki et al. 2022, arXiv:2212.05055 (sparse upcycling: experts start as copies);
    He et al. 2024, arXiv:2410.07524, sec. 3 (copies in groups with the router's rows, so that the
    function is kept).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from cotree.grpo.count_progress import CountProgress
from cotree.grpo.exporting.expert_choice import Sources, added, grown, repeated, without
from cotree.grpo.exporting.expert_layout import (
    BIAS,
    EXPERT,
    ROUTER,
    by_layer,
    read_layout,
    with_layout,
)
from cotree.grpo.exporting.safetensors_stream import (
    SHARD_BYTES,
    ShardWriter,
    copy_other_files,
    new_folder,
    read_config,
    write_json,
)
from cotree.grpo.seeds import derive
from cotree.grpo.stored_tensors import tensors_in

RECORD = "experts.json"
"""File of a changed checkpoint: for each layer, the old id of each expert, and the copies' ids."""
DORMANT_BELOW = 1.25
"""A dormant expert's bias is this far below the lowest. More than 1, the largest sigmoid, so that
its score and bias are below any other's; by a margin that bfloat16 keeps."""

_EditRows: TypeAlias = Callable[[str, Tensor], Tensor]
"""Of a layer's router or bias, by the tensor's name, the new rows."""


@dataclass(frozen=True, slots=True)
class ExpertChange:
    """What was written."""

    folder: Path
    num_before: int
    """Experts of a layer."""
    num_after: int
    per_token: int
    sources: Sources


def copy_experts(
    source: Path, target: Path, *, copies: int, noise: float, seed: int
) -> ExpertChange:
    """Writes checkpoint `source` to the new folder `target` with every expert `copies` times.

    A token uses `copies` times as many experts, and the model computes what it did; see the top.

    Args:
        source: folder of a Qwen3-MoE or a DeepSeek-V3.
        target: must not exist.
        copies: of an expert in the end, 2 or more.
        noise: standard deviation of what is added to the copies' rows of the router, as a share of
            the row's own root mean square; 0 keeps exact copies.
        seed: of the noise.

    Raises:
        FileExistsError: `target` exists.
        FileNotFoundError: `source` is no checkpoint.
        ValueError: an argument or the checkpoint cannot be used.
    """
    layout, config = read_layout(source), read_config(source)
    sources = repeated(layout, copies)
    grouped = copies if layout.groups > 1 else 1
    larger = layout.resized(
        num_experts=layout.num_experts * copies,
        per_token=layout.per_token * copies,
        groups=layout.groups * grouped,
        groups_per_token=layout.groups_per_token * grouped,
    )
    if config["model_type"] == "deepseek_v3" and not config.get("norm_topk_prob", True):
        config["routed_scaling_factor"] /= copies
    edit = _copies_edit(sources, noise=noise, seed=seed, dormant=False)
    _write(source, target, sources=sources, config=with_layout(config, larger), edit=edit)
    return ExpertChange(target, layout.num_experts, larger.num_experts, larger.per_token, sources)


def grow_experts(
    source: Path,
    target: Path,
    *,
    num_experts: int,
    loads: Mapping[str, Sequence[float]] | None,
    dormant: bool,
    noise: float,
    seed: int,
) -> ExpertChange:
    """Writes checkpoint `source` to the new folder `target` with copies of some experts.

    Args:
        source: folder of a Qwen3-MoE or a DeepSeek-V3.
        target: must not exist.
        num_experts: of a layer in the end.
        loads: tokens sent to each expert, by router; the busiest are copied. None: by id.
        dormant: gives the copies a bias so low that no token chooses them. The model computes what
            it did, until training with `learner.expert_bias_rate` above 0 has lifted them: each
            update by that rate, over a distance of some 1.25.
        noise: standard deviation of what is added to the copies' rows of the router, as a share of
            the row's own root mean square; 0 keeps exact copies.
        seed: of the noise.

    Raises:
        FileExistsError: `target` exists.
        FileNotFoundError: `source` is no checkpoint.
        ValueError: an argument or the checkpoint cannot be used; `dormant` and its routers have no
            bias.
    """
    layout = read_layout(source)
    if dormant and not layout.has_bias:
        raise ValueError(
            "dormant experts need routers with a bias, as DeepSeek-V3's; these have none."
        )
    larger = layout.resized(
        num_experts=num_experts,
        per_token=layout.per_token,
        groups=layout.groups,
        groups_per_token=layout.groups_per_token,
    )
    sources = grown(layout, num_experts, None if loads is None else by_layer(layout, loads))
    config = with_layout(read_config(source), larger)
    edit = _copies_edit(sources, noise=noise, seed=seed, dormant=dormant)
    _write(source, target, sources=sources, config=config, edit=edit)
    return ExpertChange(target, layout.num_experts, num_experts, layout.per_token, sources)


def remove_experts(
    source: Path, target: Path, *, removed: Mapping[str, Collection[int]]
) -> ExpertChange:
    """Writes checkpoint `source` to the new folder `target` without some experts.

    Args:
        source: folder of a Qwen3-MoE or a DeepSeek-V3.
        target: must not exist.
        removed: ids by layer, as many in each; see `least_loaded`.

    Raises:
        FileExistsError: `target` exists.
        FileNotFoundError: `source` is no checkpoint.
        ValueError: an id is not there, layers or groups lose different numbers, or too few are
            left for a token.
    """
    layout = read_layout(source)
    sources = without(layout, removed)
    num_left = len(sources[layout.layers[0]])
    smaller = layout.resized(
        num_experts=num_left,
        per_token=layout.per_token,
        groups=layout.groups,
        groups_per_token=layout.groups_per_token,
    )
    config = with_layout(read_config(source), smaller)
    _write(source, target, sources=sources, config=config, edit=lambda _, rows: rows)
    return ExpertChange(target, layout.num_experts, num_left, layout.per_token, sources)


def _write(
    source: Path, target: Path, *, sources: Sources, config: dict[str, Any], edit: _EditRows
) -> None:
    """Writes every tensor once, an expert's as often as it is a source."""
    stored = tensors_in(source)
    names = stored.names()
    with (
        new_folder(target) as folder,
        CountProgress("tensors", total=len(names), done=0) as progress,
    ):
        writer = ShardWriter(folder, shard_bytes=SHARD_BYTES)
        for name in names:
            tensor = stored.tensor(name)
            layer = name.removesuffix(ROUTER).removesuffix(BIAS)
            if match := EXPERT.fullmatch(name):
                for new, old in enumerate(sources[match["layer"]]):
                    if old == int(match["id"]):
                        copy = f"{match['layer']}.experts.{new}.{match['rest']}"
                        writer.add({copy: tensor.clone()})
            elif layer in sources and layer != name:
                writer.add({name: edit(name, tensor[list(sources[layer])])})
            else:
                writer.add({name: tensor})
            progress.add(1, name)
        writer.close()
        write_json(folder / "config.json", config)
        copy_other_files(source, folder)
        record = {"sources": sources, "copies": {layer: added(s) for layer, s in sources.items()}}
        write_json(folder / RECORD, record)


def _copies_edit(sources: Sources, *, noise: float, seed: int, dormant: bool) -> _EditRows:
    """What happens to the rows of copies: noise on the router's, a low bias for the dormant."""
    if not noise >= 0:
        raise ValueError(f"noise = {noise} must be 0 or more.")

    def edit(name: str, rows: Tensor) -> Tensor:
        if name.endswith(BIAS):
            if dormant:
                rows[added(sources[name.removesuffix(BIAS)])] = rows.min() - DORMANT_BELOW
            return rows
        layer = name.removesuffix(ROUTER)
        copies = added(sources[layer])
        if noise > 0:
            exact = rows[copies].float()
            generator = torch.Generator().manual_seed(derive(seed, layer))
            drawn = torch.randn(exact.shape, generator=generator)
            size = exact.square().mean(1, keepdim=True).sqrt()
            rows[copies] = (exact + noise * size * drawn).to(rows.dtype)
        return rows

    return edit

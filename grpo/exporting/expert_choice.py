"""Which experts are copied or removed: pure choices by id and load, no tensors.

A choice is written as `Sources`: for each layer, the old expert that each new one is taken from.
Groups of experts (DeepSeek-V3's `n_group`) are runs of consecutive ids, so every choice keeps an
expert's copies in its group and takes as many from each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TypeAlias

from cotree.grpo.exporting.expert_layout import ExpertLayout

Sources: TypeAlias = Mapping[str, tuple[int, ...]]
"""Layer -> the old id of each new expert, in the order of the new ids."""
Loads: TypeAlias = Mapping[str, Sequence[float]]
"""Layer -> tokens sent to each expert."""


def repeated(layout: ExpertLayout, copies: int) -> Sources:
    """Every expert `copies` times: expert e becomes e, e + E, e + 2E, and so on.

    Raises:
        ValueError: `copies` is not 2 or more.
    """
    if copies < 2:
        raise ValueError(f"copies = {copies} must be 2 or more: 1 changes nothing.")
    return dict.fromkeys(layout.layers, (*range(layout.num_experts),) * copies)


def grown(layout: ExpertLayout, num_experts: int, loads: Loads | None) -> Sources:
    """All experts, then in each group copies of some of its own, up to `num_experts`.

    Args:
        layout: of the checkpoint.
        num_experts: in the end, of each layer.
        loads: copies are made of the busiest, each once before any twice; None takes them by id.

    Raises:
        ValueError: there are as many already, or the new ones do not divide among the groups.
    """
    if num_experts <= layout.num_experts:
        raise ValueError(f"{num_experts} experts are not more than {layout.num_experts}.")
    per_group = _per_group(layout, num_experts - layout.num_experts, "added")
    sources: dict[str, tuple[int, ...]] = {}
    for layer in layout.layers:
        order: list[int] = []
        for group in map(layout.group, range(layout.groups)):
            first = group if loads is None else _by_load(group, loads[layer], busiest_first=True)
            order += [*group, *(first[i % len(first)] for i in range(per_group))]
        sources[layer] = tuple(order)
    return sources


def without(layout: ExpertLayout, removed: Mapping[str, Collection[int]]) -> Sources:
    """The experts that are left, in their order.

    Args:
        layout: of the checkpoint.
        removed: ids, by layer.

    Raises:
        ValueError: a layer or an id is not there, layers lose different numbers of experts, or
            groups do.
    """
    unknown = sorted(set(removed) - set(layout.layers))
    if unknown:
        raise ValueError(
            f"no layer {unknown[0]} has experts; those are {', '.join(layout.layers)}."
        )
    counts = {layer: len(set(removed.get(layer, ()))) for layer in layout.layers}
    if len(set(counts.values())) > 1:
        raise ValueError(
            "config.json holds one number of experts for all layers, so each must lose as many; "
            f"got {counts}."
        )
    sources: dict[str, tuple[int, ...]] = {}
    for layer in layout.layers:
        gone = set(removed.get(layer, ()))
        absent = sorted(gone - set(range(layout.num_experts)))
        if absent or not gone:
            what = f"no expert {absent[0]}" if absent else "nothing to remove"
            raise ValueError(f"{layer} has {what}; its experts are 0 to {layout.num_experts - 1}.")
        groups = [gone & set(layout.group(index)) for index in range(layout.groups)]
        if len({len(group) for group in groups}) > 1:
            raise ValueError(
                f"each of the {layout.groups} groups must lose as many experts, or others would "
                f"change group; {layer} loses {[len(group) for group in groups]}."
            )
        sources[layer] = tuple(i for i in range(layout.num_experts) if i not in gone)
    return sources


def least_loaded(layout: ExpertLayout, count: int, loads: Loads) -> dict[str, list[int]]:
    """The `count` experts of each layer, as many of each group, that got the fewest tokens.

    Source: Muzio et al. 2024, arXiv:2404.05089 (SEER-MoE), which prunes by such counts.

    Raises:
        ValueError: they do not divide among the groups.
    """
    per_group = _per_group(layout, count, "removed")
    return {
        layer: [
            expert
            for group in map(layout.group, range(layout.groups))
            for expert in _by_load(group, loads[layer], busiest_first=False)[:per_group]
        ]
        for layer in layout.layers
    }


def added(sources: Sequence[int]) -> list[int]:
    """New ids of one layer's copies: those whose source is there already."""
    return [new for new, old in enumerate(sources) if old in sources[:new]]


def _per_group(layout: ExpertLayout, count: int, what: str) -> int:
    if count < 1 or count % layout.groups:
        raise ValueError(
            f"{count} experts cannot be {what}: the number must be positive and, as a router's "
            f"groups are of one size, a multiple of its {layout.groups} groups."
        )
    return count // layout.groups


def _by_load(ids: range, loads: Sequence[float], *, busiest_first: bool) -> list[int]:
    """Ids by load; equal loads by id."""
    return sorted(ids, key=lambda i: (-loads[i] if busiest_first else loads[i], i))

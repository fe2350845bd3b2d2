"""Advantages from rollout trees: completions of one prompt that share prefixes.

Pure functions of the leaves' rewards and of the nodes that each leaf runs through. Computed in
float64, for the reason given in `grpo.advantage`.

A node n is a stretch of tokens, L(n) its leaves and V(n) = mean reward over L(n). The prompt is
the parent of every chain's first node, and its L has all leaves of the prompt. V(n) estimates the
value of the state after n without bias when forks were placed without looking at outcomes. A
search that goes where rewards are high has more leaves there, and its V are too high.

The tokens of n carry A(n) in every leaf of L(n), so in the step's loss they count once per leaf.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

from cotree.grpo.advantage import are_equal, outcome_advantages

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from cotree.grpo.types import Segment

Estimator = Literal["tree_grpo", "tree_rl", "vine", "sibling"]

_PROMPT = None
"""Stands for the prompt among node numbers."""

_Paths = list[list[tuple[int, int]]]
"""Per leaf, its nodes and where each ends."""


def tree_advantages(
    rewards: Sequence[float],
    segments: Sequence[Sequence[Segment]],
    lengths: Sequence[int],
    *,
    estimator: Estimator,
) -> list[Tensor]:
    """Advantages per token of the leaves of one prompt; higher is better.

        tree_grpo  z(r_i among the leaves of i's tree) + z(r_i among all leaves)
        tree_rl    A(n) = (V(n) - V(prompt) + V(n) - V(parent)) / sqrt(|L(n)|), of rewards less
                   the mean of the other leaves'
        vine       A(n) = V(n) - V(parent)
        sibling    A(n) = V(n) - mean(V of n's siblings); 0 without siblings

    with z(r) = (r - mean) / std. tree_grpo gives one advantage per leaf, the others one per node.
    Its two terms are added: the z-score of a z-score is another number. Its trees are the chains,
    that is, leaves with the same first node.

    Args:
        rewards: of the leaves, finite.
        segments: per leaf its nodes in order; none for a rollout alone, which is a node of its
            own below the prompt. A tree may have lost leaves: values are of those left.
        lengths: T_i, completion tokens of each leaf.
        estimator: which of the four.

    Returns:
        Per leaf [T_i] float64. Exactly zero where all rewards that are compared are equal.

    Raises:
        ValueError: the arguments disagree in length, a reward is not finite, or the segments
            are not those of a tree.

    Source: Ji et al. 2025, arXiv:2509.21240 (tree_grpo); Hou et al. 2025,
        arXiv:2506.11902 (tree_rl); Kazemnejad et al. 2024, arXiv:2410.01679 and Guo et
        al. 2025, arXiv:2505.23564 (vine); Yang et al. 2025, arXiv:2506.05183 (sibling groups, here
        against the mean of the others).
    """
    if not all(map(math.isfinite, rewards)):
        raise ValueError(f"rewards must be finite, got {list(rewards)}. Drop ungraded rollouts.")
    paths = _paths(segments, lengths)
    if estimator == "tree_grpo":
        scores = _added_z_scores(rewards, [path[0][0] for path in paths])
        return [
            score.expand(length) for score, length in zip(scores.unbind(), lengths, strict=True)
        ]
    if estimator == "tree_rl":
        credit = _tree_rl(rewards, paths)
    elif estimator == "vine":
        credit = _vine(rewards, paths)
    else:
        credit = _sibling(rewards, paths)
    return [_per_token(path, credit) for path in paths]


def node_values(
    rewards: Sequence[float], segments: Sequence[Sequence[Segment]]
) -> dict[int, float]:
    """V(n): the mean reward of the leaves below each node, by the node's number.

    Args:
        rewards: of the leaves of one prompt.
        segments: per leaf its nodes in order; a leaf without nodes counts nowhere.

    Source: Wang et al. 2023, arXiv:2312.08935 (soft estimation).
    """
    below: dict[int, list[float]] = {}
    for reward, path in zip(rewards, segments, strict=True):
        for segment in path:
            below.setdefault(segment.node, []).append(reward)
    return {node: _mean(values) for node, values in below.items()}


# --- estimators ------------------------------------------------------------------------------


def _added_z_scores(rewards: Sequence[float], trees: Sequence[int]) -> Tensor:
    """[B] z-score within the tree plus z-score among all leaves of the prompt."""
    values = torch.tensor(rewards, dtype=torch.float64)
    within = torch.tensor(trees, dtype=torch.int64)
    return sum(
        (
            outcome_advantages(values, labels, baseline="group_mean", scale="group_std")
            for labels in (within, torch.zeros_like(within))
        ),
        torch.zeros_like(values),
    )


def _tree_rl(rewards: Sequence[float], paths: _Paths) -> dict[int, float]:
    """Global plus local advantage of each node, shrunk where many leaves share it."""
    if len(rewards) == 1:  # no others to be compared with
        return {node: 0.0 for path in paths for node, _ in path}
    values = torch.tensor(rewards, dtype=torch.float64)
    everyone = torch.zeros(len(rewards), dtype=torch.int64)
    centered = outcome_advantages(values, everyone, baseline="leave_one_out", scale="none")
    below = _below(centered.tolist(), paths)
    value = {node: _mean(leaves) for node, leaves in below.items()}
    return {
        node: (2 * value[node] - value[_PROMPT] - value[parent]) / math.sqrt(len(below[node]))
        for node, parent in _parents(paths).items()
    }


def _vine(rewards: Sequence[float], paths: _Paths) -> dict[int, float]:
    value = {node: _mean(leaves) for node, leaves in _below(rewards, paths).items()}
    return {node: value[node] - value[parent] for node, parent in _parents(paths).items()}


def _sibling(rewards: Sequence[float], paths: _Paths) -> dict[int, float]:
    value = {node: _mean(leaves) for node, leaves in _below(rewards, paths).items()}
    parents = _parents(paths)
    children: dict[int | None, list[int]] = {}
    for node, parent in parents.items():
        children.setdefault(parent, []).append(node)
    credit: dict[int, float] = {}
    for node, parent in parents.items():
        others = [value[sibling] for sibling in children[parent] if sibling != node]
        credit[node] = value[node] - _mean(others) if others else 0.0
    return credit


# --- the tree --------------------------------------------------------------------------------


def _paths(segments: Sequence[Sequence[Segment]], lengths: Sequence[int]) -> _Paths:
    """The leaves' nodes; a rollout alone becomes a node with a number that is not taken."""
    free = min((segment.node for path in segments for segment in path), default=0) - 1
    paths: _Paths = []
    for path, length in zip(segments, lengths, strict=True):
        ends = [0, *(segment.end for segment in path)]
        if path and (ends != sorted(ends) or ends[-1] != length):
            raise ValueError(
                f"the segments of a completion of {length} tokens end at {ends[1:]}; they must "
                f"rise to {length}."
            )
        if path:
            paths.append([(segment.node, segment.end) for segment in path])
        else:
            paths.append([(free, length)])
            free -= 1
    return paths


def _parents(paths: _Paths) -> dict[int, int | None]:
    """The node before each node.

    Raises:
        ValueError: a node follows two different nodes, or ends in two places.
    """
    places: dict[int, tuple[int | None, int]] = {}
    for path in paths:
        parent: int | None = _PROMPT
        for node, end in path:
            if places.setdefault(node, (parent, end)) != (parent, end):
                raise ValueError(
                    f"node {node} follows node {places[node][0]} and ends at token "
                    f"{places[node][1]} in one completion, but follows {parent} and ends at {end} "
                    "in another; nodes must be numbered uniquely within a group."
                )
            parent = node
    return {node: parent for node, (parent, _) in places.items()}


def _below(rewards: Sequence[float], paths: _Paths) -> dict[int | None, list[float]]:
    """The rewards of each node's leaves; the prompt has them all."""
    below: dict[int | None, list[float]] = {_PROMPT: list(rewards)}
    for reward, path in zip(rewards, paths, strict=True):
        for node, _ in path:
            below.setdefault(node, []).append(reward)
    return below


def _mean(values: Sequence[float]) -> float:
    """The mean; of equal values exactly that value, where a rounded sum might miss it."""
    return values[0] if are_equal(values) else math.fsum(values) / len(values)


def _per_token(path: Sequence[tuple[int, int]], credit: Mapping[int, float]) -> Tensor:
    """[T_i] float64: each token's node's advantage."""
    ends = torch.tensor([end for _, end in path])
    values = torch.tensor([credit[node] for node, _ in path], dtype=torch.float64)
    return values.repeat_interleave(ends.diff(prepend=torch.zeros(1, dtype=ends.dtype)))

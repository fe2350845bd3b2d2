"""Advantages from rewards (one per rollout) and from step scores (one per token).

Pure functions. B rollouts, T_i completion tokens of rollout i. Computed in float64: a float32
mean of equal rewards need not equal them, and dividing by the resulting spread would turn
rounding into advantages of +-1.

Standard deviations are of the population (divide by n, not n - 1): the papers write std(r) of the
group, and the group is all there is. Scaled advantages then have mean square exactly 1 whatever
the group's size. TRL and verl divide by n - 1, which makes theirs sqrt((n - 1) / n) times ours.
No epsilon is added to it: a group whose values are all equal gets exactly zero instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

Baseline = Literal["group_mean", "leave_one_out", "batch_mean"]
Scale = Literal["none", "group_std", "batch_std"]

ROUNDING = 1e-9
"""Values whose spread is below this share of the largest are equal but for float additions."""


def outcome_advantages(
    rewards: Tensor, groups: Tensor, *, baseline: Baseline, scale: Scale
) -> Tensor:
    """How much better each rollout did than its baseline; higher is better.

        group_mean     r_i - mean(r of i's group)
        leave_one_out  r_i - mean(r of the others in i's group) = n / (n - 1) * (r_i - group mean)
        batch_mean     r_i - mean(r)

        none           as it is
        group_std      divided by std(r of i's group)
        batch_std      divided by std over the batch of what the baseline left

    Args:
        rewards: [B] finite.
        groups: [B] int64, equal for the rollouts of one problem; any numbering, any order.
        baseline: what to subtract. group_mean's expected gradient is (n - 1) / n of the true one,
            for the reward is in its own baseline; leave_one_out's is the true one.
        scale: what to divide by. Where it is zero, so are the advantages.

    Returns:
        [B] in the rewards' dtype. Exactly zero where nothing distinguishes the rollouts.

    Raises:
        ValueError: shapes disagree, a reward is not finite, or leave_one_out meets a group of one.

    Source: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.2 (group_mean, group_std); Liu et al.
        2025, arXiv:2503.20783 (group_mean, none); Ahmadian et al. 2024, arXiv:2402.14740, eq. 9
        (leave_one_out); Hu 2025, arXiv:2501.03262 (batch_mean or group_mean, batch_std).
    """
    if rewards.ndim != 1 or groups.shape != rewards.shape:
        raise ValueError(
            f"rewards and groups must both be [B]; got {tuple(rewards.shape)} and "
            f"{tuple(groups.shape)}."
        )
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError(f"rewards must be finite, got {rewards.tolist()}. Drop ungraded rollouts.")
    values = rewards.to(torch.float64)
    members = [groups == label for label in groups.unique().tolist()]
    centered = _minus_baseline(values, members, baseline)
    spread = torch.ones_like(centered)
    if scale == "group_std":
        for rows in members:
            spread[rows] = _std(values[rows])
    elif scale == "batch_std":
        spread[:] = _std(centered)
    advantages = torch.where(spread > 0, centered / spread, torch.zeros_like(centered))
    return advantages.to(rewards.dtype)


def process_advantages(
    step_values: Sequence[Sequence[float]],
    step_last_tokens: Sequence[Sequence[int]],
    lengths: Sequence[int],
    groups: Sequence[int],
    *,
    discount: float,
) -> list[Tensor]:
    """Advantages per token from scores of reasoning steps; higher is better.

        v'_ij = (v_ij - mean(v)) / std(v)         over all steps of all rollouts of i's group
        A_it  = sum over k >= j of discount^(k - j) * v'_ik

    where j is the first step that ends at or after token t. So a token is credited with the step
    it helped to write and, discounted, with those that follow, never with those before it. Steps
    that end in the same token count as one, of their summed v'. Equal scores throughout a group
    give exactly zero.

    `discount` 1 is the paper's sum. With scores that judge each step by itself, that sum pays a
    wrong step for the right ones after it, and a long completion for its length; 0 credits each
    token with its own step alone.

    Args:
        step_values: per rollout, the score of each step. A rollout may have none.
        step_last_tokens: per rollout, the index in the completion of each step's last token.
        lengths: T_i, completion tokens of each rollout.
        groups: equal for the rollouts whose steps are compared: those of one problem or, to keep
            steps from trading against the outcome, those of one problem and one outcome.
        discount: per step, in [0, 1].

    Returns:
        Per rollout [T_i] float64. Zeros for a rollout without steps.

    Raises:
        ValueError: the arguments disagree in length, a value is not finite, or steps are out of
            order or outside the completion.

    Source: Shao et al. 2024, arXiv:2402.03300, sec. 4.1.3; arXiv:2604.02341 (within an outcome).
    """
    rollouts = list(zip(step_values, step_last_tokens, lengths, groups, strict=True))
    by_group: dict[int, list[float]] = {}
    for values, last_tokens, length, group in rollouts:
        _check_steps(values, last_tokens, length)
        by_group.setdefault(group, []).extend(values)
    moments = {group: _moments(values) for group, values in by_group.items()}

    advantages: list[Tensor] = []
    for values, last_tokens, length, group in rollouts:
        mean, std = moments[group]
        per_token = torch.zeros(length, dtype=torch.float64)
        ending: dict[int, float] = {}
        for value, last in zip(values, last_tokens, strict=True):
            ending[last] = ending.get(last, 0.0) + ((value - mean) / std if std > 0 else 0.0)
        credit = 0.0
        first_tokens = [0, *(token + 1 for token in ending)][: len(ending)]
        for first, last in reversed(list(zip(first_tokens, ending, strict=True))):
            credit = discount * credit + ending[last]
            per_token[first : last + 1] = credit
        advantages.append(per_token)
    return advantages


def are_equal(values: Sequence[float]) -> bool:
    """Whether the values differ by no more than rounding, so that no gradient comes of them."""
    return max(values) - min(values) <= ROUNDING * max(map(abs, values)) if values else True


def _minus_baseline(values: Tensor, members: Sequence[Tensor], baseline: Baseline) -> Tensor:
    """[B] values less their baseline; exactly zero where all that enter it are equal."""
    if baseline == "batch_mean":
        return _centered(values)
    centered = torch.empty_like(values)
    for rows in members:
        size = int(rows.sum())
        if baseline == "leave_one_out" and size < 2:
            raise ValueError(
                'baseline = "leave_one_out" needs at least 2 graded rollouts in each group, one '
                f"group has {size}. Drop such groups first (split_ungraded with min_size=2)."
            )
        factor = size / (size - 1) if baseline == "leave_one_out" else 1.0
        centered[rows] = factor * _centered(values[rows])
    return centered


def _centered(values: Tensor) -> Tensor:
    """[n] values less their mean, exactly zero when they are equal."""
    if are_equal(values.tolist()):
        return torch.zeros_like(values)
    return values - values.mean()


def _std(values: Tensor) -> Tensor:
    """Population standard deviation, exactly zero when the values are equal."""
    return _centered(values).square().mean().sqrt() if len(values) else values.sum()


def _moments(values: Sequence[float]) -> tuple[float, float]:
    """Mean and population standard deviation."""
    tensor = torch.tensor(values, dtype=torch.float64)
    return (math.fsum(values) / len(values) if values else 0.0), float(_std(tensor))


def _check_steps(values: Sequence[float], last_tokens: Sequence[int], length: int) -> None:
    """Raises unless there is one last token per step, in order and inside the completion."""
    if len(values) != len(last_tokens):
        raise ValueError(f"{len(values)} step values but {len(last_tokens)} last tokens.")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"step values must be finite, got {list(values)}.")
    inside = all(0 <= token < length for token in last_tokens)
    if not inside or list(last_tokens) != sorted(last_tokens):
        raise ValueError(
            f"step_last_tokens must rise within 0..{length - 1}, got {list(last_tokens)}."
        )

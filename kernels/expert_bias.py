"""Balancing a mixture of experts by a bias on the choice of experts, without an auxiliary loss.

E experts. A router picks a token's experts by score + bias and weighs them by score alone, so a
bias moves tokens between experts and puts no gradient into the model.
"""

from __future__ import annotations

import torch
from torch import Tensor


def updated_bias(bias: Tensor, loads: Tensor, *, rate: float) -> Tensor:
    """The bias after one step towards an even load.

        b_i + rate * sign(mean_j load_j - load_i)

    A step has the same length however far a load is from the mean. The mean of the bias may
    drift, which changes no choice; torchtitan takes it out of each step, the paper does not.

    Args:
        bias: [E] float32 or float64. Not changed.
        loads: [E] tokens sent to each expert since the last step, over the whole batch of all
            processes; any dtype. Only their order around the mean counts, not their unit.
        rate: length of a step, >= 0; gamma in DeepSeek-V3, u in Wang et al.

    Returns:
        [E] a new tensor, without gradient.

    Raises:
        ValueError: the shapes differ, or the bias has too few bits for a step: 1 + 0.001 is 1 in
            bfloat16.

    Source: Wang et al. 2024, arXiv:2408.15664, algorithm 1; DeepSeek-AI 2024, arXiv:2412.19437,
        sec. 2.1.2.
    """
    if bias.ndim != 1 or bias.shape != loads.shape:
        raise ValueError(
            "updated_bias needs bias [E] and loads [E]; "
            f"got {tuple(bias.shape)} and {tuple(loads.shape)}."
        )
    if bias.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"keep the bias in float32, not {bias.dtype}, which rounds steps away.")
    loads = loads.detach().to(torch.float64)
    return bias.detach() + rate * torch.sign(loads.mean() - loads).to(bias.dtype)


def max_violation(loads: Tensor) -> float:
    """How far the busiest expert is above an even share: max load / mean load - 1; 0 is even.

    With k experts a token the largest value is E / k - 1.

    Args:
        loads: [E] tokens sent to each expert; any dtype.

    Raises:
        ValueError: no token was counted, so there is no share.

    Source: Wang et al. 2024, arXiv:2408.15664, sec. 4.1 (MaxVio).
    """
    loads = loads.detach().to(torch.float64)
    if not float(loads.sum()) > 0:
        raise ValueError("max_violation needs the loads of one token or more; none was counted.")
    return float(loads.max() / loads.mean()) - 1.0

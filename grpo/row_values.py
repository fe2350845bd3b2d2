"""What a text would teach a model: how uncertain the model is on it, and how far it would move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cotree.grpo.collate import rows_at
from cotree.grpo.types import Batch


class RowValue(NamedTuple):
    """Of one row of a batch, under the weights as they are."""

    entropy: float
    """Mean over its trained tokens of the next-token entropy, in nats."""
    gradient_norm: float
    """Euclidean norm, over all trained parameters, of the gradient of its mean cross-entropy."""


def row_values(
    batch: Batch,
    score: Callable[[Batch], tuple[Tensor, Tensor]],
    parameters: Sequence[nn.Parameter],
) -> list[RowValue]:
    """Values of each row by itself: one forward and one backward pass a row, no optimizer step.

    Args:
        batch: B rows on the model's device.
        score: [B, S] log-probabilities, which carry a gradient, and entropy of a batch.
        parameters: those that are trained; their gradients are None before and after.

    Source: Paul et al. 2021, arXiv:2107.07075, definition 2.1 (GraNd), at the starting weights.
    """
    values: list[RowValue] = []
    for row in range(len(batch.lengths)):
        one = rows_at(batch, torch.tensor([row], device=batch.lengths.device))
        share = one.mask / one.mask.sum().clamp(min=1)
        logprobs, entropy = score(replace(one, weights=share))
        (-(logprobs * share).sum()).backward()
        norms = [p.grad.detach().norm() for p in parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())
        for parameter in parameters:
            parameter.grad = None
        values.append(RowValue(float((entropy.detach() * share).sum()), float(norm)))
    return values

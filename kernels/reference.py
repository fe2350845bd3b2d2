"""What the kernels must compute, written as plainly as possible. For tests and for readers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None,
    temperature: float,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The same as `token_logprobs.token_logprobs`, in the arguments' dtype, with [N, V] logits.

    Args:
        hidden: [N, D].
        weight: [V, D].
        targets: [N] int64.
        bias: [V] or None.
        temperature: divides the logits.
        logit_scale: multiplies the logits.

    Returns:
        logprobs [N] and entropy [N] in nats, differentiable by autograd.
    """
    logits = hidden @ weight.T
    if bias is not None:
        logits = logits + bias
    log_p = torch.log_softmax(logits * logit_scale / temperature, -1)
    return log_p[torch.arange(len(targets)), targets], -(log_p.exp() * log_p).sum(-1)

"""Log-probabilities of given tokens from hidden states, without the [N, V] logits in memory.

N tokens, D model width, V vocabulary. A language-model head makes N * V logits of which training
reads N. Here they exist for `chunk_tokens` tokens at a time; the backward pass makes them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

if TYPE_CHECKING:
    from torch import Tensor


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None,
    temperature: float,
    chunk_tokens: int,
    logit_scale: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target, and the entropy of the distribution it came from.

        z        = (hidden @ weight.T + bias) * logit_scale / temperature
        logprobs = z[target] - logsumexp(z)
        entropy  = -sum_v softmax(z)_v * log softmax(z)_v

    The matrix products run in hidden's dtype, with weight and bias cast to it and autocast off:
    the caller picks the arithmetic by casting `hidden`. Everything after them is float32 (float64
    for a float64 `hidden`), and the weight's gradient adds up over chunks in that precision.
    Both results are differentiable once, exactly, in hidden, weight and bias.

    Args:
        hidden: [N, D] states that predict the targets; any float dtype. N may be 0.
        weight: [V, D] the head; float32 master weights beside a bfloat16 `hidden` are fine.
        targets: [N] int64 in [0, V).
        bias: [V] of the head, or None.
        temperature: > 0; what the sampler divided its logits by.
        chunk_tokens: tokens whose logits exist at once, >= 1, as at most three [chunk_tokens, V]
            tensors. The result depends on it only through the order of float additions.
        logit_scale: constant that some architectures multiply their logits by.

    Returns:
        logprobs [N] and entropy [N] in nats, float32 (float64 for float64).

    Raises:
        ValueError: shapes or dtypes disagree, or temperature or chunk_tokens is not positive.

    Source: recomputation as in Chen et al. 2016, arXiv:1604.06174; the chunked head follows
        Hsu et al. 2024, arXiv:2410.10989 (Liger's fused linear cross-entropy).
    """
    _check(hidden, weight, targets, bias)
    if not temperature > 0 or chunk_tokens < 1:
        raise ValueError(
            f"temperature = {temperature} must be > 0 and chunk_tokens = {chunk_tokens} >= 1."
        )
    scale = logit_scale / temperature
    logprobs, entropy = _TokenLogprobs.apply(hidden, weight, targets, bias, scale, chunk_tokens)  # pyright: ignore[reportGeneralTypeIssues]
    return logprobs, entropy


class _TokenLogprobs(torch.autograd.Function):
    """Saves the inputs and two numbers per token; recomputes each chunk's logits in backward."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context has no public type
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        scale: float,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        precise = torch.promote_types(hidden.dtype, torch.float32)
        logprobs, entropy, logsumexp = hidden.new_empty((3, len(targets)), dtype=precise)
        head, head_bias = _cast(weight, bias, hidden.dtype)
        for rows in _chunks(len(targets), chunk_tokens):
            z = _scaled_logits(hidden[rows], head, head_bias, scale, precise)
            logsumexp[rows] = torch.logsumexp(z, -1)
            # log-probabilities in place of z: entropy from z itself cancels when z is large.
            z -= logsumexp[rows].unsqueeze(-1)
            logprobs[rows] = z.gather(-1, targets[rows].unsqueeze(-1)).squeeze(-1)
            entropy[rows] = -z.exp().mul_(z).sum(-1)
        ctx.save_for_backward(hidden, weight, targets, bias, logsumexp, entropy)
        ctx.scale, ctx.chunk_tokens = scale, chunk_tokens
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad_logprobs: Tensor,
        grad_entropy: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, None, Tensor | None, None, None]:
        hidden, weight, targets, bias, logsumexp, entropy = ctx.saved_tensors
        precise = logsumexp.dtype
        head, head_bias = _cast(weight, bias, hidden.dtype)
        needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad[:4]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=precise) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=precise) if needs_bias else None
        for rows in _chunks(len(targets), ctx.chunk_tokens):
            z = _scaled_logits(hidden[rows], head, head_bias, ctx.scale, precise)
            z -= logsumexp[rows].unsqueeze(-1)  # log p
            p = z.exp()
            # d logprob / dz = onehot - p;   d entropy / dz = -p * (log p + entropy)
            z += entropy[rows].unsqueeze(-1)
            z *= -grad_entropy[rows].unsqueeze(-1)
            z -= grad_logprobs[rows].unsqueeze(-1)
            z *= p
            z.scatter_add_(-1, targets[rows].unsqueeze(-1), grad_logprobs[rows].unsqueeze(-1))
            z *= ctx.scale
            with torch.autocast(hidden.device.type, enabled=False):
                grad_logits = z.to(hidden.dtype)
                if grad_hidden is not None:
                    grad_hidden[rows] = grad_logits @ head
                if grad_weight is not None:
                    _add_product(grad_weight, grad_logits.T, hidden[rows])
                if grad_bias is not None:
                    grad_bias += z.sum(0)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left [V, n] @ right [n, D] to total [V, D], without a second tensor of its size."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
        return
    size = max(1, left.numel() // right.shape[1])
    for start in range(0, len(total), size):
        rows = slice(start, start + size)
        total[rows] += left[rows] @ right


def _scaled_logits(
    hidden: Tensor, head: Tensor, bias: Tensor | None, scale: float, precise: torch.dtype
) -> Tensor:
    """A fresh [n, V] tensor of scaled logits, product in hidden's dtype, result in `precise`."""
    with torch.autocast(hidden.device.type, enabled=False):
        return functional.linear(hidden, head, bias).to(precise).mul_(scale)


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to(dtype), None if bias is None else bias.to(dtype)


def _chunks(num_tokens: int, chunk_tokens: int) -> list[slice]:
    return [slice(start, start + chunk_tokens) for start in range(0, num_tokens, chunk_tokens)]


def _check(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> None:
    fits = (
        hidden.ndim == weight.ndim == 2
        and hidden.shape[1] == weight.shape[1]
        and targets.shape == hidden.shape[:1]
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        got = [None if t is None else tuple(t.shape) for t in (hidden, weight, targets, bias)]
        raise ValueError(
            "token_logprobs needs hidden [N, D], weight [V, D], targets [N], bias [V] or None; "
            f"got {got}."
        )
    if targets.dtype != torch.int64:
        raise ValueError(f"targets must be int64 token ids, got {targets.dtype}.")

"""Log-probabilities of given tokens from hidden states, without the [N, V] logits in memory.

N tokens, D model width, V vocabulary. A language-model head makes N * V logits of which training
reads N. Here they exist for `chunk_tokens` tokens at a time; the backward pass makes them again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable

from cotree.kernels.dispatch import backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    RowStatistics = Callable[[Tensor, Tensor, float], Tensor]
    GradientInPlace = Callable[[Tensor, Tensor, Tensor, float, Tensor | None], None]

TEMPORARY = {"cpu": 1 << 20, "cuda": 1 << 24}
"""Numbers that a temporary tensor has at most, unless one row has more. On a CPU few enough to stay
in the cache; on a GPU so many that starting its kernels takes little of their time."""
FLOOR = -1000.0
"""Nats below which exp is 0; instead of -inf, because 0 * -inf is nan."""


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
    Both results are differentiable once, exactly, in hidden, weight and bias. On a GPU Triton
    scores float32 and bfloat16; float16 and float64 are torch's, whatever `dispatch` would choose.

    Args:
        hidden: [N, D] states that predict the targets; any float dtype. N may be 0.
        weight: [V, D] the head; float32 master weights beside a bfloat16 `hidden` are fine.
        targets: [N] int64 in [0, V).
        bias: [V] of the head, or None.
        temperature: > 0; what the sampler divided its logits by.
        chunk_tokens: tokens whose logits exist at once, >= 1, as one [chunk_tokens, V] tensor of
            hidden's dtype. The result depends on it only through the order of float additions.
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
        row_statistics, ctx.gradient_in_place = _softmax_on(hidden)
        precise = torch.promote_types(hidden.dtype, torch.float32)
        statistics = hidden.new_empty((3, len(targets)), dtype=precise)
        for rows, logits in _chunks_of_logits(hidden, *_cast(weight, bias, hidden), chunk_tokens):
            statistics[:, rows] = row_statistics(logits, targets[rows], scale)
        logprobs, entropy, logsumexp = statistics
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
        hidden, weight, _, bias, logsumexp, entropy = ctx.saved_tensors
        needs_hidden, needs_weight, _, needs_bias = ctx.needs_input_grad[:4]
        precise = logsumexp.dtype
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=precise) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=precise) if needs_bias else None
        per_row = torch.stack((logsumexp, entropy, grad_logprobs, grad_entropy))
        _add_gradients(ctx, per_row, grad_hidden, grad_weight, grad_bias)
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
            None if grad_bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _add_gradients(
    ctx: Any,  # noqa: ANN401
    per_row: Tensor,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
    grad_bias: Tensor | None,
) -> None:
    """Adds to the gradients that are wanted. The logits and the cast head are gone afterwards."""
    hidden, weight, targets, bias, _, _ = ctx.saved_tensors
    head, head_bias = _cast(weight, bias, hidden)
    for rows, logits in _chunks_of_logits(hidden, head, head_bias, ctx.chunk_tokens):
        ctx.gradient_in_place(logits, targets[rows], per_row[:, rows], ctx.scale, grad_bias)
        with torch.autocast(hidden.device.type, enabled=False):
            if grad_hidden is not None:
                torch.mm(logits, head, out=grad_hidden[rows])
            if grad_weight is not None:
                _add_product(grad_weight, logits.T, hidden[rows])


def _softmax_on(hidden: Tensor) -> tuple[RowStatistics, GradientInPlace]:
    """How a chunk's logits are scored and turned to their gradient: by Triton or by torch."""
    fits = hidden.dtype in (torch.float32, torch.bfloat16)
    if fits and backend("token_logprobs", hidden) == "triton":
        from cotree.kernels import triton_head  # noqa: PLC0415 - Triton need not be installed

        return triton_head.row_statistics, triton_head.gradient_in_place
    return _row_statistics, _gradient_in_place


def _row_statistics(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """[3, n]: log-probability of the target, entropy and logsumexp of rows of scale * logits.

    Logits that are precise already are overwritten.
    """
    precise = torch.promote_types(logits.dtype, torch.float32)
    statistics = logits.new_empty((3, len(logits)), dtype=precise)
    for rows in _blocks(logits):
        z = logits[rows].to(precise).mul_(scale)
        logprobs, entropy, logsumexp = statistics[:, rows]
        torch.logsumexp(z, -1, out=logsumexp)
        # log-probabilities in place of z: entropy from z itself cancels when z is large.
        z -= logsumexp.unsqueeze(-1)
        torch.gather(z, -1, targets[rows].unsqueeze(-1), out=logprobs.unsqueeze(-1))
        z.clamp_(min=FLOOR)
        torch.sum(z.exp().mul_(z), -1, out=entropy).neg_()
    return statistics


def _gradient_in_place(
    logits: Tensor, targets: Tensor, per_row: Tensor, scale: float, grad_bias: Tensor | None
) -> None:
    """Overwrites logits [n, V] with the loss's gradient in them, and adds up the bias's.

    `per_row` is [4, n]: logsumexp, entropy, and the gradients of log-probability and entropy.
    """
    for rows in _blocks(logits):
        z = logits[rows].to(per_row.dtype).mul_(scale)
        logsumexp, entropy, grad_logprobs, grad_entropy = per_row[:, rows].unsqueeze(-1)
        z -= logsumexp  # log p
        z.clamp_(min=FLOOR)
        p = z.exp()
        # d logprob / dz = onehot - p;   d entropy / dz = -p * (log p + entropy)
        z += entropy
        z *= -grad_entropy
        z -= grad_logprobs
        z *= p
        z.scatter_add_(-1, targets[rows].unsqueeze(-1), grad_logprobs)
        z *= scale
        if grad_bias is not None:
            grad_bias += z.sum(0)
        if z.dtype != logits.dtype:
            logits[rows] = z


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Adds left [V, n] @ right [n, D] to total [V, D], without a second tensor of its size."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
        return
    for rows in _blocks(total):
        total[rows] += left[rows] @ right


def _chunks_of_logits(
    hidden: Tensor, head: Tensor, bias: Tensor | None, chunk_tokens: int
) -> Iterator[tuple[slice, Tensor]]:
    """Rows and their unscaled logits [n, V] in hidden's dtype, always in the same memory."""
    memory = hidden.new_empty((min(len(hidden), chunk_tokens), len(head)))
    for rows in _chunks(len(hidden), chunk_tokens):
        logits = memory[: len(hidden[rows])]
        with torch.autocast(hidden.device.type, enabled=False):
            if bias is None:
                torch.mm(hidden[rows], head.T, out=logits)
            else:
                torch.addmm(bias, hidden[rows], head.T, out=logits)
        yield rows, logits


def _cast(weight: Tensor, bias: Tensor | None, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
    return weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)


def _chunks(length: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, length, size)]


def _blocks(matrix: Tensor) -> list[slice]:
    """Rows of a matrix that a temporary tensor may have at once."""
    size = TEMPORARY.get(matrix.device.type, TEMPORARY["cuda"]) // matrix.shape[1]
    return _chunks(len(matrix), max(1, size))


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

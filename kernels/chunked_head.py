"""Any per-token score of a language-model head, without the [N, V] logits in memory.

N tokens, D model width, V vocabulary, n tokens of one chunk. `token_logprobs` is the same idea
with its gradient written out; here the score is the caller's and autograd differentiates it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


def chunked_head(
    hidden: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    score: Callable[[Tensor, slice], tuple[Tensor, ...]],
    chunk_tokens: int,
    logit_scale: float = 1.0,
) -> tuple[Tensor, ...]:
    """What `score` makes of every token's logits, `chunk_tokens` tokens at a time.

        logits    = (hidden @ weight.T + bias) * logit_scale
        result[k] = concatenation over chunks of score(logits[chunk], chunk)[k]

    The matrix products run in hidden's dtype, with weight and bias cast to it and autocast off:
    the caller picks the arithmetic by casting `hidden`. The logits are float32 (float64 for a
    float64 `hidden`), and the weight's gradient adds up over chunks in that precision. The
    backward pass makes a chunk's logits and its score again. Differentiable once, exactly, in
    hidden, weight, bias and whatever else `score` reads.

    Args:
        hidden: [N, D] states that predict the tokens; any float dtype. N may be 0.
        weight: [V, D] the head; float32 master weights beside a bfloat16 `hidden` are fine.
        bias: [V] of the head, or None.
        score: takes a chunk's logits [n, V] and the chunk, a slice of the N tokens; returns
            tensors [n]. Pure: it is called again in the backward pass, without the random state
            of the first time. With N = 0 it is called once, with no tokens.
        chunk_tokens: tokens whose logits exist at once, >= 1: at most three [chunk_tokens, V]
            tensors besides those of `score`. It changes the order of float additions alone.
        logit_scale: constant that some architectures multiply their logits by.

    Returns:
        Tensors [N], as many as `score` returns, in the dtype that it returns.

    Raises:
        ValueError: shapes disagree, those that `score` returns included, or chunk_tokens < 1.

    Source: recomputation as in Chen et al. 2016, arXiv:1604.06174.
    """
    _check(hidden, weight, bias)
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens = {chunk_tokens} must be >= 1.")
    # Cast once: a chunk's own cast would cost about as much as its matrix product.
    head = weight.detach().to(hidden.dtype)
    head_bias = None if bias is None else bias.detach().to(hidden.dtype)

    def scored(hidden_chunk: Tensor, chunk: slice) -> tuple[Tensor, ...]:
        logits: Tensor = _Logits.apply(hidden_chunk, weight, bias, head, head_bias, logit_scale)  # pyright: ignore[reportAssignmentType]
        # Copies: a result that is a view of the logits would keep them all.
        return tuple(result.clone() for result in score(logits, chunk))

    parts: list[tuple[Tensor, ...]] = []
    for start in range(0, max(len(hidden), 1), chunk_tokens):
        chunk = slice(start, min(start + chunk_tokens, len(hidden)))
        made: Any = checkpoint(
            scored, hidden[chunk], chunk, use_reentrant=False, preserve_rng_state=False
        )
        _check_scores(made, chunk)
        parts.append(made)
    return tuple(torch.cat(results) for results in zip(*parts, strict=True))


class _Logits(torch.autograd.Function):
    """Scaled logits of one chunk, from the cast head; the gradient goes to the master weights.

    Through the cast itself, the chunks' gradients would add up in the lower precision.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context has no public type
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        head: Tensor,
        head_bias: Tensor | None,
        scale: float,
    ) -> Tensor:
        ctx.save_for_backward(hidden, head)
        ctx.scale, ctx.weight_dtype = scale, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            product = functional.linear(hidden, head, head_bias)
        precise = torch.promote_types(hidden.dtype, torch.float32)
        return product.to(precise).mul_(scale)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad_logits: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        hidden, head = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = grad_weight = grad_bias = None
        with torch.autocast(hidden.device.type, enabled=False):
            grad_product = grad_logits.to(hidden.dtype)
            # Scaling the small results spares a scaled copy of the [n, V] gradient.
            if needs_hidden:
                grad_hidden = (grad_product @ head).mul_(ctx.scale)
            if needs_weight:
                grad_weight = (grad_product.T @ hidden).to(ctx.weight_dtype).mul_(ctx.scale)
            grad_bias = (
                grad_logits.sum(0).mul_(ctx.scale).to(ctx.bias_dtype) if needs_bias else None
            )
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _check(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    fits = (
        hidden.ndim == weight.ndim == 2
        and hidden.shape[1] == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        got = [None if t is None else tuple(t.shape) for t in (hidden, weight, bias)]
        raise ValueError(
            f"chunked_head needs hidden [N, D], weight [V, D], bias [V] or None; got {got}."
        )


def _check_scores(made: tuple[Tensor, ...], chunk: slice) -> None:
    shapes = [tuple(result.shape) for result in made]
    if any(shape != (chunk.stop - chunk.start,) for shape in shapes):
        raise ValueError(
            f"score must return one number per token, [{chunk.stop - chunk.start}] for tokens "
            f"{chunk.start} to {chunk.stop}; got shapes {shapes}."
        )

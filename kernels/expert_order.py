"""Tokens to their experts and back: the order by expert, and the weighted sum of what they made.

N tokens, k experts of a token, T = N * k pairs of the two, E experts, D width.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from torch import Tensor


class Order(NamedTuple):
    """Pairs of a token and one of its experts, sorted by expert."""

    pairs: Tensor
    """[T] int64: the pair (token * k + place) at each sorted position."""
    places: Tensor
    """[N, k] int64, its inverse: the sorted position of each pair."""
    offsets: Tensor
    """[E] int32: where each expert's pairs end."""


def sort_by_expert(ids: Tensor, num_experts: int) -> Order:
    """The order that puts every expert's pairs side by side; ties stay in the tokens' order.

    Args:
        ids: [N, k] integers from 0 to E - 1. Not checked, as that would wait for a GPU.
        num_experts: E.
    """
    sorted_ids, pairs = ids.flatten().sort(stable=True)
    places = torch.empty_like(pairs)
    places[pairs] = torch.arange(len(pairs), device=pairs.device)
    experts = torch.arange(num_experts, device=ids.device, dtype=ids.dtype)
    offsets = torch.searchsorted(sorted_ids, experts, right=True, out_int32=True)
    return Order(pairs, places.view(ids.shape), offsets)


def dispatch(x: Tensor, order: Order) -> Tensor:
    """[T, D]: each sorted pair's token, for x [N, D].

    The gradient is the sum over a token's pairs, added up as in `combine`.
    """
    return _Dispatch.apply(x, order.pairs, order.places)  # pyright: ignore[reportReturnType]


def combine(values: Tensor, weights: Tensor, order: Order) -> Tensor:
    """The weighted sum of what each token's experts made of it.

        out[n] = sum over j < k of weights[n, j] * values[places[n, j]]

    Every sum is over k terms in the order of a token's experts, here and in the gradients. Nothing
    is added atomically, so a GPU repeats it bit for bit, too.

    Args:
        values: [T, D], sorted by expert; carries a gradient.
        weights: [N, k] float32; carries a gradient.
        order: of `sort_by_expert`.

    Returns:
        [N, D] float32, or float64 of float64 values.
    """
    return _Combine.apply(values, weights, order.pairs, order.places)  # pyright: ignore[reportReturnType]


class _Dispatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context has no public type
        x: Tensor,
        pairs: Tensor,
        places: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(places)
        return x.index_select(0, pairs // places.shape[1])

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, None, None]:
        (places,) = ctx.saved_tensors
        return _summed(grad, None, places).to(grad.dtype), None, None


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        values: Tensor,
        weights: Tensor,
        pairs: Tensor,
        places: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(values, weights, pairs, places)
        return _summed(values, weights, places)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor, Tensor, None, None]:
        values, weights, pairs, places = ctx.saved_tensors
        grad_pairs = grad.index_select(0, pairs // places.shape[1])
        grad_weights = (grad_pairs * values).sum(-1)[places]
        grad_values = grad_pairs * weights.flatten()[pairs, None]
        return grad_values.to(values.dtype), grad_weights.to(weights.dtype), None, None


def _summed(values: Tensor, weights: Tensor | None, places: Tensor) -> Tensor:
    """[N, D]: the sum over each token's pairs, in their order, in float32 or better."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    total = torch.zeros((len(places), values.shape[1]), dtype=dtype, device=values.device)
    # One of k at a time: all at once would hold a float32 copy of every pair.
    for place in range(places.shape[1]):
        part = values.index_select(0, places[:, place])
        total += part if weights is None else part * weights[:, place, None].to(dtype)
    return total

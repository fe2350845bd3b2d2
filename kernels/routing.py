"""Routing of a mixture of experts: which experts a token goes to, and with which weights.

N tokens, E experts, k experts of a token, S sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

if TYPE_CHECKING:
    from torch import Tensor

Scoring = Literal["sigmoid", "softmax"]


class Routed(NamedTuple):
    """What a router decided."""

    weights: Tensor
    """[N, k] of each chosen expert's output; carries the gradient."""
    ids: Tensor
    """[N, k] int64."""
    scores: Tensor
    """[N, E] of all experts, before bias, groups and scaling; carries the gradient."""


def route(
    logits: Tensor,
    *,
    scoring: Scoring,
    top_k: int,
    groups: int = 1,
    groups_per_token: int = 1,
    bias: Tensor | None = None,
    normalize: bool,
    scaling: float,
    forced: Tensor | None = None,
) -> Routed:
    """The experts of each token, chosen by biased scores and weighted by unbiased ones.

        s       = sigmoid(logits) or softmax(logits)
        group g = the sum of its two largest s + b;  only the best groups take part
        ids     = the k largest s + b among the experts that take part, or those forced
        weights = s[ids] * scaling, divided by sum(s[ids]) + 1e-20 if normalized

    Weights are read from all the scores, so a forced expert that the router would not choose has
    its weight and its gradient as well.

    Args:
        logits: [N, E]; carries the gradient. Computed on in float32, or float64 if they are.
        scoring: how logits become scores.
        top_k: experts of a token (k).
        groups: groups that the experts are divided into, in order and of one size.
        groups_per_token: groups that a token's experts may come from.
        bias: [E] added for the choice only; gets no gradient.
        normalize: whether a token's weights add up to `scaling`.
        scaling: factor of the weights.
        forced: [N, k] experts that replace the choice, -1 in all of a row whose token chooses
            itself. Rows are checked, which on a GPU waits for it once.

    Returns:
        Weights and ids in the same order, and the scores.

    Raises:
        ValueError: the sizes disagree, or a forced row is out of range, partly -1, or has an
            expert twice.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, eq. 12-16 and sec. 2.1.2 (node-limited routing);
        Ma et al. 2025, arXiv:2510.11370 (rollout routing replay).
    """
    _check_sizes(logits, top_k, groups, groups_per_token, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    scores = logits.sigmoid() if scoring == "sigmoid" else logits.softmax(-1)
    chosen_by = scores.detach() if bias is None else scores.detach() + bias.detach()
    if groups_per_token < groups:
        chosen_by = _best_groups_only(chosen_by, groups, groups_per_token)
    # A sum's rounding depends on the order, and these are the orders of transformers' routers.
    ids = chosen_by.topk(top_k, dim=-1, sorted=scoring == "softmax").indices
    if forced is not None:
        forced = forced.to(ids.dtype)
        check_forced(forced, num_tokens=len(ids), num_experts=logits.shape[1], top_k=top_k)
        ids = torch.where(forced >= 0, forced, ids)
    weights = scores.gather(1, ids)
    if normalize:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    return Routed(weights * scaling, ids, scores)


def check_forced(forced: Tensor, *, num_tokens: int, num_experts: int, top_k: int) -> None:
    """Raises ValueError unless `forced` is [N, k] of distinct experts or -1 alone in each row."""
    if forced.shape != (num_tokens, top_k):
        raise ValueError(
            f"forced experts must be [N, k] = {(num_tokens, top_k)}; got {tuple(forced.shape)}."
        )
    ordered = forced.sort(-1).values
    own = (forced == -1).all(-1)
    valid = (ordered[:, 0] >= 0) & (ordered[:, -1] < num_experts)
    valid &= (ordered[:, 1:] != ordered[:, :-1]).all(-1)
    wrong = ~(own | valid)
    if bool(wrong.any()):
        token = int(wrong.nonzero()[0])
        raise ValueError(
            f"forced experts of token {token} are {forced[token].tolist()}: each row needs {top_k} "
            f"different experts of 0 to {num_experts - 1}, or -1 throughout. {int(wrong.sum())} of "
            f"{num_tokens} rows are wrong; were they recorded by another model?"
        )


def sequence_balance_loss(scores: Tensor, ids: Tensor, sequence: Tensor, weights: Tensor) -> Tensor:
    """The loss that evens out experts within each sequence; lower is more even.

        f_i  = E / (k T) * (tokens of the sequence with expert i among their ids)
        P_i  = mean over its T tokens of s_i / sum_j s_j
        loss = sum over sequences of weight * sum_i f_i P_i

    With an even load a sequence adds its weight. Each counts by itself, so the loss of a batch is
    the sum of its parts'.

    Args:
        scores: [N, E] >= 0, of tokens in any order; carries the gradient, which flows through P.
        ids: [N, k] experts that count as chosen. In the paper those of the k largest scores,
            without bias and groups.
        sequence: [N] the sequence (0 to S - 1) that each token belongs to, -1 of padding.
        weights: [S] of the sequences: alpha times a sequence's share of the step.

    Returns:
        A scalar in scores' dtype.

    Raises:
        ValueError: the sizes disagree.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, eq. 17-20.
    """
    if scores.ndim != 2 or ids.ndim != 2 or not len(scores) == len(ids) == len(sequence):
        got = [tuple(tensor.shape) for tensor in (scores, ids, sequence)]
        raise ValueError(
            f"sequence_balance_loss needs scores [N, E], ids [N, k], sequence [N]; got {got}."
        )
    (_, num_experts), top_k = scores.shape, ids.shape[1]
    # Padding goes to a sequence of its own behind the others, of weight 0.
    row = torch.where(sequence >= 0, sequence, len(weights))
    weight = torch.cat([weights, weights.new_zeros(1)]).to(scores.dtype)
    flat = (row[:, None] * num_experts + ids).flatten()
    # Integers: their sums are the same in any order, on a GPU as well.
    counts = flat.new_zeros(len(weight) * num_experts).index_add(0, flat, torch.ones_like(flat))
    counts = counts.view(len(weight), num_experts)
    tokens = counts.sum(1) // top_k
    tokens = tokens.clamp(min=1).to(scores.dtype)
    frequencies = counts * (num_experts / top_k / tokens)[:, None]
    shares = scores / scores.sum(-1, keepdim=True)
    per_token = (shares * frequencies[row]).sum(-1)
    return (per_token * (weight / tokens)[row]).sum()


def _best_groups_only(scores: Tensor, groups: int, groups_per_token: int) -> Tensor:
    """-inf outside a token's best groups: a mask of 0 would win over a negative biased score."""
    grouped = scores.unflatten(-1, (groups, -1))
    value = grouped.topk(min(2, grouped.shape[-1]), dim=-1).values.sum(-1)
    best = value.topk(groups_per_token, dim=-1, sorted=False).indices
    outside = torch.ones_like(value, dtype=torch.bool).scatter(1, best, value=False)
    return grouped.masked_fill(outside[..., None], -torch.inf).flatten(-2)


def _check_sizes(
    logits: Tensor, top_k: int, groups: int, groups_per_token: int, bias: Tensor | None
) -> None:
    if logits.ndim != 2 or (bias is not None and bias.shape != logits.shape[1:]):
        got = (tuple(logits.shape), None if bias is None else tuple(bias.shape))
        raise ValueError(f"route needs logits [N, E] and bias [E] or None; got {got}.")
    num_experts = logits.shape[1]
    if not 1 <= groups_per_token <= groups or num_experts % groups:
        raise ValueError(
            f"{num_experts} experts cannot be routed in {groups} groups of which a token uses "
            f"{groups_per_token}; groups must divide the experts."
        )
    reachable = num_experts // groups * groups_per_token
    if not 1 <= top_k <= reachable:
        raise ValueError(f"top_k = {top_k} must be from 1 to the {reachable} experts in reach.")

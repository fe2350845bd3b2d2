"""From graded groups to tensors, and the ways a step's tensors are cut without changing its loss.

Each trained token carries its share of the step's loss (`Batch.weights`), fixed when the batch is
made. Micro-batches and shards keep those weights, so that summing loss * weights over the pieces
gives the loss and gradient of the whole. Minibatches (`split_rows`) are steps of their own and
get new weights.
"""

from __future__ import annotations

import base64
import math
from bisect import bisect_left
from dataclasses import fields, replace
from itertools import islice
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from cotree.grpo.advantage import outcome_advantages, process_advantages
from cotree.grpo.filter import is_correct, reward_of
from cotree.grpo.tree_advantage import tree_advantages
from cotree.grpo.types import Batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from cotree.grpo.config_algorithm import Advantage
    from cotree.grpo.types import Completion, Group

Aggregation = Literal["token_mean", "sequence_mean", "constant"]


class NothingToTrainError(ValueError):
    """No token of the step is left to train on; the caller may skip the update."""


def collate(
    groups: Sequence[Group],
    *,
    advantage: Advantage,
    first_term: str,
    aggregation: Aggregation,
    max_tokens: int,
    mask_truncated: bool,
) -> Batch:
    """One step's batch. Rows are the rollouts in order, less those with nothing to train on.

    Advantages are `outcome + process_coef * process`, computed over all rollouts given, so a
    truncated one still counts in its group's baseline when `mask_truncated` leaves it out.

    Args:
        groups: graded; ungraded rollouts dropped before.
        advantage: baseline and scale, or how a rollout tree is read, and the weight of step scores.
        first_term: the reward that says which rollouts are right; see `process_baseline`.
        aggregation: see `token_weights`, and there `max_tokens`.
        max_tokens: the completion length limit.
        mask_truncated: keep completions with stop_reason `length` out of the loss.

    Raises:
        NothingToTrainError: no row is left.
        ValueError: a rollout is ungraded, a prompt empty, or a completion's parts disagree.

    Source: Yu et al. 2025, arXiv:2503.14476, sec. 3.4 (mask_truncated).
    """
    rollouts = [(group, rollout.completion) for group in groups for rollout in group.rollouts]
    for group, completion in rollouts:
        _check_completion(group, completion)
    advantages = _token_advantages(groups, advantage, first_term=first_term)
    rows = [
        (group, completion, values)
        for (group, completion), values in zip(rollouts, advantages, strict=True)
        if _is_trained(completion, mask_truncated=mask_truncated)
    ]
    if not rows:
        raise NothingToTrainError(
            f"none of the step's {len(rollouts)} rollouts has a token to train on (mask_truncated "
            f"= {mask_truncated}). Raise rollout.max_tokens or skip the update."
        )
    lengths = [len(group.prompt_ids) + len(done.token_ids) for group, done, _ in rows]
    return _padded(rows, lengths, aggregation=aggregation, max_tokens=max_tokens)


def trained_completions(
    groups: Sequence[Group], *, mask_truncated: bool
) -> list[tuple[Group, Completion]]:
    """The completions that `collate` makes rows of, in the order of the rows."""
    return [
        (group, rollout.completion)
        for group in groups
        for rollout in group.rollouts
        if _is_trained(rollout.completion, mask_truncated=mask_truncated)
    ]


def _is_trained(completion: Completion, *, mask_truncated: bool) -> bool:
    return bool(completion.token_ids) and not (
        mask_truncated and completion.stop_reason == "length"
    )


def _padded(
    rows: Sequence[tuple[Group, Completion, Tensor]],
    lengths: Sequence[int],
    *,
    aggregation: Aggregation,
    max_tokens: int,
) -> Batch:
    """The rows as right-padded tensors."""
    shape = (len(rows), max(lengths))
    token_ids = torch.zeros(shape, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.bool)
    behavior_logprobs, advantages_BS = torch.zeros(shape), torch.zeros(shape)
    for row, ((group, completion, values), end) in enumerate(zip(rows, lengths, strict=True)):
        completed = slice(len(group.prompt_ids), end)
        token_ids[row, :end] = torch.tensor(group.prompt_ids + completion.token_ids)
        mask[row, completed] = True
        behavior_logprobs[row, completed] = torch.tensor(completion.logprobs)
        advantages_BS[row, completed] = values.to(advantages_BS.dtype)
    return Batch(
        token_ids=token_ids,
        lengths=torch.tensor(lengths),
        mask=mask,
        behavior_logprobs=behavior_logprobs,
        advantages=advantages_BS,
        weights=token_weights(mask, aggregation=aggregation, max_tokens=max_tokens),
        num_tokens=int(mask.sum()),
        routes=_routes(rows, width=shape[1]),
    )


def _routes(rows: Sequence[tuple[Group, Completion, Tensor]], *, width: int) -> Tensor | None:
    """[B, S, layers, k] int16: the experts that the engine chose, -1 where it computed nothing.

    That is so of a row's last token, which nothing follows, and of padding. None of rows without.
    """
    found = [completion.routes for _, completion, _ in rows]
    if all(one is None for one in found):
        return None
    shapes = {None if one is None else (one.layers, one.per_token) for one in found}
    if len(shapes) > 1:
        raise ValueError(
            "rollouts of one step have routes of different layers and experts per token: "
            f"{sorted(map(str, shapes))}. All must come from engines of one model, all with or all "
            "without train.rollout.replay_routes."
        )
    ((layers, per_token),) = (shape for shape in shapes if shape is not None)
    routes = torch.full((len(rows), width, layers, per_token), -1, dtype=torch.int16)
    for row, ((group, completion, _), one) in enumerate(zip(rows, found, strict=True)):
        assert one is not None, "all have routes"
        ids = np.frombuffer(base64.b64decode(one.ids, validate=True), dtype="<u2")
        tokens = len(group.prompt_ids) + len(completion.token_ids) - 1
        if len(ids) != tokens * layers * per_token:
            raise ValueError(
                f"problem {group.problem.id!r}: {len(ids)} experts are not those of {tokens} "
                f"tokens in {layers} layers with {per_token} experts per token."
            )
        ids_TLk = ids.astype(np.int16).reshape(tokens, layers, per_token)
        routes[row, :tokens] = torch.from_numpy(ids_TLk)
    return routes


def token_weights(mask: Tensor, *, aggregation: Aggregation, max_tokens: int) -> Tensor:
    """Each token's share of the step's loss, [B, S] float32, zero outside the mask.

        token_mean     1 / trained tokens of the step
        sequence_mean  1 / (B * trained tokens of the row)
        constant       1 / (B * max_tokens)

    B counts the rows that have a trained token: a rollout kept out of the loss is kept out of its
    denominator too, and empty rows added for padding change nothing.

    Args:
        mask: [B, S] bool, of the whole step, not of a piece of it.
        aggregation: which of the three.
        max_tokens: for `constant`; the other two do not use it.

    Raises:
        NothingToTrainError: the mask is False everywhere.

    Source: Yu et al. 2025, arXiv:2503.14476, sec. 3.3 (token_mean); Shao et al. 2024,
        arXiv:2402.03300, eq. 3 (sequence_mean); Liu et al. 2025, arXiv:2503.20783 (constant).
    """
    tokens_B1 = mask.sum(-1, keepdim=True)
    num_tokens, num_rows = int(tokens_B1.sum()), int((tokens_B1 > 0).sum())
    if num_tokens == 0:
        raise NothingToTrainError(
            f"a mask of shape {tuple(mask.shape)} has no token to train on; skip the update."
        )
    if aggregation == "token_mean":
        share = torch.full_like(tokens_B1, 1.0 / num_tokens, dtype=torch.float64)
    elif aggregation == "sequence_mean":
        share = 1.0 / (num_rows * tokens_B1.clamp(min=1).to(torch.float64))
    elif aggregation == "constant":
        share = torch.full_like(tokens_B1, 1.0 / (num_rows * max_tokens), dtype=torch.float64)
    else:
        raise ValueError(
            f'aggregation = {aggregation!r} is not "token_mean", "sequence_mean" or "constant".'
        )
    return torch.where(mask, share.to(torch.float32), 0.0)


def micro_batches(batch: Batch, *, max_tokens: int) -> list[Batch]:
    """Pieces with rows * longest row <= max_tokens; together exactly the batch, weights unchanged.

    Rows go by falling length (ties by position), so the piece that needs most memory comes first.
    A row longer than `max_tokens` is a piece of its own. An empty batch gives no pieces.

    Args:
        batch: any batch.
        max_tokens: most tokens in one forward pass, padding included, >= 1.
    """
    if max_tokens < 1:
        raise ValueError(f"max_tokens = {max_tokens} must be at least 1.")
    order = _by_length(batch)
    lengths = batch.lengths[order].tolist()
    pieces: list[Batch] = []
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, lengths[start]))
        pieces.append(rows_at(batch, order[start : start + rows]))
        start += rows
    return pieces


def split_rows(
    batch: Batch, parts: int, *, aggregation: Aggregation, max_tokens: int
) -> list[Batch]:
    """Minibatches of consecutive rows for several updates per step, each with its own weights.

    Args:
        batch: one step.
        parts: updates wanted, >= 1. A batch of fewer rows gives one minibatch per row.
        aggregation: as when the batch was made.
        max_tokens: as when the batch was made.

    Returns:
        Minibatches whose sizes differ by one row at most; `num_tokens` counts each one's own.
    """
    if parts < 1:
        raise ValueError(f"parts = {parts} must be at least 1.")
    index = torch.arange(len(batch.lengths))
    minibatches: list[Batch] = []
    for rows in torch.tensor_split(index, min(parts, len(index))):
        piece = rows_at(batch, rows)
        weights = token_weights(piece.mask, aggregation=aggregation, max_tokens=max_tokens)
        minibatches.append(replace(piece, weights=weights, num_tokens=int(piece.mask.sum())))
    return minibatches


def shard(batch: Batch, *, rank: int, world_size: int) -> Batch:
    """The rows that one of `world_size` learner processes trains on, weights unchanged.

    Rows are dealt out by falling length, so the processes' loads are close. With fewer rows than
    processes some get an empty batch, [0, 0]. Gradients must be summed over the processes, not
    averaged: the weights already hold each token's share of the whole step.

    Raises:
        ValueError: rank is not in 0..world_size - 1.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank = {rank} is not in 0..{world_size - 1}.")
    return rows_at(batch, _by_length(batch)[rank::world_size])


def _by_length(batch: Batch) -> Tensor:
    """Row numbers by falling length, ties in the order of the batch."""
    return torch.argsort(batch.lengths, descending=True, stable=True)


def rows_at(batch: Batch, index: Tensor) -> Batch:
    """The batch's rows at `index` [n] int64, trimmed to the longest of them."""
    width = int(batch.lengths[index].max()) if len(index) else 0
    cut = {
        name: tensor[index, :width] if tensor.ndim >= 2 else tensor[index]
        for name, tensor in tensors_of(batch).items()
    }
    return replace(batch, **cut)


def tensors_of(batch: Batch) -> dict[str, Tensor]:
    """The batch's tensors by the names of their fields, those of a `TreeBatch` as well."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}


def _token_advantages(
    groups: Sequence[Group], advantage: Advantage, *, first_term: str
) -> list[Tensor]:
    """Per rollout, [T_i] float64: the outcome's advantage plus the weighted process advantage."""
    members = [
        (number, group, rollout)
        for number, group in enumerate(groups)
        for rollout in group.rollouts
    ]
    labels = [number for number, _, _ in members]
    rewards = [reward_of(rollout, group) for _, group, rollout in members]
    lengths = [len(rollout.completion.token_ids) for _, _, rollout in members]
    per_token = _outcome_advantages(groups, advantage, [reward.value for reward in rewards])
    if advantage.process_coef == 0:
        return per_token
    if advantage.process_baseline == "outcome":
        labels = [
            2 * label + is_correct(reward, first_term=first_term)
            for label, reward in zip(labels, rewards, strict=True)
        ]
    process = process_advantages(
        [[step.value for step in reward.steps] for reward in rewards],
        [
            [_last_token(step.span[1], group, rollout.completion) for step in reward.steps]
            for (_, group, rollout), reward in zip(members, rewards, strict=True)
        ],
        lengths,
        labels,
        discount=advantage.process_discount,
    )
    return [
        values + advantage.process_coef * steps
        for values, steps in zip(per_token, process, strict=True)
    ]


def _outcome_advantages(
    groups: Sequence[Group], advantage: Advantage, rewards: Sequence[float]
) -> list[Tensor]:
    """Per rollout, [T_i] float64: of the outcomes alone, by rollout or by node of a tree."""
    completions = [[rollout.completion for rollout in group.rollouts] for group in groups]
    lengths = [[len(done.token_ids) for done in members] for members in completions]
    if advantage.tree != "leaf":
        left = iter(rewards)
        return [
            values
            for members, sizes in zip(completions, lengths, strict=True)
            for values in tree_advantages(
                list(islice(left, len(members))),
                [done.segments for done in members],
                sizes,
                estimator=advantage.tree,
            )
        ]
    labels = [number for number, members in enumerate(completions) for _ in members]
    outcome = outcome_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(labels, dtype=torch.int64),
        baseline=advantage.baseline,
        scale=advantage.scale,
    )
    sizes = [size for members in lengths for size in members]
    return [value.expand(size) for value, size in zip(outcome.unbind(), sizes, strict=True)]


def _last_token(end: int, group: Group, completion: Completion) -> int:
    """The first token by which the text up to character `end` is written."""
    token = bisect_left(completion.token_ends, end)
    if token == len(completion.token_ends):
        raise ValueError(
            f"a step of problem {group.problem.id!r} ends at character {end}, but the completion's "
            f"{len(completion.token_ids)} tokens write {len(completion.text)} characters. The step "
            "scorer must return spans inside the completion's text."
        )
    return token


def _check_completion(group: Group, completion: Completion) -> None:
    """Raises when tensors cannot be made of the rollout without guessing."""
    where = f"problem {group.problem.id!r}"
    if not group.prompt_ids:
        raise ValueError(
            f"{where} has an empty prompt, so nothing precedes its first completion token; "
            "give the prompt at least one token (a BOS token, say)."
        )
    parts = (len(completion.token_ids), len(completion.logprobs), len(completion.token_ends))
    if len(set(parts)) != 1:
        raise ValueError(f"{where}: token_ids, logprobs, token_ends have {parts} entries.")
    if not all(map(math.isfinite, completion.logprobs)):
        raise ValueError(
            f"{where}: the engine returned a log-probability that is not finite: "
            f"{list(completion.logprobs)}."
        )

"""Tests for grpo/collate.py: a teacher's opinions stay with the tokens they are about."""

import dataclasses

import pytest
import torch
from enumerable import group_of, rollout
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.collate import (
    collate,
    micro_batches,
    rows_at,
    shard,
    split_rows,
    tensors_of,
    token_weights,
    trained_completions,
)
from cotree.grpo.config_algorithm import Advantage
from cotree.grpo.types import Batch, TaughtBatch


@pytest.mark.parametrize("mask_truncated", [True, False])
def test_the_trained_completions_are_the_rows_in_their_order(mask_truncated):
    # A teacher is asked about them, and its answers are put beside the rows.
    groups = [
        group_of(
            "a",
            rollout(1.0, text="cut", stop_reason="length"),
            rollout(0.0, text="AB"),
            rollout(0.0, text=""),
        ),
        group_of("b", rollout(1.0, text="C"), prompt=(7,)),
        group_of("c", rollout(1.0, text="D", stop_reason="length"), prompt=(8, 9, 9)),
    ]
    found = trained_completions(groups, mask_truncated=mask_truncated)
    texts = ["AB", "C"] if mask_truncated else ["cut", "AB", "C", "D"]
    assert [completion.text for _, completion in found] == texts
    batch = collate(
        groups,
        advantage=Advantage(),
        first_term="answer",
        aggregation="token_mean",
        max_tokens=10,
        mask_truncated=mask_truncated,
    )
    for row, (group, completion) in enumerate(found):
        length = int(batch.lengths[row])
        ids = tuple(batch.token_ids[row, :length].tolist())
        assert ids == group.prompt_ids + completion.token_ids
        trained = tuple(batch.token_ids[row][batch.mask[row]].tolist())
        assert trained == completion.token_ids
    assert len(found) == len(batch.lengths)


def _batch(lengths):
    ends, columns = torch.tensor(lengths), torch.arange(max(lengths))
    mask = (columns >= 1) & (columns < ends[:, None])
    ids = torch.arange(1, mask.numel() + 1).reshape(mask.shape) * (columns < ends[:, None])
    weights = token_weights(mask, aggregation="token_mean", max_tokens=20)
    return Batch(ids, ends, mask, -1.0 * mask, 0.5 * mask, weights, int(mask.sum()))


def taught_batch(lengths, num_outcomes=3):
    """Opinions that tell their row and column."""
    batch = _batch(lengths)
    rows, width = batch.mask.shape
    place = 100 * torch.arange(rows)[:, None] + torch.arange(width)
    first = place[..., None].expand(rows, width, num_outcomes).to(torch.int32)
    given = {field.name: getattr(batch, field.name) for field in dataclasses.fields(Batch)}
    return TaughtBatch(
        **given,
        outcome_first=first,
        outcome_end=first + 1,
        teacher_logprobs=-place[..., None].expand(rows, width, num_outcomes + 1).float(),
    )


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=12),
    max_tokens=st.integers(1, 60),
    world_size=st.integers(1, 4),
    num_outcomes=st.integers(0, 3),
)
def test_opinions_stay_with_their_tokens_however_a_batch_is_cut(
    lengths, max_tokens, world_size, num_outcomes
):
    batch = taught_batch(lengths, num_outcomes)
    shards = [shard(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
    cuts = [
        micro_batches(batch, max_tokens=max_tokens),
        [piece for part in shards for piece in micro_batches(part, max_tokens=max_tokens)],
        split_rows(batch, 2, aggregation="token_mean", max_tokens=20),
    ]
    for pieces in cuts:
        seen = []
        for piece in pieces:
            assert isinstance(piece, TaughtBatch)
            rows, width = piece.mask.shape
            assert piece.outcome_first.shape == piece.outcome_end.shape
            assert piece.outcome_first.shape == (rows, width, num_outcomes)
            assert piece.teacher_logprobs.shape == (rows, width, num_outcomes + 1)
            numbers = (-piece.teacher_logprobs[:, 0, -1] / 100).long()
            seen += numbers.tolist()
            place = 100 * numbers[:, None] + torch.arange(width)
            assert torch.equal(-piece.teacher_logprobs[..., -1].long(), place)
            if num_outcomes:
                assert torch.equal(piece.outcome_first[..., 0].long(), place)
            assert torch.equal(piece.token_ids, batch.token_ids[numbers, :width])
        assert sorted(seen) == list(range(len(lengths)))


def test_rows_are_picked_in_the_order_asked_for_and_trimmed_to_the_longest():
    batch = taught_batch([7, 3, 5])
    picked = rows_at(batch, torch.tensor([2, 1, 2]))
    assert picked.lengths.tolist() == [5, 3, 5]
    for name, tensor in tensors_of(picked).items():
        whole = getattr(batch, name)[[2, 1, 2]]
        expected = whole if whole.ndim == 1 else whole[:, :5]
        assert torch.equal(tensor, expected), name
    assert picked.num_tokens == batch.num_tokens
    nothing = rows_at(batch, torch.tensor([], dtype=torch.int64))
    assert nothing.teacher_logprobs.shape == (0, 0, 4)

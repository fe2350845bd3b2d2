"""Tests for grpo/distilling/taught_batch.py: whose opinion stands at which token."""

import numpy as np
import pytest
import torch
from torch import Tensor

from cotree.grpo.distilling.taught_batch import first_trained, taught_batch
from cotree.grpo.distilling.view import Opinion
from cotree.grpo.distilling.vocabulary import Outcomes
from cotree.grpo.supervised import Example, sft_batch

EXAMPLES = [Example((5, 6), (7, 8, 1)), Example((5,), (9, 1)), Example((5, 6, 7), (1,))]
BATCH = sft_batch(EXAMPLES)  # trained: columns 2-4, 1-2 and 3
LENGTHS = [3, 2, 1]


def opinion(row: int, *, width: int) -> Opinion:
    """Numbers that say where they belong: row, token and place are their digits."""
    tokens, places = np.meshgrid(np.arange(LENGTHS[row]), np.arange(width + 1), indexing="ij")
    first = 100 * (row + 1) + 10 * tokens + places
    return Opinion(
        Outcomes(
            first=first[:, :-1].astype(np.int32),
            end=(first[:, :-1] + 1).astype(np.int32),
            logprobs=-first.astype(np.float32),
            unmapped_mass=np.zeros(LENGTHS[row], np.float32),
        ),
        num_inside=0,
    )


def test_opinions_stand_at_the_trained_tokens_and_their_tails_in_the_last_place():
    batch = taught_batch(BATCH, [opinion(0, width=2), opinion(1, width=2), opinion(2, width=2)])
    assert batch.outcome_first.shape == batch.outcome_end.shape == (3, 5, 2)
    assert batch.teacher_logprobs.shape == (3, 5, 3)
    for row, start in enumerate((2, 1, 3)):
        for token in range(LENGTHS[row]):
            at = 100 * (row + 1) + 10 * token
            assert batch.outcome_first[row, start + token].tolist() == [at, at + 1]
            assert batch.outcome_end[row, start + token].tolist() == [at + 1, at + 2]
            said = batch.teacher_logprobs[row, start + token].tolist()
            assert said == [-at, -at - 1, -at - 2]
    assert _is_silent(batch.teacher_logprobs[~BATCH.mask])
    assert not batch.outcome_end[~BATCH.mask].any()


def test_a_narrower_row_is_filled_up_and_keeps_its_tail_at_the_end():
    batch = taught_batch(BATCH, [opinion(0, width=3), opinion(1, width=1), opinion(2, width=0)])
    inf = float("inf")
    assert batch.teacher_logprobs[0, 2].tolist() == [-100, -101, -102, -103]
    assert batch.teacher_logprobs[1, 1].tolist() == [-200, -inf, -inf, -201]
    assert batch.outcome_first[1, 1].tolist() == [200, 0, 0]
    assert batch.outcome_end[1, 1].tolist() == [201, 0, 0]  # empty sets: first = end
    assert batch.teacher_logprobs[2, 3].tolist() == [-inf, -inf, -inf, -300]


def test_a_row_without_an_opinion_is_silent_and_changes_no_other():
    batch = taught_batch(BATCH, [opinion(0, width=2), None, opinion(2, width=2)])
    every = taught_batch(BATCH, [opinion(row, width=2) for row in range(3)])
    assert _is_silent(batch.teacher_logprobs[1])
    assert not batch.outcome_end[1].any()
    for row in (0, 2):
        assert torch.equal(batch.teacher_logprobs[row], every.teacher_logprobs[row])
        assert torch.equal(batch.outcome_first[row], every.outcome_first[row])


def test_no_opinion_at_all_is_a_batch_of_silence():
    batch = taught_batch(BATCH, [None, None, None])
    assert batch.outcome_first.shape == (3, 5, 0)
    assert batch.teacher_logprobs.shape == (3, 5, 1)
    assert _is_silent(batch.teacher_logprobs)


def test_the_rest_of_the_batch_is_as_it_was():
    batch = taught_batch(BATCH, [opinion(0, width=2), None, None])
    for name in ("token_ids", "lengths", "mask", "behavior_logprobs", "advantages", "weights"):
        assert torch.equal(getattr(batch, name), getattr(BATCH, name))
    assert batch.num_tokens == BATCH.num_tokens == 6


def test_every_row_needs_an_opinion_or_none():
    with pytest.raises(ValueError, match="zip"):
        taught_batch(BATCH, [None, None])


def test_the_first_trained_column_of_a_row_without_any_is_0():
    mask = torch.tensor([[False, False, True, True], [False] * 4, [True, True, False, False]])
    assert first_trained(mask) == [2, 0, 0]


def _is_silent(logprobs: Tensor) -> bool:
    return bool(torch.isneginf(logprobs).all())

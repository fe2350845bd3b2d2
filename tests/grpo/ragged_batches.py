"""Batches for tests of the policy alone: nothing here imports the learner or ray."""

from dataclasses import fields

import torch
from torch import Tensor

from cotree.grpo.divergence import outcome_logprobs
from cotree.grpo.types import Batch, TaughtBatch


def ragged_batch(seed: int, *, vocab: int, rows: int = 5, width: int = 24) -> Batch:
    """Rows of 8 to `width` tokens, 4 of them prompt; every trained token weighs the same."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(8, width + 1, (rows,), generator=generator)
    lengths[0] = width
    columns = torch.arange(width)
    real = columns < lengths[:, None]
    mask = real & (columns >= 4)
    num_tokens = int(mask.sum())
    return Batch(
        token_ids=torch.randint(3, vocab, (rows, width), generator=generator) * real,
        lengths=lengths,
        mask=mask,
        behavior_logprobs=torch.zeros(rows, width),
        advantages=torch.randn(rows, 1, generator=generator).expand(rows, width) * mask,
        weights=mask / num_tokens,
        num_tokens=num_tokens,
    )


def told(batch: Batch, logprobs: Tensor, *, longest: int, order: Tensor | None) -> TaughtBatch:
    """The batch with a teacher's outcomes: two neighbouring ranges of the order, and the tail.

    Args:
        batch: on the CPU.
        logprobs: [B, S, V] the teacher's, at the position that predicts each token.
        longest: tokens of an outcome; some are empty.
        order: [V] int64, or None.
    """
    vocab = logprobs.shape[-1]
    generator = torch.Generator().manual_seed(longest)
    shape = (*batch.mask.shape, 1)
    start = torch.randint(0, vocab - 2 * longest, shape, generator=generator)
    lengths = torch.randint(0, longest + 1, (*batch.mask.shape, 2), generator=generator)
    end = start + lengths.cumsum(-1)
    first = end - lengths
    empty = lengths == 0
    first, end = first.masked_fill(empty, 0), end.masked_fill(empty, 0)
    found = outcome_logprobs(
        logprobs.flatten(0, 1), first.flatten(0, 1), end.flatten(0, 1), order=order
    )
    given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    told_at = batch.mask[..., None]
    return TaughtBatch(
        **given,
        outcome_first=(first * told_at).int(),
        outcome_end=(end * told_at).int(),
        teacher_logprobs=found.view(*batch.mask.shape, 3).masked_fill(~told_at, -torch.inf).float(),
    )

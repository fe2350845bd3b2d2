"""A batch and a teacher's opinions of its rows, as one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from cotree.grpo.distilling.view import Opinion
from cotree.grpo.types import Batch, TaughtBatch


def taught_batch(batch: Batch, opinions: Sequence[Opinion | None]) -> TaughtBatch:
    """The batch with what a teacher thinks of each trained token.

    Args:
        batch: B rows whose trained tokens are consecutive.
        opinions: of the trained tokens of each row; None has none of any of them.
    """
    width = max((one.outcomes.first.shape[1] for one in opinions if one is not None), default=0)
    shape = (*batch.mask.shape, width)
    first, end = torch.zeros(shape, dtype=torch.int32), torch.zeros(shape, dtype=torch.int32)
    logprobs = torch.full((*batch.mask.shape, width + 1), -torch.inf)
    starts = first_trained(batch.mask)
    for row, (start, opinion) in enumerate(zip(starts, opinions, strict=True)):
        if opinion is None:
            continue
        found = opinion.outcomes
        tokens = slice(start, start + len(found.first))
        kept = found.first.shape[1]
        first[row, tokens, :kept] = torch.from_numpy(found.first)
        end[row, tokens, :kept] = torch.from_numpy(found.end)
        logprobs[row, tokens, :kept] = torch.from_numpy(found.logprobs[:, :kept])
        logprobs[row, tokens, width] = torch.from_numpy(found.logprobs[:, kept])
    given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    return TaughtBatch(**given, outcome_first=first, outcome_end=end, teacher_logprobs=logprobs)


def first_trained(mask: Tensor) -> list[int]:
    """The column of each row's first trained token; 0 where it has none."""
    return mask.to(torch.int8).argmax(-1).tolist()

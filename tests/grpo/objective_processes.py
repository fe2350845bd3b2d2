"""One process of a group that reduces a step's statistics; imports little, as it is spawned."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from cotree.grpo.objective import StepStatistics
from cotree.grpo.types import Batch

Share = tuple[Batch, Tensor, Tensor]
"""Of a process: a batch, and what its module made of it."""


def reduced_in_group(rank: int, folder: Path, shares: Sequence[Share]) -> dict[str, float]:
    """What this process reports of its share, once all have come."""
    store = torch.distributed.FileStore(str(folder / "store"), len(shares))
    size, patience = len(shares), timedelta(seconds=120)
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=size, timeout=patience
    )
    try:
        batch, logprobs, hits = shares[rank]
        statistics = StepStatistics()
        statistics.add(batch, batch.mask.float(), {})
        statistics.add_drafts(batch, logprobs, hits)
        return statistics.reduced(world_size=size, device=torch.device("cpu"))
    finally:
        torch.distributed.destroy_process_group()

"""One process of a group that reduces a step's statistics; imports little, as it is spawned."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cotree.grpo.objective import StepStatistics
from cotree.grpo.types import Batch


def write_reduced(rank: int, folder: Path, shares: Sequence[tuple[Batch, Tensor, Tensor]]) -> None:
    """Writes `folder/RANK.json`: what this process reports, given its batch and its drafts."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(str(folder / "store"), len(shares))
    torch.distributed.init_process_group(
        "gloo", store=store, rank=rank, world_size=len(shares)
    )
    batch, logprobs, hits = shares[rank]
    statistics = StepStatistics()
    statistics.add(batch, batch.mask.float(), {})
    statistics.add_drafts(batch, logprobs, hits)
    stats = statistics.reduced(world_size=len(shares), device=torch.device("cpu"))
    (folder / f"{rank}.json").write_text(json.dumps(stats))
    torch.distributed.destroy_process_group()

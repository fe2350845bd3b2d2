"""Batches with routes, and what the tests of routers ask of a model."""

from pathlib import Path

import torch
from random_batches import random_batch
from tiny_experts import write_deepseek_v3, write_qwen3_moe
from torch import nn

from cotree.grpo.policy import policy_logprobs
from cotree.grpo.routers import OPTIONS_BY_CLASS
from cotree.grpo.types import Batch

BATCH = random_batch(0, vocab=99)
REAL = torch.arange(BATCH.token_ids.shape[1]) < BATCH.lengths[:, None]
NAMES = ("qwen3_moe", "deepseek_v3")


def write_routed(name: str, folder: Path) -> None:
    """A random model with two layers of 8 experts, 2 a token."""
    if name == "qwen3_moe":
        write_qwen3_moe(folder, num_experts=8)
    else:
        write_deepseek_v3(folder, num_hidden_layers=3)


def gates(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if type(module).__name__ in OPTIONS_BY_CLASS]


def scores_of(model: nn.Module, batch: Batch, *, packing: bool = False) -> torch.Tensor:
    return policy_logprobs(model, batch, temperature=1.0, packing=packing)[0]


def other_routes(model: nn.Module, batch: Batch = BATCH) -> torch.Tensor:
    """[B, S, layers, k] int16: random ones; -1 of padding."""
    random = torch.Generator().manual_seed(0)
    shape = (*batch.token_ids.shape, len(gates(model)), 8)
    chosen = torch.rand(shape, generator=random).argsort(-1)[..., :2]
    padding = torch.arange(shape[1]) >= batch.lengths[:, None]
    return chosen.masked_fill(padding[..., None, None], -1).to(torch.int16)


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    """Of every parameter that has one; gone from the model afterwards."""
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return found

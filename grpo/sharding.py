"""Several learner processes: where they meet, wrapped modules, whole tensors from shards."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed import Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

Sharding = Literal["ddp", "fsdp2"]

COLLECTIVE_TIMEOUT = timedelta(minutes=10)
"""A process that waits longer for the others gives up: one of them has died."""


def open_store(host: str) -> TCPStore:
    """A meeting point for all processes, on a port that the system picks."""
    return TCPStore(host, 0, is_master=True, wait_for_workers=False)


def find_store(host: str, port: int) -> TCPStore:
    """The meeting point that another process opened."""
    return TCPStore(host, port, is_master=False, timeout=COLLECTIVE_TIMEOUT)


def join(store: Store, *, host: str, rank: int, world_size: int) -> None:
    """Joins the process group; returns when all `world_size` processes have.

    The environment variables are for accelerate, which reads them to find the group. Every
    process sees its own accelerator only (Ray hides the others), so its local rank is 0.
    """
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_RANK": "0",
        "MASTER_ADDR": host,
    }
    torch.distributed.init_process_group(
        "nccl" if torch.cuda.is_available() else "gloo",
        store=store,
        rank=rank,
        world_size=world_size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def wrap(policy: nn.Module, accelerator: Accelerator, sharding: Sharding) -> nn.Module:
    """The module for this process group: gradients are averaged over its processes.

    accelerate wraps for DDP. It offers FSDP2 on accelerators only, so that is applied here, on
    every block of the decoder and on the whole; both ways then run on a CPU as well.
    """
    policy = policy.to(accelerator.device)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        if sharding == "ddp":
            return accelerator.prepare_model(policy)
        world_size = torch.distributed.get_world_size()
        mesh = init_device_mesh(accelerator.device.type, (world_size,))
        for block in _blocks(policy):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(policy, mesh=mesh, reshard_after_forward=True)
    return policy


def _blocks(policy: nn.Module) -> list[nn.Module]:
    """The decoder's layers: the members of its longest module list."""
    lists = [module for module in policy.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


@contextmanager
def gradient_sync(module: nn.Module, *, enabled: bool) -> Generator[None]:
    """Reduces gradients over the processes in this backward pass, or leaves them to a later one."""
    if isinstance(module, DistributedDataParallel) and not enabled:
        with module.no_sync():
            yield
        return
    if isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(enabled)
    yield


def whole(tensor: Tensor) -> Tensor:
    """The full tensor of a shard (all processes must call it), or the tensor itself."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def assign(target: Tensor, value: Tensor) -> None:
    """Copies a full tensor, which every process holds, into a tensor or its shards in place."""
    if target.shape != value.shape:
        raise ValueError(f"cannot load a {tuple(value.shape)} tensor into {tuple(target.shape)}.")
    with torch.no_grad():
        target.copy_(like(target, value))


def like(target: Tensor, value: Tensor) -> Tensor:
    """The full `value` on the target's device, sharded as the target is."""
    value = value.to(device=target.device, dtype=value.dtype)
    if isinstance(target, DTensor):
        # src_data_rank=None: every process cuts its own shard; nothing is sent.
        return distribute_tensor(value, target.device_mesh, target.placements, src_data_rank=None)
    return value


def total_norm(parameters: list[nn.Parameter], *, max_norm: float) -> float:
    """Clips the gradients' joint 2-norm to `max_norm` in place; returns it before clipping."""
    norm = nn.utils.clip_grad_norm_(parameters, max_norm)
    return float(whole(norm))

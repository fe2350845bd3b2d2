"""Which implementation of a kernel runs, chosen in one place, with the reason.

Every operation has a torch function, which is its specification and runs on any device, and a
Triton kernel with the same results; some have a CUDA kernel as well. `COTREE_KERNELS` overrides
the choice; with `cuda`, operations without such a kernel are chosen as with `auto`.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Backend = Literal["torch", "triton", "cuda"]
VARIABLE = "COTREE_KERNELS"
"""The environment variable: auto (the default), torch, triton or cuda."""
OPS = (
    "quantize_tiles",
    "quantize_tiles_transposed",
    "quantize_blocks",
    "transposed",
    "matmul_blocks",
    "matmul_tiles",
    "grouped_matmul",
    "grouped_weight_gradient",
    "token_logprobs",
)
"""What `backend` may be asked for."""
CUDA_MODULES = {
    "quantize_tiles": "cotree.kernels.cuda_quantize",
    "matmul_blocks": "cotree.kernels.cuda_matmul",
}
"""Those that have a CUDA kernel as well, which runs only when asked for."""
LOWEST_CAPABILITY = (8, 9)
"""Compute capability of the first GPUs with e4m3 (Ada)."""
WITHOUT_E4M3 = ("token_logprobs",)
"""Operations on other numbers."""
OLDEST_CAPABILITY = (8, 0)
"""Of the first GPUs with bfloat16 (Ampere): what those need."""


@dataclass(frozen=True)
class Choice:
    """The implementation of one operation, and why it was chosen."""

    op: str
    backend: Backend
    reason: str


def backend(op: str, tensor: Tensor) -> Backend:
    """The implementation of `op` for operands where `tensor` is.

    Raises:
        ValueError: `op` is unknown, or `COTREE_KERNELS` is, or asks for what cannot run there.
    """
    return choice(op, tensor.device).backend


def choice(op: str, device: torch.device) -> Choice:
    """The implementation of `op` on a device, with the reason; raises as `backend` does."""
    wanted = os.environ.get(VARIABLE, "auto")
    return _choice(op, device, wanted, os.environ.get("TRITON_INTERPRET") == "1")


def status() -> tuple[Choice, ...]:
    """What is chosen for each operation on this machine: on its GPU, or without one on its CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return tuple(choice(op, device) for op in OPS)


@cache
def _choice(op: str, device: torch.device, wanted: str, interpreted: bool) -> Choice:
    if op not in OPS:
        raise ValueError(f"unknown operation {op!r}; known: {', '.join(OPS)}.")
    if wanted not in ("auto", "torch", "triton", "cuda"):
        raise ValueError(f"{VARIABLE} = {wanted!r} must be auto, torch, triton or cuda.")
    if wanted == "torch":
        return Choice(op, "torch", f"{VARIABLE} = torch")
    if wanted == "cuda" and op in CUDA_MODULES:
        missing = importlib.import_module(CUDA_MODULES[op]).available(device)
        if missing is not None:
            raise ValueError(f"{VARIABLE} = cuda cannot run {op}: {missing}.")
        return Choice(op, "cuda", f"{VARIABLE} = cuda")
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    missing = missing_for_triton(
        capability, interpreted=interpreted, has_e4m3=op not in WITHOUT_E4M3
    )
    if wanted == "triton":
        if missing is not None:
            raise ValueError(f"{VARIABLE} = triton cannot run {op}: {missing}.")
        return Choice(op, "triton", f"{VARIABLE} = triton")
    if capability is None:
        return Choice(op, "torch", f"the operands are on {device}, not on a CUDA GPU")
    if missing is not None:
        return Choice(op, "torch", missing)
    return Choice(op, "triton", f"a CUDA GPU of compute capability {_dotted(capability)}")


def missing_for_triton(
    capability: tuple[int, int] | None, *, interpreted: bool, has_e4m3: bool = True
) -> str | None:
    """What keeps the Triton kernels from running; None if nothing does.

    Args:
        capability: compute capability of the GPU with the operands; None on a CPU.
        interpreted: whether Triton's interpreter runs them instead, on any device.
        has_e4m3: whether the kernel works on e4m3.
    """
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed; it comes with torch's CUDA wheels"
    if interpreted:
        return None
    if capability is None:
        return (
            "the operands are not on a CUDA GPU; move them to one, or set TRITON_INTERPRET=1 "
            "before the process starts to interpret the kernels, slowly"
        )
    if not has_e4m3:
        old = capability < OLDEST_CAPABILITY
        return f"a GPU of compute capability {_dotted(capability)} is too old" if old else None
    if capability < LOWEST_CAPABILITY:
        have, need = _dotted(capability), _dotted(LOWEST_CAPABILITY)
        return f"a GPU of compute capability {have} has no e4m3; {need} and above have"
    return None


def _dotted(capability: tuple[int, int]) -> str:
    return ".".join(map(str, capability))

"""What a Triton kernel is compiled for: its arguments' types, its constants, what must come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Specialisation:
    """One compiled form of a kernel, as production launches it.

    A module with Triton kernels lists its forms as `SPECIALISATIONS`; `cotree.kernels.aot` compiles
    them ahead of time, without a GPU.
    """

    name: str
    """Unique over all kernels, such as `quantize_tiles/bfloat16`."""
    kernel: Any
    """The `@triton.jit` function."""
    signature: Mapping[str, str]
    """Every argument that is no constant: `*bf16`, `*fp8e4nv`, `fp32`, `i32`, …"""
    constants: Mapping[str, object]
    """The `tl.constexpr` arguments."""
    aligned: frozenset[str]
    """Arguments whose value (a pointer's address, a size) is a multiple of 16 in production."""
    num_warps: int
    num_stages: int = 3
    opcodes: Mapping[str, str] = field(default_factory=dict)
    """By architecture (`sm_90a`, `sm_100a`): a regular expression that the machine code must
    match, such as `QGMMA`; left out, nothing is expected."""
    architectures: tuple[str, ...] = ("sm_90a", "sm_100a")

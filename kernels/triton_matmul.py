"""Triton kernel of the FP8 product: `cotree.kernels.fp8.matmul` on tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch.nn import functional
from triton import knobs

from cotree.kernels.specialisation import Specialisation

if TYPE_CHECKING:
    from torch import Tensor

    from cotree.kernels.fp8 import BLayout

INTERPRETED: bool = knobs.runtime.interpret
"""Whether the kernel runs on the CPU; fixed when it is decorated."""
CONSTANTS = {"SIDE": 128, "GROUP": 8}
"""SIDE: rows and contraction of a program's tile. GROUP: tiles of rows that share their columns of
b in the cache."""
WIDTHS = {"blocks": 128, "tiles": 64}
"""Columns of a program's tile, by the layout of b's scales. A scale of its own for each of 128
columns would need more registers than a thread has: with 8 warps they are spilled on sm_90."""
WARPS, STAGES = 8, 3
OPTIONS: dict[str, Any] = {"num_warps": WARPS, "num_stages": STAGES, "enable_fp_fusion": True}
ALIGNMENT = 16
"""Bytes of the widest load: rows that do not start at a multiple are copied a byte at a time,
without the pipeline, and spill registers."""


@triton.jit
def matmul_kernel(
    a_ptr: tl.tensor,
    a_scales_ptr: tl.tensor,
    b_ptr: tl.tensor,
    b_scales_ptr: tl.tensor,
    out_ptr: tl.tensor,
    M: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    B_BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    GROUP: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """One [SIDE, WIDTH] tile of a [M, K] @ b [N, K].T, both e4m3."""
    tiles_m, tiles_n, tiles_k = tl.cdiv(M, SIDE), tl.cdiv(N, WIDTH), tl.cdiv(K, SIDE)
    first_m = tl.program_id(0) // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first_m, GROUP)
    tile_m = first_m + tl.program_id(0) % (GROUP * tiles_n) % height
    tile_n = tl.program_id(0) % (GROUP * tiles_n) // height
    rows = tile_m * SIDE + tl.arange(0, SIDE)
    columns = tile_n * WIDTH + tl.arange(0, WIDTH)
    inner = tl.arange(0, SIDE)
    row_inside, column_inside = rows < M, columns < N
    a_ptrs = a_ptr + rows[:, None].to(tl.int64) * K + inner[None, :]
    b_ptrs = b_ptr + columns[None, :].to(tl.int64) * K + inner[:, None]
    a_scale_ptrs = a_scales_ptr + rows.to(tl.int64) * tiles_k
    b_scale_ptrs = b_scales_ptr + columns.to(tl.int64) * tiles_k
    if B_BLOCKS:
        b_scale_ptrs = b_scales_ptr + (tile_n * WIDTH // SIDE).to(tl.int64) * tiles_k
    total = tl.zeros((SIDE, WIDTH), dtype=tl.float32)
    for k in range(tiles_k):
        inside = inner < K - k * SIDE
        a = tl.load(a_ptrs + k * SIDE, mask=row_inside[:, None] & inside[None, :], other=0.0)
        b = tl.load(b_ptrs + k * SIDE, mask=column_inside[None, :] & inside[:, None], other=0.0)
        a_scale = tl.load(a_scale_ptrs + k, mask=row_inside, other=0.0)
        if INTERP:
            # It multiplies the bytes of e4m3 as if they were integers.
            a, b = a.to(tl.float32), b.to(tl.float32)
        # A dot that adds to `total` itself would keep the tensor cores' 14 bits over all of K.
        if B_BLOCKS:
            total += tl.dot(a, b) * (a_scale * tl.load(b_scale_ptrs + k))[:, None]
        else:
            b_scale = tl.load(b_scale_ptrs + k, mask=column_inside, other=0.0)
            # One after the other: their outer product would take registers of its own.
            total += tl.dot(a, b) * a_scale[:, None] * b_scale[None, :]
    offsets = rows[:, None].to(tl.int64) * N + columns[None, :]
    tl.store(out_ptr + offsets, total, mask=row_inside[:, None] & column_inside[None, :])


def matmul(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    *,
    b_layout: BLayout,
    out_dtype: torch.dtype,
) -> Tensor:
    """`fp8.matmul` on a GPU; on the CPU under the interpreter.

    A contraction that is no multiple of 16, such as a number of tokens, is copied into one that
    is, filled up with zeros.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"matmul needs a [M, K] and b [N, K]; got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    a, b = aligned(a), aligned(b)
    (m, k), n = a.shape, len(b)
    side, width = CONSTANTS["SIDE"], WIDTHS[b_layout]
    rows = {"tiles": n, "blocks": triton.cdiv(n, side)}[b_layout]
    tiles = triton.cdiv(k, side)
    if a_scales.shape != (m, tiles) or b_scales.shape != (rows, tiles):
        raise ValueError(
            f"matmul of {(m, k)} and {(n, k)} needs scales {(m, tiles)} and {(rows, tiles)}; "
            f"got {tuple(a_scales.shape)} and {tuple(b_scales.shape)}."
        )
    # The interpreter truncates to bfloat16; torch rounds below.
    out = a.new_empty((m, n), dtype=torch.float32 if INTERPRETED else out_dtype)
    if out.numel():
        launch: Any = matmul_kernel[(triton.cdiv(m, side) * triton.cdiv(n, width),)]
        with torch.cuda.device_of(a):
            launch(
                a, a_scales.contiguous(), b, b_scales.contiguous(), out, m, n, k,
                B_BLOCKS=b_layout == "blocks", WIDTH=width, INTERP=INTERPRETED, **CONSTANTS,
                **OPTIONS,
            )  # fmt: skip
    return out.to(out_dtype)


def aligned(matrix: Tensor) -> Tensor:
    """Filled up with zeros along the contraction, the last dimension, to whole loads."""
    padding = -matrix.shape[-1] % ALIGNMENT
    if not padding:
        return matrix.contiguous()
    padded = functional.pad(matrix.view(torch.uint8), (0, padding))
    return padded.view(torch.float8_e4m3fn)


SPECIALISATIONS = tuple(
    Specialisation(
        name=f"matmul/{layout}/{dtype}",
        kernel=matmul_kernel,
        signature={
            "a_ptr": "*fp8e4nv",
            "a_scales_ptr": "*fp32",
            "b_ptr": "*fp8e4nv",
            "b_scales_ptr": "*fp32",
            "out_ptr": pointer,
            "M": "i32",
            "N": "i32",
            "K": "i32",
        },
        constants={
            "B_BLOCKS": layout == "blocks",
            "WIDTH": WIDTHS[layout],
            "INTERP": False,
            **CONSTANTS,
        },
        aligned=frozenset({"a_ptr", "a_scales_ptr", "b_ptr", "b_scales_ptr", "out_ptr", "N", "K"}),
        num_warps=WARPS,
        num_stages=STAGES,
        opcodes={"sm_90a": r"QGMMA\S*E4M3\.E4M3", "sm_100a": "UTCQMMA"},
    )
    for layout, dtype, pointer in (
        ("blocks", "bfloat16", "*bf16"),
        ("blocks", "float32", "*fp32"),
        ("tiles", "float32", "*fp32"),
    )
)
"""The forward product and the input's gradient in either dtype, and the weight's gradient."""

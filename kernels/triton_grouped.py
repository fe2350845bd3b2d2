"""Triton kernels of the grouped FP8 products: those of `cotree.kernels.grouped` on tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from triton import knobs

from cotree.kernels.specialisation import Specialisation
from cotree.kernels.triton_matmul import OPTIONS, STAGES, WARPS, aligned

if TYPE_CHECKING:
    from torch import Tensor

INTERPRETED: bool = knobs.runtime.interpret
"""Whether the kernels run on the CPU; fixed when they are decorated."""
CONSTANTS = {"SIDE": 128, "GROUP": 8}
"""SIDE: rows, columns and contraction of a program's tile. GROUP: tiles of rows that share their
columns of b in the cache."""
GRADIENT_CONSTANTS = {"SIDE": 128, "WIDTH": 64}
"""WIDTH: columns of a program's tile. Each has scales of its own: those of 128 would need more
registers than a thread has."""


@triton.jit
def grouped_matmul_kernel(
    a_ptr: tl.tensor,
    a_scales_ptr: tl.tensor,
    b_ptr: tl.tensor,
    b_scales_ptr: tl.tensor,
    out_ptr: tl.tensor,
    tile_experts_ptr: tl.tensor,
    tile_rows_ptr: tl.tensor,
    offsets_ptr: tl.tensor,
    tiles_m: tl.tensor,
    num_experts: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    SIDE: tl.constexpr,
    GROUP: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """One [SIDE, SIDE] tile of one expert's rows of a [T, K] @ its b [N, K].T, both e4m3."""
    tiles_n, tiles_k = tl.cdiv(N, SIDE), tl.cdiv(K, SIDE)
    first_m = tl.program_id(0) // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first_m, GROUP)
    tile_m = first_m + tl.program_id(0) % (GROUP * tiles_n) % height
    tile_n = tl.program_id(0) % (GROUP * tiles_n) // height
    expert = tl.load(tile_experts_ptr + tile_m)
    if expert == num_experts:
        return
    rows = tl.load(tile_rows_ptr + tile_m) + tl.arange(0, SIDE)
    columns = tile_n * SIDE + tl.arange(0, SIDE)
    inner = tl.arange(0, SIDE)
    row_inside, column_inside = rows < tl.load(offsets_ptr + expert), columns < N
    a_ptrs = a_ptr + rows[:, None].to(tl.int64) * K + inner[None, :]
    b_rows = expert.to(tl.int64) * N + columns
    b_ptrs = b_ptr + b_rows[None, :] * K + inner[:, None]
    a_scale_ptrs = a_scales_ptr + rows.to(tl.int64) * tiles_k
    b_scale_ptrs = b_scales_ptr + (expert.to(tl.int64) * tiles_n + tile_n) * tiles_k
    total = tl.zeros((SIDE, SIDE), dtype=tl.float32)
    for k in range(tiles_k):
        inside = inner < K - k * SIDE
        a = tl.load(a_ptrs + k * SIDE, mask=row_inside[:, None] & inside[None, :], other=0.0)
        b = tl.load(b_ptrs + k * SIDE, mask=column_inside[None, :] & inside[:, None], other=0.0)
        a_scale = tl.load(a_scale_ptrs + k, mask=row_inside, other=0.0)
        scale = a_scale[:, None] * tl.load(b_scale_ptrs + k)
        if INTERP:
            # It multiplies the bytes of e4m3 as if they were integers.
            a, b = a.to(tl.float32), b.to(tl.float32)
        # A dot that adds to `total` itself would keep the tensor cores' 14 bits over all of K.
        total += tl.dot(a, b) * scale
    places = rows[:, None].to(tl.int64) * N + columns[None, :]
    tl.store(out_ptr + places, total, mask=row_inside[:, None] & column_inside[None, :])


@triton.jit
def grouped_weight_gradient_kernel(
    dy_ptr: tl.tensor,
    dy_scales_ptr: tl.tensor,
    x_ptr: tl.tensor,
    x_scales_ptr: tl.tensor,
    out_ptr: tl.tensor,
    padded_ptr: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    P: tl.tensor,
    SIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """One [SIDE, WIDTH] tile of one expert's dy [N, P] @ x [K, P].T over its own positions."""
    expert = tl.program_id(2)
    rows = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inner = tl.arange(0, SIDE)
    row_inside, column_inside = rows < N, columns < K
    first = tl.load(padded_ptr + expert - 1, mask=expert > 0, other=0) // SIDE
    last = tl.load(padded_ptr + expert) // SIDE
    tiles = P // SIDE
    dy_ptrs = dy_ptr + rows[:, None].to(tl.int64) * P + inner[None, :]
    x_ptrs = x_ptr + columns[None, :].to(tl.int64) * P + inner[:, None]
    dy_scale_ptrs = dy_scales_ptr + rows.to(tl.int64) * tiles
    x_scale_ptrs = x_scales_ptr + columns.to(tl.int64) * tiles
    total = tl.zeros((SIDE, WIDTH), dtype=tl.float32)
    for t in range(first, last):
        dy = tl.load(dy_ptrs + t * SIDE, mask=row_inside[:, None], other=0.0)
        x = tl.load(x_ptrs + t * SIDE, mask=column_inside[None, :], other=0.0)
        dy_scale = tl.load(dy_scale_ptrs + t, mask=row_inside, other=0.0)
        x_scale = tl.load(x_scale_ptrs + t, mask=column_inside, other=0.0)
        if INTERP:
            dy, x = dy.to(tl.float32), x.to(tl.float32)
        total += tl.dot(dy, x) * (dy_scale[:, None] * x_scale[None, :])
    # Within an expert's matrix 32 bits do; 64 for every element would spill registers.
    out_ptr += expert.to(tl.int64) * N * K
    places = rows[:, None] * K + columns[None, :]
    tl.store(out_ptr + places, total, mask=row_inside[:, None] & column_inside[None, :])


def grouped_matmul(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    offsets: Tensor,
    *,
    out_dtype: torch.dtype,
) -> Tensor:
    """`grouped.grouped_matmul` on a GPU; on the CPU under the interpreter.

    No GPU is waited for: there are as many programs as T rows of E experts could need, and those
    without rows stop at once.
    """
    a, b = aligned(a), aligned(b)
    (num_rows, k), (num_experts, n, _) = a.shape, b.shape
    side = CONSTANTS["SIDE"]
    blocks = (num_experts, triton.cdiv(n, side), triton.cdiv(k, side))
    if a_scales.shape != (num_rows, blocks[2]) or b_scales.shape != blocks:
        raise ValueError(
            f"grouped_matmul of {(num_rows, k)} and {(num_experts, n, k)} needs scales "
            f"{(num_rows, blocks[2])} and {blocks}; "
            f"got {tuple(a_scales.shape)} and {tuple(b_scales.shape)}."
        )
    # The interpreter truncates to bfloat16; torch rounds below.
    out = a.new_empty((num_rows, n), dtype=torch.float32 if INTERPRETED else out_dtype)
    if out.numel():
        tile_experts, tile_rows = _tiles(offsets, num_rows)
        launch: Any = grouped_matmul_kernel[(len(tile_experts) * blocks[1],)]
        with torch.cuda.device_of(a):
            launch(
                a, a_scales.contiguous(), b, b_scales.contiguous(), out,
                tile_experts, tile_rows, offsets, len(tile_experts), num_experts, n, k,
                INTERP=INTERPRETED, **CONSTANTS, **OPTIONS,
            )  # fmt: skip
    return out.to(out_dtype)


def grouped_weight_gradient(
    dy: Tensor, dy_scales: Tensor, x: Tensor, x_scales: Tensor, padded: Tensor
) -> Tensor:
    """`grouped.grouped_weight_gradient` on a GPU; on the CPU under the interpreter."""
    (n, positions), k = dy.shape, len(x)
    side, width = GRADIENT_CONSTANTS["SIDE"], GRADIENT_CONSTANTS["WIDTH"]
    tiles, num_experts = positions // side, len(padded)
    fits = positions % side == 0 and x.shape[1] == positions
    if not fits or dy_scales.shape != (n, tiles) or x_scales.shape != (k, tiles):
        got = [tuple(tensor.shape) for tensor in (dy, dy_scales, x, x_scales)]
        raise ValueError(
            "grouped_weight_gradient needs dy [N, P], x [K, P] and a scale for every 128 of P, a "
            f"multiple of 128; got {got}."
        )
    out = dy.new_empty((num_experts, n, k), dtype=torch.float32)
    if out.numel():
        grid = (triton.cdiv(k, width), triton.cdiv(n, side), num_experts)
        launch: Any = grouped_weight_gradient_kernel[grid]
        with torch.cuda.device_of(dy):
            launch(
                dy.contiguous(), dy_scales.contiguous(), x.contiguous(), x_scales.contiguous(),
                out, padded, n, k, positions,
                INTERP=INTERPRETED, **GRADIENT_CONSTANTS, **OPTIONS,
            )  # fmt: skip
    return out


def _tiles(offsets: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """The expert and the first row of each tile of rows, int32; the expert is E where none is."""
    side = CONSTANTS["SIDE"]
    sizes = offsets.diff(prepend=offsets.new_zeros(1))
    tiles = (sizes + side - 1) // side
    ends = tiles.cumsum(0, dtype=torch.int32)
    most = (num_rows + (side - 1) * min(len(offsets), num_rows)) // side
    index = torch.arange(most, device=offsets.device, dtype=torch.int32)
    experts = torch.searchsorted(ends, index, right=True, out_int32=True)
    # Of the tile: its rows begin `side` behind those of the one before, its expert's first tile
    # where the expert does.
    shift = torch.cat([offsets - sizes - (ends - tiles) * side, offsets.new_zeros(1)])
    return experts, index * side + shift[experts]


_FP8 = {"sm_90a": r"QGMMA\S*E4M3\.E4M3", "sm_100a": "UTCQMMA"}

SPECIALISATIONS = (
    *(
        Specialisation(
            name=f"grouped_matmul/{dtype}",
            kernel=grouped_matmul_kernel,
            signature={
                "a_ptr": "*fp8e4nv",
                "a_scales_ptr": "*fp32",
                "b_ptr": "*fp8e4nv",
                "b_scales_ptr": "*fp32",
                "out_ptr": pointer,
                "tile_experts_ptr": "*i32",
                "tile_rows_ptr": "*i32",
                "offsets_ptr": "*i32",
                "tiles_m": "i32",
                "num_experts": "i32",
                "N": "i32",
                "K": "i32",
            },
            constants={"INTERP": False, **CONSTANTS},
            aligned=frozenset(
                {"a_ptr", "a_scales_ptr", "b_ptr", "b_scales_ptr", "out_ptr", "N", "K"}
            ),
            num_warps=WARPS,
            num_stages=STAGES,
            opcodes=_FP8,
        )
        for dtype, pointer in (("bfloat16", "*bf16"), ("float32", "*fp32"))
    ),
    Specialisation(
        name="grouped_weight_gradient/float32",
        kernel=grouped_weight_gradient_kernel,
        signature={
            "dy_ptr": "*fp8e4nv",
            "dy_scales_ptr": "*fp32",
            "x_ptr": "*fp8e4nv",
            "x_scales_ptr": "*fp32",
            "out_ptr": "*fp32",
            "padded_ptr": "*i32",
            "N": "i32",
            "K": "i32",
            "P": "i32",
        },
        constants={"INTERP": False, **GRADIENT_CONSTANTS},
        aligned=frozenset(
            {"dy_ptr", "dy_scales_ptr", "x_ptr", "x_scales_ptr", "out_ptr", "N", "K", "P"}
        ),
        num_warps=WARPS,
        num_stages=STAGES,
        opcodes=_FP8,
    ),
)
"""The forward product and the input's gradient in either dtype, and the weight's gradient."""

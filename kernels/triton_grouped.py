"""Triton kernels of the grouped FP8 products: those of `cotree.kernels.grouped` on tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from triton import knobs

from cotree.kernels.specialisation import Specialisation
from cotree.kernels.triton_matmul import FORMS, GROUP, SIDE, aligned, step_operands

if TYPE_CHECKING:
    from torch import Tensor

INTERPRETED: bool = knobs.runtime.interpret
"""Whether the kernels run on the CPU; fixed when they are decorated."""
ROWS_FORM, GRADIENT_FORM = FORMS["blocks"], FORMS["tiles"]
"""How the two products are cut into programs: as those of one matrix."""


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
    T: tl.tensor,
    N: tl.tensor,
    K: tl.tensor,
    WHOLE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    GROUP: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """One [HEIGHT, WIDTH] tile of one expert's rows of a [T, K] @ its b [N, K].T, both e4m3.

    Scales of a are [tiles, T]. WHOLE: K is a multiple of SIDE.
    """
    tiles_n, tiles_k = tl.cdiv(N, WIDTH), tl.cdiv(K, SIDE)
    first_m = tl.program_id(0) // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first_m, GROUP)
    tile_m = first_m + tl.program_id(0) % (GROUP * tiles_n) % height
    tile_n = tl.program_id(0) % (GROUP * tiles_n) // height
    expert = tl.load(tile_experts_ptr + tile_m)
    if expert == num_experts:
        return
    rows = tl.load(tile_rows_ptr + tile_m) + tl.arange(0, HEIGHT)
    columns = tile_n * WIDTH + tl.arange(0, WIDTH)
    inner = tl.arange(0, SIDE)
    row_inside, column_inside = rows < tl.load(offsets_ptr + expert), columns < N
    # Behind the last row stands the first: what it gives is not stored.
    read_rows, read_columns = tl.where(row_inside, rows, 0), tl.where(column_inside, columns, 0)
    a_ptrs = a_ptr + read_rows[:, None].to(tl.int64) * K + inner[None, :]
    b_rows = expert.to(tl.int64) * N + read_columns
    b_ptrs = b_ptr + b_rows[None, :] * K + inner[:, None]
    b_scale_ptrs = b_scales_ptr + (expert * tiles_n + tile_n) * tiles_k
    total = tl.zeros((HEIGHT, WIDTH), dtype=tl.float32)
    for k in range(tiles_k):
        a, b = step_operands(a_ptrs, b_ptrs, k, K, WHOLE, SIDE, INTERP)  # pyright: ignore[reportArgumentType]
        a_scale = tl.load(a_scales_ptr + k * T + read_rows)
        scale = a_scale[:, None] * tl.load(b_scale_ptrs + k)
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
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """One [HEIGHT, WIDTH] tile of one expert's dy [N, P] @ x [K, P].T over its own positions.

    Scales are [tiles of P, N] and [tiles of P, K].
    """
    expert = tl.program_id(2)
    rows = tl.program_id(1) * HEIGHT + tl.arange(0, HEIGHT)
    columns = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    inner = tl.arange(0, SIDE)
    row_inside, column_inside = rows < N, columns < K
    first = tl.load(padded_ptr + expert - 1, mask=expert > 0, other=0) // SIDE
    last = tl.load(padded_ptr + expert) // SIDE
    read_rows, read_columns = tl.where(row_inside, rows, 0), tl.where(column_inside, columns, 0)
    dy_ptrs = dy_ptr + read_rows[:, None].to(tl.int64) * P + inner[None, :]
    x_ptrs = x_ptr + read_columns[None, :].to(tl.int64) * P + inner[:, None]
    total = tl.zeros((HEIGHT, WIDTH), dtype=tl.float32)
    for t in range(first, last):
        dy, x = step_operands(dy_ptrs, x_ptrs, t, P, True, SIDE, INTERP)  # pyright: ignore[reportArgumentType]
        dy_scale = tl.load(dy_scales_ptr + t * N + read_rows)
        x_scale = tl.load(x_scales_ptr + t * K + read_columns)
        # One after the other: their outer product would take registers of its own.
        total += tl.dot(dy, x) * dy_scale[:, None] * x_scale[None, :]
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
    blocks = (num_experts, triton.cdiv(n, SIDE), triton.cdiv(k, SIDE))
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
                a, a_scales.T.contiguous(), b, b_scales.contiguous(), out,
                tile_experts, tile_rows, offsets, len(tile_experts), num_experts, num_rows, n, k,
                WHOLE=k % SIDE == 0, GROUP=GROUP, INTERP=INTERPRETED,
                **ROWS_FORM.constants, **ROWS_FORM.options,
            )  # fmt: skip
    return out.to(out_dtype)


def grouped_weight_gradient(
    dy: Tensor, dy_scales: Tensor, x: Tensor, x_scales: Tensor, padded: Tensor
) -> Tensor:
    """`grouped.grouped_weight_gradient` on a GPU; on the CPU under the interpreter."""
    (n, positions), k = dy.shape, len(x)
    form = GRADIENT_FORM
    tiles, num_experts = positions // SIDE, len(padded)
    fits = positions % SIDE == 0 and x.shape[1] == positions
    if not fits or dy_scales.shape != (n, tiles) or x_scales.shape != (k, tiles):
        got = [tuple(tensor.shape) for tensor in (dy, dy_scales, x, x_scales)]
        raise ValueError(
            "grouped_weight_gradient needs dy [N, P], x [K, P] and a scale for every 128 of P, a "
            f"multiple of 128; got {got}."
        )
    out = dy.new_empty((num_experts, n, k), dtype=torch.float32)
    if out.numel():
        grid = (triton.cdiv(k, form.width), triton.cdiv(n, form.height), num_experts)
        launch: Any = grouped_weight_gradient_kernel[grid]
        with torch.cuda.device_of(dy):
            launch(
                dy.contiguous(), dy_scales.T.contiguous(), x.contiguous(),
                x_scales.T.contiguous(), out, padded, n, k, positions,
                INTERP=INTERPRETED, **form.constants, **form.options,
            )  # fmt: skip
    return out


def _tiles(offsets: Tensor, num_rows: int) -> tuple[Tensor, Tensor]:
    """The expert and the first row of each tile of rows, int32; the expert is E where none is."""
    side = ROWS_FORM.height
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
            name=f"grouped_matmul/{dtype}" + ("" if whole else "/parts"),
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
                "T": "i32",
                "N": "i32",
                "K": "i32",
            },
            constants={
                "WHOLE": whole,
                "GROUP": GROUP,
                "INTERP": False,
                **ROWS_FORM.constants,
            },
            aligned=frozenset(
                {"a_ptr", "a_scales_ptr", "b_ptr", "b_scales_ptr", "out_ptr", "N", "K"}
            ),
            num_warps=ROWS_FORM.num_warps,
            num_stages=ROWS_FORM.num_stages,
            opcodes=_FP8,
        )
        for dtype, pointer in (("bfloat16", "*bf16"), ("float32", "*fp32"))
        for whole in (True, False)
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
        constants={"INTERP": False, **GRADIENT_FORM.constants},
        aligned=frozenset(
            {"dy_ptr", "dy_scales_ptr", "x_ptr", "x_scales_ptr", "out_ptr", "N", "K", "P"}
        ),
        num_warps=GRADIENT_FORM.num_warps,
        num_stages=GRADIENT_FORM.num_stages,
        opcodes=_FP8,
    ),
)
"""The forward product and the input's gradient in either dtype, for whole tiles along the
contraction and for a last one in part, and the weight's gradient."""

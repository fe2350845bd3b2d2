"""Triton kernel of the FP8 product: `cotree.kernels.fp8.matmul` on tensor cores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

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
SIDE = 128
"""Contraction of a step: that of one scale."""


class Form(NamedTuple):
    """How a product is cut into programs."""

    height: int
    """Rows of a program's tile."""
    width: int
    """Columns."""
    num_warps: int
    num_stages: int

    @property
    def constants(self) -> dict[str, Any]:
        """Of the kernel."""
        return {"HEIGHT": self.height, "WIDTH": self.width, "SIDE": SIDE}

    @property
    def options(self) -> dict[str, Any]:
        """Of its launch."""
        stages, warps = self.num_stages, self.num_warps
        return {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": True}


FORMS = {"blocks": Form(128, 128, 8, 3), "tiles": Form(64, 128, 4, 4)}
"""By the layout of b's scales: the fastest on an H100 of those, among 35, whose stages fit into the
shared memory of every GPU with e4m3 (99 KiB, Ada's)."""
GROUP = 8
"""Tiles of rows that share their columns of b in the cache."""
ALIGNMENT = 16
"""Bytes of the widest load: rows that do not start at a multiple are copied a byte at a time,
without the pipeline, and spill registers."""


@triton.jit
def step_operands(
    a_ptrs: tl.tensor,
    b_ptrs: tl.tensor,
    k: tl.tensor,
    K: tl.tensor,
    WHOLE: tl.constexpr,
    SIDE: tl.constexpr,
    INTERP: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor]:
    """A step's tiles of a and b. WHOLE: K is a multiple of SIDE.

    Without masks loads are copied to shared memory in less time.
    """
    if WHOLE:
        a, b = tl.load(a_ptrs + k * SIDE), tl.load(b_ptrs + k * SIDE)
    else:
        inside = tl.arange(0, SIDE) < K - k * SIDE
        a = tl.load(a_ptrs + k * SIDE, mask=inside[None, :], other=0.0)
        b = tl.load(b_ptrs + k * SIDE, mask=inside[:, None], other=0.0)
    if INTERP:
        # It multiplies the bytes of e4m3 as if they were integers.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return a, b


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
    WHOLE: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    SIDE: tl.constexpr,
    GROUP: tl.constexpr,
    STAGES: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """One [HEIGHT, WIDTH] tile of a [M, K] @ b [N, K].T, both e4m3.

    Scales are those of a step together: [tiles, M] and [tiles, N], or [blocks of N, tiles].
    """
    tiles_m, tiles_n, tiles_k = tl.cdiv(M, HEIGHT), tl.cdiv(N, WIDTH), tl.cdiv(K, SIDE)
    first_m = tl.program_id(0) // (GROUP * tiles_n) * GROUP
    height = tl.minimum(tiles_m - first_m, GROUP)
    tile_m = first_m + tl.program_id(0) % (GROUP * tiles_n) % height
    tile_n = tl.program_id(0) % (GROUP * tiles_n) // height
    rows = tile_m * HEIGHT + tl.arange(0, HEIGHT)
    columns = tile_n * WIDTH + tl.arange(0, WIDTH)
    inner = tl.arange(0, SIDE)
    row_inside, column_inside = rows < M, columns < N
    # Behind the last row stands the first: what it gives is not stored.
    read_rows, read_columns = tl.where(row_inside, rows, 0), tl.where(column_inside, columns, 0)
    a_ptrs = a_ptr + read_rows[:, None].to(tl.int64) * K + inner[None, :]
    b_ptrs = b_ptr + read_columns[None, :].to(tl.int64) * K + inner[:, None]
    total = tl.zeros((HEIGHT, WIDTH), dtype=tl.float32)
    # Said here, the number of stages holds for the scales' loads as well; a launch's alone would
    # leave them out, as they feed no dot.
    for k in tl.range(tiles_k, num_stages=STAGES):  # pyright: ignore[reportGeneralTypeIssues]
        a, b = step_operands(a_ptrs, b_ptrs, k, K, WHOLE, SIDE, INTERP)
        a_scale = tl.load(a_scales_ptr + k * M + read_rows)
        # A dot that adds to `total` itself would keep the tensor cores' 14 bits over all of K.
        if B_BLOCKS:
            b_scale = tl.load(b_scales_ptr + tile_n * WIDTH // SIDE * tiles_k + k)
            total += tl.dot(a, b) * (a_scale * b_scale)[:, None]
        else:
            b_scale = tl.load(b_scales_ptr + k * N + read_columns)
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
    form = FORMS[b_layout]
    rows = {"tiles": n, "blocks": triton.cdiv(n, SIDE)}[b_layout]
    tiles = triton.cdiv(k, SIDE)
    if a_scales.shape != (m, tiles) or b_scales.shape != (rows, tiles):
        raise ValueError(
            f"matmul of {(m, k)} and {(n, k)} needs scales {(m, tiles)} and {(rows, tiles)}; "
            f"got {tuple(a_scales.shape)} and {tuple(b_scales.shape)}."
        )
    # The interpreter truncates to bfloat16; torch rounds below.
    out = a.new_empty((m, n), dtype=torch.float32 if INTERPRETED else out_dtype)
    if out.numel():
        grid = (triton.cdiv(m, form.height) * triton.cdiv(n, form.width),)
        launch: Any = matmul_kernel[grid]
        of_b = b_scales if b_layout == "blocks" else b_scales.T
        with torch.cuda.device_of(a):
            launch(
                a, a_scales.T.contiguous(), b, of_b.contiguous(), out, m, n, k,
                B_BLOCKS=b_layout == "blocks", WHOLE=k % SIDE == 0, GROUP=GROUP,
                STAGES=form.num_stages, INTERP=INTERPRETED, **form.constants, **form.options,
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
        name=f"matmul/{layout}/{dtype}" + ("" if whole else "/parts"),
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
            "WHOLE": whole,
            "GROUP": GROUP,
            "STAGES": FORMS[layout].num_stages,
            "INTERP": False,
            **FORMS[layout].constants,
        },
        aligned=frozenset({"a_ptr", "a_scales_ptr", "b_ptr", "b_scales_ptr", "out_ptr", "N", "K"}),
        num_warps=FORMS[layout].num_warps,
        num_stages=FORMS[layout].num_stages,
        opcodes={"sm_90a": r"QGMMA\S*E4M3\.E4M3", "sm_100a": "UTCQMMA"},
    )
    for layout, dtype, pointer in (
        ("blocks", "bfloat16", "*bf16"),
        ("blocks", "float32", "*fp32"),
        ("tiles", "float32", "*fp32"),
    )
    for whole in (True, False)
)
"""The forward product and the input's gradient in either dtype, and the weight's gradient; each
for whole tiles along the contraction, and for a last one in part."""

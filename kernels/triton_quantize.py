"""Triton kernels of the FP8 quantisers: the bytes and scales of `cotree.kernels.fp8`.

Scales of tiles are stored with those of one 128 of the contraction together, as the products read
them: a program's rows side by side, not each a line of the cache apart.

A tile's largest value is found as an integer: the bits of |x| order as |x| does, with infinity and
NaN on top, whereas a float maximum on a GPU drops a NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from triton import knobs

from cotree.kernels.specialisation import Specialisation

if TYPE_CHECKING:
    from torch import Tensor

    from cotree.kernels.fp8 import ScaleFormat

INTERPRETED: bool = knobs.runtime.interpret
"""Whether these kernels run on the CPU; fixed when they are decorated."""
SIDE = 128
ROWS = 32
"""Rows of a program that makes tiles; features of one that makes transposed tiles."""
WARPS = {"tiles": 4, "tiles_transposed": 4, "blocks": 16, "transpose": 8}
"""Chosen so that no register is spilled on sm_90 and sm_100: blocks take 254 registers with 8."""


@triton.jit
def to_float32(x: tl.tensor, INTERP: tl.constexpr) -> tl.tensor:
    """Values in float32, exactly; the interpreter's own cast breaks bfloat16's subnormals."""
    if INTERP and x.dtype == tl.bfloat16:
        bits = x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        return bits.to(tl.float32, bitcast=True)
    return x.to(tl.float32)


@triton.jit
def scale_of(x: tl.tensor, AXIS: tl.constexpr, POW2: tl.constexpr) -> tl.tensor:
    """Scales of float32 tiles that lie along AXIS, or of all of `x` if it is None."""
    bits = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return scale_from_bits(tl.max(bits, axis=AXIS), POW2)  # pyright: ignore[reportArgumentType]


@triton.jit
def scale_from_bits(largest: tl.tensor, POW2: tl.constexpr) -> tl.tensor:
    """Scales from the bits of the largest |value|, by the rule of `fp8.quantize_tiles`."""
    if POW2:
        exponent = (largest >> 23) - 8 + ((largest & 0x7FFFFF) > 0x600000).to(tl.int32)
        scale = (tl.maximum(exponent, 1) << 23).to(tl.float32, bitcast=True)
    else:
        # `/` is not the IEEE division: it would differ from torch in the last bit.
        scale = tl.div_rn(largest.to(tl.float32, bitcast=True), 448.0)
        scale = tl.maximum(scale, 1.1754943508222875e-38)
    scale = tl.where(largest == 0, 1.0, scale)
    return tl.where(largest >= 0x7F800000, float("nan"), scale)


@triton.jit
def divided(x: tl.tensor, scale: tl.tensor, POW2: tl.constexpr) -> tl.tensor:
    """Quotients x / scale, rounded as IEEE asks, and NaN of one sign where the scale is NaN."""
    if POW2:
        # The reciprocal of 2^e has the exponent field 254 - field(e), and is exact.
        field = 254 - (scale.to(tl.int32, bitcast=True) >> 23)
        quotient = x * (field << 23).to(tl.float32, bitcast=True)
    else:
        quotient = tl.div_rn(x, scale)
    return tl.where(scale == scale, quotient, float("nan"))


@triton.jit
def to_e4m3(x: tl.tensor, INTERP: tl.constexpr) -> tl.tensor:
    """Values in [-448, 448] as e4m3, rounded to nearest even.

    The interpreter's cast truncates, and makes a number of a NaN. There, values are put on the
    grid first: adding 1.5 * 2^(e + 20) leaves the bits that e4m3 has at exponent e, and -6 is the
    exponent of the subnormals.
    """
    if INTERP:
        bits = x.to(tl.int32, bitcast=True)
        exponent = tl.maximum((bits >> 23) & 0xFF, 121)
        magic = (((exponent + 20) << 23) | 0x400000).to(tl.float32, bitcast=True)
        rounded = ((x + magic) - magic).to(tl.int32, bitcast=True)
        signed = (rounded & 0x7FFFFFFF) | ((bits >> 31) << 31)
        q = signed.to(tl.float32, bitcast=True).to(tl.float8e4nv).to(tl.uint8, bitcast=True)
        return tl.where(x == x, q, 0x7F).to(tl.uint8).to(tl.float8e4nv, bitcast=True)
    return x.to(tl.float8e4nv)


@triton.jit
def quantize_tiles_kernel(
    values_ptr: tl.tensor,
    q_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    POW2: tl.constexpr,
    ROWS: tl.constexpr,
    SIDE: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """ROWS tiles below one another: values [rows, columns] -> q alike, scales [tiles, rows]."""
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    offsets = rows[:, None].to(tl.int64) * num_columns + columns[None, :]
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    x = to_float32(tl.load(values_ptr + offsets, mask=inside, other=0.0), INTERP)
    scale = scale_of(x, 1, POW2)  # pyright: ignore[reportArgumentType]
    q = to_e4m3(divided(x, scale[:, None], POW2), INTERP)
    tl.store(q_ptr + offsets, q, mask=inside)
    scale_offsets = tl.program_id(1).to(tl.int64) * num_rows + rows
    tl.store(scales_ptr + scale_offsets, scale, mask=rows < num_rows)


@triton.jit
def quantize_tiles_transposed_kernel(
    values_ptr: tl.tensor,
    q_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    POW2: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIDE: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """COLUMNS tiles of SIDE rows: values [rows, columns] -> q [columns, rows].

    Scales are [tiles, columns].
    """
    rows = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    offsets = rows[:, None].to(tl.int64) * num_columns + columns[None, :]
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    x = to_float32(tl.load(values_ptr + offsets, mask=inside, other=0.0), INTERP)
    scale = scale_of(x, 0, POW2)  # pyright: ignore[reportArgumentType]
    q = tl.trans(to_e4m3(divided(x, scale[None, :], POW2), INTERP))
    offsets = columns[:, None].to(tl.int64) * num_rows + rows[None, :]
    inside = (columns[:, None] < num_columns) & (rows[None, :] < num_rows)
    tl.store(q_ptr + offsets, q, mask=inside)
    scale_offsets = tl.program_id(0).to(tl.int64) * num_columns + columns
    tl.store(scales_ptr + scale_offsets, scale, mask=columns < num_columns)


@triton.jit
def quantize_blocks_kernel(
    values_ptr: tl.tensor,
    q_ptr: tl.tensor,
    scales_ptr: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    POW2: tl.constexpr,
    SIDE: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """One block of one expert: values [experts, rows, columns] -> q alike, scales of blocks."""
    rows = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    columns = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    expert = tl.program_id(2).to(tl.int64)
    offsets = (expert * num_rows + rows[:, None]) * num_columns + columns[None, :]
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    x = to_float32(tl.load(values_ptr + offsets, mask=inside, other=0.0), INTERP)
    scale = scale_of(x, None, POW2)  # pyright: ignore[reportArgumentType]
    q = to_e4m3(divided(x, scale, POW2), INTERP)
    tl.store(q_ptr + offsets, q, mask=inside)
    block = expert * tl.num_programs(0) + tl.program_id(0)
    tl.store(scales_ptr + block * tl.num_programs(1) + tl.program_id(1), scale)


@triton.jit
def transpose_kernel(
    values_ptr: tl.tensor,
    out_ptr: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    SIDE: tl.constexpr,
) -> None:
    """One tile of one matrix of bytes: values [experts, rows, columns] -> [.., columns, rows]."""
    rows = tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    columns = tl.program_id(1) * SIDE + tl.arange(0, SIDE)
    start = tl.program_id(2).to(tl.int64) * num_rows * num_columns
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    offsets = start + rows[:, None].to(tl.int64) * num_columns + columns[None, :]
    values = tl.trans(tl.load(values_ptr + offsets, mask=inside))
    offsets = start + columns[:, None].to(tl.int64) * num_rows + rows[None, :]
    inside = (columns[:, None] < num_columns) & (rows[None, :] < num_rows)
    tl.store(out_ptr + offsets, values, mask=inside)


def quantize_tiles(values: Tensor, *, scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    """`fp8.quantize_tiles` on a GPU; on the CPU under the interpreter."""
    values, (m, k) = values.contiguous(), _matrix(values)
    q, scale = _results(values, (m, k), (triton.cdiv(k, SIDE), m))
    grid = (triton.cdiv(m, ROWS), triton.cdiv(k, SIDE))
    if q.numel():
        launch: Any = quantize_tiles_kernel[grid]
        with torch.cuda.device_of(values):
            launch(
                values, q, scale, m, k, POW2=scales == "pow2", ROWS=ROWS, SIDE=SIDE,
                INTERP=INTERPRETED, **_options("tiles"),
            )  # fmt: skip
    return q, scale.T


def quantize_tiles_transposed(values: Tensor, *, scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    """`fp8.quantize_tiles_transposed` on a GPU; on the CPU under the interpreter."""
    values, (m, k) = values.contiguous(), _matrix(values)
    q, scale = _results(values, (k, m), (triton.cdiv(m, SIDE), k))
    grid = (triton.cdiv(m, SIDE), triton.cdiv(k, ROWS))
    if q.numel():
        launch: Any = quantize_tiles_transposed_kernel[grid]
        with torch.cuda.device_of(values):
            launch(
                values, q, scale, m, k, POW2=scales == "pow2", COLUMNS=ROWS, SIDE=SIDE,
                INTERP=INTERPRETED, **_options("tiles_transposed"),
            )  # fmt: skip
    return q, scale.T


def quantize_blocks(weight: Tensor, *, scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    """`fp8.quantize_blocks` on a GPU; on the CPU under the interpreter."""
    if weight.ndim not in (2, 3):
        raise ValueError(f"quantize_blocks needs [N, K] or [E, N, K]; got {tuple(weight.shape)}.")
    weight, (n, k) = weight.contiguous(), weight.shape[-2:]
    blocks = (triton.cdiv(n, SIDE), triton.cdiv(k, SIDE))
    q, scale = _results(weight, weight.shape, (*weight.shape[:-2], *blocks))
    if q.numel():
        launch: Any = quantize_blocks_kernel[(*blocks, weight.numel() // (n * k))]
        with torch.cuda.device_of(weight):
            launch(
                weight, q, scale, n, k, POW2=scales == "pow2", SIDE=SIDE,
                INTERP=INTERPRETED, **_options("blocks"),
            )  # fmt: skip
    return q, scale


def transposed(q: Tensor) -> Tensor:
    """`fp8.transposed` on a GPU; on the CPU under the interpreter."""
    q, (n, k) = q.contiguous(), q.shape[-2:]
    out = q.new_empty((*q.shape[:-2], k, n))
    if q.numel():
        grid = (triton.cdiv(n, SIDE), triton.cdiv(k, SIDE), q.numel() // (n * k))
        launch: Any = transpose_kernel[grid]
        with torch.cuda.device_of(q):
            launch(
                q.view(torch.uint8), out.view(torch.uint8), n, k, SIDE=SIDE, **_options("transpose")
            )
    return out


def _options(name: str) -> dict[str, Any]:
    return {"num_warps": WARPS[name], "enable_fp_fusion": True}


def _matrix(values: Tensor) -> tuple[int, int]:
    if values.ndim != 2:
        raise ValueError(f"tiles are made of a matrix [M, K]; got {tuple(values.shape)}.")
    return values.shape[0], values.shape[1]


def _results(
    values: Tensor, shape: tuple[int, ...], scale_shape: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    q = values.new_empty(shape, dtype=torch.float8_e4m3fn)
    return q, values.new_empty(scale_shape, dtype=torch.float32)


_KERNELS = {
    "tiles": (quantize_tiles_kernel, {"ROWS": ROWS, "SIDE": SIDE}),
    "tiles_transposed": (quantize_tiles_transposed_kernel, {"COLUMNS": ROWS, "SIDE": SIDE}),
    "blocks": (quantize_blocks_kernel, {"SIDE": SIDE}),
}
_TYPES = {"float32": "*fp32", "bfloat16": "*bf16"}

_QUANTISERS = tuple(
    Specialisation(
        name=f"quantize_{name}/{dtype}/{scales}",
        kernel=kernel,
        signature={
            "values_ptr": pointer,
            "q_ptr": "*fp8e4nv",
            "scales_ptr": "*fp32",
            "num_rows": "i32",
            "num_columns": "i32",
        },
        constants={"POW2": scales == "pow2", "INTERP": False, **constants},
        # Tokens are many or few; features are multiples of 16.
        aligned=frozenset({"values_ptr", "q_ptr", "scales_ptr", "num_columns"}),
        num_warps=WARPS[name],
        opcodes=dict.fromkeys(("sm_90a", "sm_100a"), r"F2FP\S*E4M3"),
    )
    for name, (kernel, constants) in _KERNELS.items()
    for dtype, pointer in _TYPES.items()
    for scales in ("pow2", "float32")
)
"""Every quantiser, of every dtype that training quantises, with both formats of scales."""

SPECIALISATIONS = (
    *_QUANTISERS,
    Specialisation(
        name="transpose",
        kernel=transpose_kernel,
        signature={
            "values_ptr": "*u8",
            "out_ptr": "*u8",
            "num_rows": "i32",
            "num_columns": "i32",
        },
        constants={"SIDE": SIDE},
        aligned=frozenset({"values_ptr", "out_ptr", "num_rows", "num_columns"}),
        num_warps=WARPS["transpose"],
    ),
)

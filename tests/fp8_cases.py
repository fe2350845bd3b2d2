"""Matrices that a quantiser may get wrong, and what two results must agree in."""

import torch
from torch import Tensor

from cotree.kernels import fp8

SHAPES = ((130, 200), (1, 128), (128, 1))
"""Ragged in both dimensions, and a single row and column."""
DTYPES = (torch.float32, torch.bfloat16)
SCALES: tuple[fp8.ScaleFormat, ...] = ("pow2", "float32")
QUANTISERS = ("quantize_tiles", "quantize_tiles_transposed", "quantize_blocks")


def spread_out(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Values over 2^30, with a row of zeros if there are three rows or more."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-20, 10, shape, generator=generator)
    values = torch.randn(shape, generator=generator) * torch.exp2(exponents.float())
    if shape[0] > 2:
        values[2] = 0
    return values.to(dtype)


def extremes(dtype: torch.dtype) -> Tensor:
    """[14, 130] rows of one magnitude each, smallest to largest, and rows with NaN and infinity."""
    generator = torch.Generator().manual_seed(1)
    exponents = torch.tensor([-149, -140, -136, -127, -126, -118, -117, -100, 0, 100, 127])
    values = torch.rand((14, 130), generator=generator) * 2 - 1
    values[:11] *= torch.exp2(exponents.double()).float()[:, None]
    values[:11, 5] = 2 * torch.exp2(exponents.double() - 1).float()  # the largest, exactly
    values[11, 3], values[12, 3], values[13, 3] = torch.nan, torch.inf, -torch.nan
    return values.to(dtype)


def representable() -> Tensor:
    """[R, 128] rows of scale 1, by their last value 448: every bfloat16 in between, and ties.

    The ties are the float32 values midway between two e4m3 values, and both their neighbours.
    """
    bits = torch.arange(2**16, dtype=torch.int32) << 16
    values = bits.view(torch.float32)
    values = values[values.abs() <= 448]
    grid = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middle = (grid[1:] + grid[:-1]) / 2
    ties = torch.cat([(middle.view(torch.int32) + step).view(torch.float32) for step in (-1, 0, 1)])
    values = torch.cat([values, ties, -ties])
    rows = torch.nn.functional.pad(values, (0, -len(values) % 127)).view(-1, 127)
    return torch.nn.functional.pad(rows, (0, 1), value=448.0)


def same_bytes(got: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> bool:
    """Whether values and scales agree in every bit, wherever and in whatever order they lie."""
    pairs = zip(got, expected, strict=True)
    return got[0].is_contiguous() and all(
        a.shape == b.shape
        and a.dtype == b.dtype
        and torch.equal(*(tensor.cpu().reshape(-1).view(torch.uint8) for tensor in (a, b)))
        for a, b in pairs
    )


def operands(
    m: int, n: int, k: int, *, b_layout: fp8.BLayout, scales: fp8.ScaleFormat
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Quantised a [m, k] and b [n, k], and the float64 product of what they stand for."""
    generator = torch.Generator().manual_seed(2)
    a, b = (torch.randn((rows, k), generator=generator) for rows in (m, n))
    # Tiles of magnitudes of their own: a kernel that took another tile's scale would be far off.
    a, b = (x * torch.exp2(torch.arange(k) // 128 * 2.0) for x in (a, b))
    a *= torch.exp2(torch.arange(m) % 5)[:, None]
    b *= torch.exp2(torch.arange(n) // 64 % 3)[:, None]
    a_q = fp8.quantize_tiles(a, scales=scales)
    if b_layout == "tiles":
        b_q = fp8.quantize_tiles(b, scales=scales)
        right = fp8.dequantize_tiles(*b_q)
    else:
        b_q = fp8.quantize_blocks(b, scales=scales)
        right = fp8.dequantize_blocks(*b_q)
    return a_q, b_q, fp8.dequantize_tiles(*a_q).double() @ right.double().T


def gap(got: Tensor, expected: Tensor) -> float:
    """Relative difference in the Euclidean norm; 0 if both are zero."""
    difference = (got.double().cpu() - expected.double().cpu()).norm()
    return float(difference / expected.double().cpu().norm().clamp(min=1e-300))

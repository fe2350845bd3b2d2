"""`quantize_tiles` as a CUDA kernel: `kernels/cuda/quantize.cu`, compiled on the first call."""

from __future__ import annotations

import torch

from cotree.kernels.cuda_sources import load, missing

TILE = 128
THREADS = 256
TILES_PER_BLOCK = 16
"""16 threads share a tile."""
CAPABILITIES = ((9, 0), (10, 0))
_FUNCTIONS = {
    torch.float32: "quantize_tiles_float32",
    torch.bfloat16: "quantize_tiles_bfloat16",
    torch.float16: "quantize_tiles_float16",
}


def available(device: torch.device) -> str | None:
    """Why the kernel cannot run on a device; None where it can."""
    return missing(device, CAPABILITIES)


def quantize_tiles(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes and scales of `cotree.kernels.fp8.quantize_tiles` with pow2 scales.

    Args:
        values: [M, K] float32, bfloat16 or float16 on a Hopper or Blackwell GPU. Fastest where K
            is a multiple of 8.

    Returns:
        q [M, K] float8_e4m3fn and scales [M, ceil(K / 128)] float32.

    Raises:
        ValueError: not a matrix, of another dtype, or too large for 32-bit sizes.
        RuntimeError: the kernel cannot run on this device, for the reason given.
    """
    if values.ndim != 2 or values.dtype not in _FUNCTIONS or max(values.shape) >= 2**31:
        raise ValueError(
            "quantize_tiles needs [M, K] in float32, bfloat16 or float16, M and K below 2^31; "
            f"got {tuple(values.shape)} {values.dtype}."
        )
    reason = available(values.device)
    if reason is not None:
        raise RuntimeError(f"the CUDA kernel of quantize_tiles cannot run: {reason}.")
    values = values.contiguous()
    M, K = values.shape
    tiles = -(-K // TILE)
    q = torch.empty_like(values, dtype=torch.float8_e4m3fn)
    scales = torch.empty((M, tiles), dtype=torch.float32, device=values.device)
    if q.numel():
        vectors = K % 8 == 0 and values.data_ptr() % 16 == 0
        load("quantize", _FUNCTIONS[values.dtype], values.device).launch(
            grid=(-(-M * tiles // TILES_PER_BLOCK), 1),
            threads=THREADS,
            arguments=(values, q, scales, M, K, int(vectors)),
        )
    return q, scales

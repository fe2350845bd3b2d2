"""`matmul` on Hopper's tensor cores: `kernels/cuda/wgmma.cu`, compiled on the first call."""

from __future__ import annotations

import torch

from cotree.kernels.cuda_sources import load, missing

TILE = 128
BLOCK_M = 64
BLOCK_N = 128
THREADS = 128
CAPABILITIES = ((9, 0),)
"""Hopper only: no other GPU has wgmma."""
_FUNCTIONS = {
    torch.float32: "matmul_float32",
    torch.bfloat16: "matmul_bfloat16",
    torch.float16: "matmul_float16",
}


def available(device: torch.device) -> str | None:
    """Why the kernel cannot run on a device; None where it can."""
    return missing(device, CAPABILITIES)


def matmul(
    a: torch.Tensor,
    a_scales: torch.Tensor,
    b: torch.Tensor,
    b_scales: torch.Tensor,
    *,
    out_dtype: torch.dtype,
) -> torch.Tensor:
    """`cotree.kernels.fp8.matmul` with b in blocks: a @ b.T of the dequantised matrices.

    Args:
        a: [M, K] float8_e4m3fn; K a multiple of 16, M whatever.
        a_scales: [M, ceil(K / 128)] float32.
        b: [N, K] float8_e4m3fn; N whatever.
        b_scales: [ceil(N / 128), ceil(K / 128)] float32.
        out_dtype: float32, bfloat16 or float16.

    Returns:
        [M, N], added up in float32 but for the tensor cores' about 14 bits within each 128 of K;
        zeros if K is 0.

    Raises:
        ValueError: shapes, dtypes or devices disagree, or the kernel cannot do that size.
        RuntimeError: the kernel cannot run on this device, for the reason given.
    """
    _check(a, a_scales, b, b_scales, out_dtype)
    reason = available(a.device)
    if reason is not None:
        raise RuntimeError(f"the CUDA kernel of matmul cannot run: {reason}.")
    a, a_scales, b, b_scales = (_aligned(operand) for operand in (a, a_scales, b, b_scales))
    (M, K), N = a.shape, len(b)
    out = torch.empty((M, N), dtype=out_dtype, device=a.device)
    if K == 0:
        return out.zero_()
    if out.numel():
        load("wgmma", _FUNCTIONS[out_dtype], a.device).launch(
            grid=(-(-M // BLOCK_M), -(-N // BLOCK_N)),
            threads=THREADS,
            arguments=(a, a_scales, b, b_scales, out, M, N, K),
        )
    return out


def _aligned(operand: torch.Tensor) -> torch.Tensor:
    """Rows one after the other from an address that is a multiple of 16, copied if need be."""
    operand = operand.contiguous()
    return operand if operand.data_ptr() % 16 == 0 else operand.clone()


def _check(
    a: torch.Tensor,
    a_scales: torch.Tensor,
    b: torch.Tensor,
    b_scales: torch.Tensor,
    out_dtype: torch.dtype,
) -> None:
    operands = (a, a_scales, b, b_scales)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"matmul needs a [M, K] and b [N, K]; got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    (M, K), N = a.shape, len(b)
    tiles = -(-K // TILE)
    if a_scales.shape != (M, tiles) or b_scales.shape != (-(-N // TILE), tiles):
        raise ValueError(
            f"matmul needs scales {(M, tiles)} and {(-(-N // TILE), tiles)}; "
            f"got {tuple(a_scales.shape)} and {tuple(b_scales.shape)}."
        )
    e4m3, float32 = torch.float8_e4m3fn, torch.float32
    dtypes = [operand.dtype for operand in operands]
    if dtypes != [e4m3, float32, e4m3, float32] or out_dtype not in _FUNCTIONS:
        raise ValueError(
            "matmul needs float8_e4m3fn operands, float32 scales, and a float32, bfloat16 or "
            f"float16 result; got {dtypes} for {out_dtype}."
        )
    if len({operand.device for operand in operands}) > 1:
        raise ValueError(f"matmul needs one device; got {[o.device for o in operands]}.")
    # The grid's second dimension ends at 65535 blocks; 65535 * 128 rows of b.
    if K % 16 or max(M, K) >= 2**31 or N > 65535 * BLOCK_N:
        raise ValueError(
            "the CUDA kernel of matmul needs K % 16 = 0, M and K below 2^31 and N at most "
            f"{65535 * BLOCK_N}; got M = {M}, N = {N}, K = {K}. Use the Triton kernel."
        )

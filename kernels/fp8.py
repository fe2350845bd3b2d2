"""Block-wise FP8 training: quantisers, the product of their results, and a linear layer.

M tokens, K input and N output features of a layer, E experts. All tensors are e4m3. Activations
and their gradients are scaled by tiles of 128 along the contraction, weights by 128 x 128 blocks.
The torch code here is the specification and the CPU backend; `dispatch` puts Triton in its place
on a GPU, with the same bytes.

A NaN or infinity makes its whole tile or block NaN, values and scale: it surfaces, and never
becomes the largest e4m3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cotree.kernels.dispatch import backend

if TYPE_CHECKING:
    from torch import Tensor

TILE = 128
E4M3_MAX = 448.0
SMALLEST_SCALE = 2.0**-126
"""The smallest normal float32: its reciprocal exists. Tiles below 2^-136 become zero."""
ScaleFormat = Literal["pow2", "float32"]
"""pow2: the smallest power of two >= amax / 448, so that scaling rounds nothing and a transposed
copy has the same values; float32: amax / 448."""
BLayout = Literal["tiles", "blocks"]

_INPUTS = (torch.float32, torch.bfloat16, torch.float16)


def quantize_tiles(values: Tensor, *, scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    """e4m3 values and their scales, one for every 128 along the last dimension.

        amax   = max |values| over the tile
        scale  = 2^ceil(log2(amax / 448)) or amax / 448;  at least 2^-126;  1 for a tile of zeros
        q      = round_to_e4m3(values / scale)

    Args:
        values: [M, K] float32, bfloat16 or float16, quantised as they are: rounding float32 to
            bfloat16 first changes 3% of the results. A ragged last tile counts as filled up
            with zeros. M and K may be 0.
        scales: the format of the scales.

    Returns:
        q [M, K] float8_e4m3fn and scales [M, ceil(K / 128)] float32, with values = q * scale.

    Raises:
        ValueError: not a matrix, or of another dtype.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3.2 (fine-grained quantisation).
    """
    _check_values("quantize_tiles", values, scales, "[M, K]", dims=(2,))
    chosen = backend("quantize_tiles", values)
    if chosen == "triton":
        from cotree.kernels import triton_quantize  # noqa: PLC0415 - needs triton

        return triton_quantize.quantize_tiles(values, scales=scales)
    if chosen == "cuda":
        from cotree.kernels import cuda_quantize  # noqa: PLC0415 - as above

        if scales != "pow2":
            raise ValueError("the CUDA kernel makes pow2 scales only; set COTREE_KERNELS = auto.")
        return cuda_quantize.quantize_tiles(values)
    return _quantize_tiles(values, scales)


def quantize_tiles_transposed(values: Tensor, *, scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    """The same as `quantize_tiles(values.T)`: one scale for every 128 tokens of a feature.

    What the weight's gradient needs, which contracts over tokens; FP8 tensor cores read both
    operands with the contraction last.

    Args:
        values: [M, K] as in `quantize_tiles`, which says what `scales` is, too.
        scales: the format of the scales.

    Returns:
        q [K, M] float8_e4m3fn, contiguous, and scales [K, ceil(M / 128)] float32.

    Raises:
        ValueError: not a matrix, or of another dtype.
    """
    _check_values("quantize_tiles_transposed", values, scales, "[M, K]", dims=(2,))
    if backend("quantize_tiles_transposed", values) == "triton":
        from cotree.kernels import triton_quantize  # noqa: PLC0415 - needs triton

        return triton_quantize.quantize_tiles_transposed(values, scales=scales)
    return _quantize_tiles(values.T.contiguous(), scales)


def quantize_blocks(weight: Tensor, *, scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    """e4m3 values and their scales, one for every block of 128 x 128; formulas as for tiles.

    Args:
        weight: [N, K], or [E, N, K] with blocks of their own for every expert. Ragged blocks
            count as filled up with zeros.
        scales: the format of the scales.

    Returns:
        q in weight's shape and scales [ceil(N / 128), ceil(K / 128)] float32, after E if any.
        The transposed weight has the transposed bytes and scales.

    Raises:
        ValueError: not two or three dimensions, or of another dtype.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3.2.
    """
    _check_values("quantize_blocks", weight, scales, "[N, K] or [E, N, K]", dims=(2, 3))
    if backend("quantize_blocks", weight) == "triton":
        from cotree.kernels import triton_quantize  # noqa: PLC0415 - needs triton

        return triton_quantize.quantize_blocks(weight, scales=scales)
    q, scale = _quantize(_blocks(weight.float()), (-3, -1), scales)
    n, k = weight.shape[-2:]
    q = q.flatten(-2).flatten(-3, -2)[..., :n, :k].contiguous()
    return q, scale.squeeze(-1).squeeze(-2)


def dequantize_tiles(q: Tensor, scales: Tensor) -> Tensor:
    """The [M, K] float32 q * scale, for q [M, K] and scales [M, ceil(K / 128)]."""
    _check_scales("dequantize_tiles", q, scales, "tiles")
    return _scaled_tiles(q, scales, torch.float32)


def dequantize_blocks(q: Tensor, scales: Tensor) -> Tensor:
    """The float32 q * scale, for q [..., N, K] and scales [..., ceil(N/128), ceil(K/128)]."""
    _check_scales("dequantize_blocks", q, scales, "blocks")
    return _scaled_blocks(q, scales, torch.float32)


def matmul(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    *,
    b_layout: BLayout,
    out_dtype: torch.dtype,
) -> Tensor:
    """The product of the dequantised matrices, a @ b.T.

        out[m, n] = sum over tiles t of a_scale[m, t] * b_scale[n, t] * sum_{k in t} a[m, k] b[n, k]

    Added up in float32: on tensor cores, whose accumulator keeps about 14 bits, every tile's sum
    moves to a float32 register. On the CPU the operands are dequantised and multiplied in
    float32, or, for a bfloat16 result with pow2 scales, in bfloat16, which holds them exactly
    above 2^-126.

    Args:
        a: [M, K] float8_e4m3fn, tiles.
        a_scales: [M, ceil(K / 128)] float32.
        b: [N, K] float8_e4m3fn.
        b_scales: [N, ceil(K / 128)] for tiles, [ceil(N / 128), ceil(K / 128)] for blocks.
        b_layout: which of the two `b_scales` is.
        out_dtype: float32, bfloat16 or float16.

    Returns:
        [M, N]; zeros if K is 0.

    Raises:
        ValueError: shapes or dtypes disagree.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3.2 (increasing accumulation precision).
    """
    _check_product(a, a_scales, b, b_scales, b_layout, out_dtype)
    chosen = backend(f"matmul_{b_layout}", a)
    if chosen == "triton":
        from cotree.kernels import triton_matmul  # noqa: PLC0415 - needs triton

        return triton_matmul.matmul(
            a, a_scales, b, b_scales, b_layout=b_layout, out_dtype=out_dtype
        )
    if chosen == "cuda":
        from cotree.kernels import cuda_matmul  # noqa: PLC0415 - as above

        return cuda_matmul.matmul(a, a_scales, b, b_scales, out_dtype=out_dtype)
    exact = out_dtype == torch.bfloat16 and _all_pow2(a_scales) and _all_pow2(b_scales)
    dtype = torch.bfloat16 if exact else torch.float32
    left = _scaled_tiles(a, a_scales, dtype)
    right = (_scaled_tiles if b_layout == "tiles" else _scaled_blocks)(b, b_scales, dtype)
    with torch.autocast(a.device.type, enabled=False):
        return functional.linear(left, right).to(out_dtype)


def transposed(q: Tensor) -> Tensor:
    """A copy of e4m3 matrices [..., N, K] as [..., K, N].

    Blocks have the same scales in either direction, so nothing is rounded again; tensor cores read
    both operands along the contraction.
    """
    if backend("transposed", q) == "triton":
        from cotree.kernels import triton_quantize  # noqa: PLC0415 - needs triton

        return triton_quantize.transposed(q)
    # As bytes: torch copies e4m3 one by one.
    return q.view(torch.uint8).transpose(-1, -2).contiguous().view(q.dtype)


def block_linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, scales: ScaleFormat) -> Tensor:
    """Returns x @ weight.T + bias in FP8, forward and backward.

        y  = tiles(x) @ blocks(weight).T + bias
        dx = tiles(dy) @ blocks(weight)
        dw = tiles(dy.T) @ tiles(x.T).T,  tiles along the tokens

    Each operand is quantised from the tensor given, once along each axis that needs it. The
    backward pass keeps a byte for each weight and each input value, plus scales, and nothing that
    no gradient needs: with a frozen weight no input, with a frozen input no weight.

    Args:
        x: [..., K] float32, bfloat16 or float16; carries a gradient in its own dtype.
        weight: [N, K], best the float32 master weight. Its gradient is added up in float32 and
            has its dtype.
        bias: [N] or None.
        scales: the format of all scales.

    Returns:
        [..., N] in x's dtype; under autocast in autocast's, as `linear` does.

    Raises:
        ValueError: shapes disagree, or a dtype is not one of the three.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3, fig. 6.
    """
    fits = (
        x.ndim >= 1
        and weight.ndim == 2
        and x.shape[-1] == weight.shape[1]
        and (bias is None or bias.shape == weight.shape[:1])
    )
    if not fits:
        got = [None if t is None else tuple(t.shape) for t in (x, weight, bias)]
        raise ValueError(
            f"block_linear needs x [..., K], weight [N, K], bias [N] or None; got {got}."
        )
    kind = x.device.type
    out_dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    # Inside `forward` gradients are always off, and an input's own flag says nothing of no_grad.
    recorded = torch.is_grad_enabled()
    rows = x.reshape(-1, x.shape[-1]) if x.shape[-1] else x.new_empty((x[..., :0].numel(), 0))
    y: Tensor = _BlockLinear.apply(rows, weight, bias, scales, out_dtype, recorded)  # pyright: ignore[reportAssignmentType]
    return y.view(*x.shape[:-1], len(weight))


class _BlockLinear(torch.autograd.Function):
    """Saves the 1-byte operands of the two gradients, not their inputs."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context has no public type
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scales: ScaleFormat,
        out_dtype: torch.dtype,
        recorded: bool,
    ) -> Tensor:
        weight_q = quantize_blocks(weight, scales=scales)
        y = matmul(
            *quantize_tiles(x, scales=scales), *weight_q, b_layout="blocks", out_dtype=out_dtype
        )
        if bias is not None:
            y += bias
        needs_x, needs_weight = (recorded and needed for needed in ctx.needs_input_grad[:2])
        ctx.save_for_backward(
            *(weight_q if needs_x else (None, None)),
            *(quantize_tiles_transposed(x, scales=scales) if needs_weight else (None, None)),
        )
        ctx.scales, ctx.x_dtype, ctx.weight_dtype = scales, x.dtype, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None, None]:
        weight_q, weight_scales, x_q, x_scales = ctx.saved_tensors
        grad_x = grad_weight = grad_bias = None
        if weight_q is not None:
            grad_x = matmul(
                *quantize_tiles(grad, scales=ctx.scales),
                transposed(weight_q),
                weight_scales.T.contiguous(),
                b_layout="blocks",
                out_dtype=ctx.x_dtype,
            )
        if x_q is not None:
            grad_q = quantize_tiles_transposed(grad, scales=ctx.scales)
            product = matmul(*grad_q, x_q, x_scales, b_layout="tiles", out_dtype=torch.float32)
            grad_weight = product.to(ctx.weight_dtype)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(0, dtype=torch.float32).to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None


def _quantize_tiles(values: Tensor, scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    q, scale = _quantize(_tiles(values.float()), (-1,), scales)
    return q.flatten(-2)[:, : values.shape[1]].contiguous(), scale.squeeze(-1)


def _quantize(values: Tensor, dims: tuple[int, ...], scales: ScaleFormat) -> tuple[Tensor, Tensor]:
    """e4m3 values, and scales over `dims`, which are kept with size 1."""
    amax = values.abs().amax(dims, keepdim=True)
    if scales == "pow2":
        # ceil(log2(amax / 448)) with 448 = 1.75 * 2^8: from the bits, as log2 is not exact.
        bits = amax.view(torch.int32)
        exponent = (bits >> 23) - 8 + ((bits & 0x7FFFFF) > 0x600000).int()
        scale = (exponent.clamp_(min=1) << 23).view(torch.float32)
    else:
        # By a tensor: on a GPU torch multiplies by the reciprocal of a plain number, another float.
        scale = (amax / amax.new_full((), E4M3_MAX)).clamp_(min=SMALLEST_SCALE)
    finite = amax.isfinite()
    scale = torch.where(amax == 0, 1.0, scale).masked_fill_(~finite, torch.nan)
    # Rounding of amax / 448 leaves at most 448 * (1 + 2^-23), which rounds to 448: no clamp.
    # The fill gives every NaN the same sign, and so the same byte.
    quotient = (values / scale).masked_fill_(~finite, torch.nan)
    return quotient.to(torch.float8_e4m3fn), scale


def _tiles(values: Tensor) -> Tensor:
    """[..., K] as [..., ceil(K / 128), 128], filled up with zeros."""
    padding = -values.shape[-1] % TILE
    padded = functional.pad(values, (0, padding)) if padding else values
    return padded.unflatten(-1, (padded.shape[-1] // TILE, TILE))


def _blocks(values: Tensor) -> Tensor:
    """[..., N, K] as [..., ceil(N / 128), 128, ceil(K / 128), 128], filled up with zeros."""
    padding = -values.shape[-2] % TILE
    tiles = _tiles(functional.pad(values, (0, 0, 0, padding)) if padding else values)
    return tiles.unflatten(-3, (tiles.shape[-3] // TILE, TILE))


def _scaled_tiles(q: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    product = _tiles(q.to(dtype)) * scales.to(dtype).unsqueeze(-1)
    return product.flatten(-2)[..., : q.shape[-1]]


def _scaled_blocks(q: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    product = _blocks(q.to(dtype)) * scales.to(dtype)[..., :, None, :, None]
    return product.flatten(-2).flatten(-3, -2)[..., : q.shape[-2], : q.shape[-1]]


def _all_pow2(scales: Tensor) -> bool:
    """Whether all are finite powers of two; a NaN has bits below the exponent, as it is made."""
    return not bool((scales.contiguous().view(torch.int32) & 0x7FFFFF).any())


def _check_values(
    name: str, values: Tensor, scales: str, shape: str, *, dims: tuple[int, ...]
) -> None:
    if values.ndim not in dims or values.dtype not in _INPUTS:
        raise ValueError(
            f"{name} needs {shape} in float32, bfloat16 or float16; "
            f"got {tuple(values.shape)} {values.dtype}."
        )
    if scales not in ("pow2", "float32"):
        raise ValueError(f"scales = {scales!r} must be pow2 or float32.")


def _check_scales(name: str, q: Tensor, scales: Tensor, layout: BLayout) -> None:
    rows, columns = q.shape[-2], -(-q.shape[-1] // TILE)
    expected = (*q.shape[:-2], rows if layout == "tiles" else -(-rows // TILE), columns)
    if q.dtype != torch.float8_e4m3fn or scales.dtype != torch.float32:
        raise ValueError(
            f"{name} needs float8_e4m3fn values and float32 scales; got {q.dtype}, {scales.dtype}."
        )
    if scales.shape != expected:
        raise ValueError(
            f"{name} needs scales {expected} ({layout}) for {tuple(q.shape)}; "
            f"got {tuple(scales.shape)}."
        )


def _check_product(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    b_layout: str,
    out_dtype: torch.dtype,
) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"matmul needs a [M, K] and b [N, K]; got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    if b_layout not in ("tiles", "blocks"):
        raise ValueError(f"b_layout = {b_layout!r} must be tiles or blocks.")
    if out_dtype not in _INPUTS:
        raise ValueError(f"out_dtype = {out_dtype} must be float32, bfloat16 or float16.")
    _check_scales("matmul's a", a, a_scales, "tiles")
    _check_scales("matmul's b", b, b_scales, "blocks" if b_layout == "blocks" else "tiles")

"""Linear layers of a mixture of experts: every expert multiplies the tokens that chose it.

E experts, K input and N output features of a layer, T rows: pairs of a token and one of its
experts, sorted by expert (`expert_order`). None is dropped, and an expert may have none.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cotree.kernels import fp8
from cotree.kernels.dispatch import backend

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

_KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_KERNEL_BYTES = 16
"""Rows of what `torch.nn.functional.grouped_mm` reads start at multiples of this."""


def grouped_linear(x: Tensor, weight: Tensor, offsets: Tensor) -> Tensor:
    """x[t] @ weight[expert of t].T for every sorted pair, in one kernel for all experts.

    Args:
        x: [T, K] float32, bfloat16, float16 or float64, sorted by expert; carries a gradient.
        weight: [E, N, K] in x's dtype; carries a gradient.
        offsets: [E] int32, where each expert's rows end. The last is T.

    Returns:
        [T, N] in x's dtype.

    Raises:
        ValueError: shapes or dtypes disagree.
    """
    _check_operands("grouped_linear", x, weight, offsets)
    if x.dtype != weight.dtype:
        raise ValueError(
            f"grouped_linear needs one dtype; got x {x.dtype} and weight {weight.dtype}."
        )
    return _GroupedLinear.apply(x, weight, offsets)  # pyright: ignore[reportReturnType]


def block_grouped_linear(
    x: Tensor, weight: Tensor, offsets: Tensor, *, scales: fp8.ScaleFormat
) -> Tensor:
    """`grouped_linear` in FP8, forward and backward, as `fp8.block_linear` does it.

        y  = tiles(x) @ blocks(weight[e]).T
        dx = tiles(dy) @ blocks(weight[e])
        dw[e] = tiles(dy_e.T) @ tiles(x_e.T).T,  tiles along the expert's own tokens

    No tile has tokens of two experts: each expert's first one starts a tile. So the result is
    that of one `fp8.block_linear` for every expert.

    Args:
        x: [T, K] float32, bfloat16 or float16, sorted by expert; carries a gradient.
        weight: [E, N, K], best the float32 master weights. Their gradient is added up in float32.
        offsets: [E] int32, as of `grouped_linear`.
        scales: the format of all scales.

    Returns:
        [T, N] in x's dtype; under autocast in autocast's, as `linear` does.

    Raises:
        ValueError: shapes disagree, or a dtype is not one of the three.

    Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 3.3, fig. 6.
    """
    _check_operands("block_grouped_linear", x, weight, offsets)
    kind = x.device.type
    out_dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
    # Inside `forward` gradients are always off, and an input's own flag says nothing of no_grad.
    recorded = torch.is_grad_enabled()
    return _BlockGroupedLinear.apply(x, weight, offsets, scales, out_dtype, recorded)  # pyright: ignore[reportReturnType]


# --- FP8 products ----------------------------------------------------------------------------


def grouped_matmul(
    a: Tensor,
    a_scales: Tensor,
    b: Tensor,
    b_scales: Tensor,
    offsets: Tensor,
    *,
    out_dtype: torch.dtype,
) -> Tensor:
    """The product of every row with its expert's matrix, both e4m3: a[t] @ b[expert of t].T.

    Args:
        a: [T, K] tiles, sorted by expert.
        a_scales: [T, ceil(K / 128)] float32.
        b: [E, N, K] blocks.
        b_scales: [E, ceil(N / 128), ceil(K / 128)] float32.
        offsets: [E] int32, where each expert's rows end.
        out_dtype: float32, bfloat16 or float16.

    Returns:
        [T, N].
    """
    if backend("grouped_matmul", a) == "triton":
        from cotree.kernels import triton_grouped  # noqa: PLC0415 - needs triton

        return triton_grouped.grouped_matmul(a, a_scales, b, b_scales, offsets, out_dtype=out_dtype)
    out = a.new_empty((len(a), b.shape[1]), dtype=out_dtype)
    for expert, rows in _groups(offsets):
        out[rows] = fp8.matmul(
            a[rows],
            a_scales[rows],
            b[expert],
            b_scales[expert],
            b_layout="blocks",
            out_dtype=out_dtype,
        )
    return out


def grouped_weight_gradient(
    dy: Tensor, dy_scales: Tensor, x: Tensor, x_scales: Tensor, padded: Tensor
) -> Tensor:
    """[E, N, K] float32: for every expert dy.T @ x over its own tokens, of e4m3 tiles.

    Args:
        dy: [N, P] tiles along the tokens; P positions of `padded_positions`.
        dy_scales: [N, P / 128] float32.
        x: [K, P].
        x_scales: [K, P / 128].
        padded: [E] int32, where each expert's positions end: multiples of 128.
    """
    if backend("grouped_weight_gradient", dy) == "triton":
        from cotree.kernels import triton_grouped  # noqa: PLC0415 - needs triton

        return triton_grouped.grouped_weight_gradient(dy, dy_scales, x, x_scales, padded)
    out = dy.new_zeros((len(padded), len(dy), len(x)), dtype=torch.float32)
    for expert, columns in _groups(padded):
        tiles = slice(columns.start // fp8.TILE, columns.stop // fp8.TILE)
        out[expert] = fp8.matmul(
            dy[:, columns],
            dy_scales[:, tiles],
            x[:, columns],
            x_scales[:, tiles],
            b_layout="tiles",
            out_dtype=torch.float32,
        )
    return out


def padded_positions(offsets: Tensor, num_rows: int) -> tuple[Tensor, Tensor, int]:
    """Where rows go in a layout that starts every expert at a multiple of 128.

    Args:
        offsets: [E] int32, where each expert's rows end.
        num_rows: T.

    Returns:
        [T] int64 position of each row; [E] int32 where each expert's positions end, multiples of
        128; and the number of positions, which depends on T and E alone, so that no GPU has to
        be asked for it. Behind the last expert's positions there are unused ones.
    """
    sizes = offsets.diff(prepend=offsets.new_zeros(1))
    ends = ((sizes + fp8.TILE - 1) // fp8.TILE * fp8.TILE).cumsum(0, dtype=torch.int32)
    rows = torch.arange(num_rows, device=offsets.device, dtype=torch.int32)
    expert = torch.searchsorted(offsets, rows, right=True)
    # Rows of the experts before are as many as their positions, less what these are filled up by.
    # (A number assigned to a CUDA tensor's element would be copied there, and waited for.)
    filling = (ends - offsets)[:-1]
    filling = torch.cat([filling.new_zeros(1), filling])
    most_tiles = (num_rows + (fp8.TILE - 1) * min(len(offsets), num_rows)) // fp8.TILE
    return (rows + filling[expert]).long(), ends, most_tiles * fp8.TILE


# --- autograd --------------------------------------------------------------------------------


class _GroupedLinear(torch.autograd.Function):
    """torch differentiates its kernel as well, but refuses gradients that are not contiguous."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - autograd's context has no public type
        x: Tensor,
        weight: Tensor,
        offsets: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, offsets)
        return _by_rows(x, weight.transpose(1, 2), offsets)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight, offsets = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        grad = grad.contiguous()
        grad_x = _by_rows(grad, weight, offsets) if needs_x else None
        grad_weight = _by_groups(grad, x, offsets) if needs_weight else None
        return grad_x, grad_weight, None


class _BlockGroupedLinear(torch.autograd.Function):
    """Saves the 1-byte operands of the two gradients, not their inputs."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        x: Tensor,
        weight: Tensor,
        offsets: Tensor,
        scales: fp8.ScaleFormat,
        out_dtype: torch.dtype,
        recorded: bool,
    ) -> Tensor:
        weight_q = fp8.quantize_blocks(weight, scales=scales)
        x_q = fp8.quantize_tiles(x, scales=scales)
        y = grouped_matmul(*x_q, *weight_q, offsets, out_dtype=out_dtype)
        needs_x, needs_weight = (recorded and needed for needed in ctx.needs_input_grad[:2])
        ctx.save_for_backward(
            offsets,
            *(weight_q if needs_x else (None, None)),
            *(_expert_tiles(x, offsets, scales) if needs_weight else (None, None)),
        )
        ctx.scales, ctx.x_dtype, ctx.weight_dtype = scales, x.dtype, weight.dtype
        return y

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,  # noqa: ANN401
        grad: Tensor,
    ) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        offsets, weight_q, weight_scales, x_q, x_scales = ctx.saved_tensors
        grad_x = grad_weight = None
        if weight_q is not None:
            grad_x = grouped_matmul(
                *fp8.quantize_tiles(grad, scales=ctx.scales),
                fp8.transposed(weight_q),
                weight_scales.transpose(1, 2).contiguous(),
                offsets,
                out_dtype=ctx.x_dtype,
            )
        if x_q is not None:
            _, padded, _ = padded_positions(offsets, len(grad))
            grad_q = _expert_tiles(grad, offsets, ctx.scales)
            product = grouped_weight_gradient(*grad_q, x_q, x_scales, padded)
            grad_weight = product.to(ctx.weight_dtype)
        return grad_x, grad_weight, None, None, None, None


# --- parts -----------------------------------------------------------------------------------


def _expert_tiles(
    values: Tensor, offsets: Tensor, scales: fp8.ScaleFormat
) -> tuple[Tensor, Tensor]:
    """`quantize_tiles_transposed` with every expert's rows at `padded_positions`."""
    positions, _, capacity = padded_positions(offsets, len(values))
    laid_out = values.new_zeros((capacity, values.shape[1]))
    laid_out[positions] = values
    return fp8.quantize_tiles_transposed(laid_out, scales=scales)


def _groups(offsets: Tensor) -> Iterator[tuple[int, slice]]:
    """Every expert that has rows, and which."""
    for expert, (start, end) in enumerate(pairwise([0, *offsets.tolist()])):
        if end > start:
            yield expert, slice(start, end)


def _by_rows(rows: Tensor, matrices: Tensor, offsets: Tensor) -> Tensor:
    """[T, B]: each row [T, A] times its expert's matrix [E, A, B]."""
    if _has_kernel(rows.dtype, *matrices.shape[1:]):
        return functional.grouped_mm(rows.contiguous(), matrices, offs=offsets)
    out = rows.new_zeros((len(rows), matrices.shape[2]))
    with torch.autocast(rows.device.type, enabled=False):
        for expert, group in _groups(offsets):
            out[group] = rows[group] @ matrices[expert]
    return out


def _by_groups(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    """[E, A, B]: left.T @ right of each expert's rows, [T, A] and [T, B]."""
    if _has_kernel(left.dtype, left.shape[1], right.shape[1]):
        return functional.grouped_mm(left.T, right.contiguous(), offs=offsets)
    out = left.new_zeros((len(offsets), left.shape[1], right.shape[1]))
    with torch.autocast(left.device.type, enabled=False):
        for expert, group in _groups(offsets):
            out[expert] = left[group].T @ right[group]
    return out


def _has_kernel(dtype: torch.dtype, *widths: int) -> bool:
    """Whether torch multiplies groups of such rows in one kernel."""
    return dtype in _KERNEL_DTYPES and all(
        width * dtype.itemsize % _KERNEL_BYTES == 0 for width in widths
    )


def _check_operands(name: str, x: Tensor, weight: Tensor, offsets: Tensor) -> None:
    fits = (
        x.ndim == 2
        and weight.ndim == 3
        and x.shape[1] == weight.shape[2]
        and offsets.shape == weight.shape[:1]
        and offsets.dtype == torch.int32
    )
    if not fits:
        got = [tuple(tensor.shape) for tensor in (x, weight, offsets)]
        raise ValueError(
            f"{name} needs x [T, K], weight [E, N, K] and offsets [E] int32; got {got} and "
            f"{offsets.dtype}."
        )

"""Softmax statistics of logits and their gradient, each in one pass over the logits: Triton.

n tokens, V vocabulary. `token_logprobs` runs these on a chunk's logits where Triton can. A row
belongs to one program, and nothing is added up between programs: the same call, the same bits.
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

BLOCK = 8192
"""Logits of a row that a program holds at once."""
NUM_WARPS = 16
LAUNCH: dict[str, Any] = {"BLOCK": BLOCK, "num_warps": NUM_WARPS, "enable_fp_fusion": True}
"""How both kernels are compiled; no autotuning, so a run does not depend on timings."""
INTERPRETED: bool = knobs.runtime.interpret
"""Whether these kernels run on the CPU; fixed when they are decorated."""
FLOOR = tl.constexpr(-1000.0)
"""Nats below which exp is 0 in float32 by far; instead of -inf, for 0 * -inf is nan."""
LOWEST = tl.constexpr(-3.4e38)
"""Where the running maximum starts; not at -inf, for -inf - -inf is nan."""


@triton.jit
def _floored(nats: tl.tensor) -> tl.tensor:
    return tl.where(nats < FLOOR, FLOOR, nats)  # not a maximum: nan stays nan


@triton.jit(
    do_not_specialize=["n"], do_not_specialize_on_alignment=["targets_ptr", "statistics_ptr"]
)
def row_statistics_kernel(
    logits_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    statistics_ptr: tl.tensor,
    n: tl.tensor,
    V: tl.tensor,
    scale: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """One row of logits [n, V] per program; statistics [3, n]: log p(target), entropy, logsumexp.

    Of the logits so far, m is the largest, mass = sum exp(z - m) and tilt = sum exp(z - m) (z - m).
    At the end logsumexp = m + log mass and entropy = log mass - tilt / mass, where mass >= 1 and
    tilt <= 0: nothing cancels. When m grows, tilt moves by another term of its own sign.
    """
    row = tl.program_id(0)
    row_ptr = logits_ptr + row.to(tl.int64) * V
    m = tl.full((), LOWEST, tl.float32)
    mass = tl.full((), 0.0, tl.float32)
    tilt = tl.full((), 0.0, tl.float32)
    for start in range(0, V, BLOCK):  # pyright: ignore[reportArgumentType]
        columns = start + tl.arange(0, BLOCK)
        z = tl.load(row_ptr + columns, mask=columns < V, other=0.0).to(tl.float32) * scale
        z = tl.where(columns < V, z, float("-inf"))
        new_m = tl.maximum(m, tl.max(z, 0))
        shift = _floored(m - new_m)
        x = _floored(z - new_m)
        p = tl.exp(x)
        tilt = tl.exp(shift) * (tilt + shift * mass) + tl.sum(p * x, 0)
        mass = tl.exp(shift) * mass + tl.sum(p, 0)
        m = new_m
    target = tl.load(targets_ptr + row)
    known = (target >= 0) & (target < V)
    z_target = tl.load(row_ptr + target, mask=known, other=float("nan")).to(tl.float32) * scale
    log_mass = tl.log(mass)
    tl.store(statistics_ptr + row, (z_target - m) - log_mass)
    tl.store(statistics_ptr + n + row, log_mass - tilt / mass)
    tl.store(statistics_ptr + 2 * n + row, m + log_mass)


@triton.jit(
    do_not_specialize=["stride"], do_not_specialize_on_alignment=["targets_ptr", "rows_ptr"]
)
def logits_gradient_kernel(
    logits_ptr: tl.tensor,
    targets_ptr: tl.tensor,
    rows_ptr: tl.tensor,
    stride: tl.tensor,
    V: tl.tensor,
    scale: tl.tensor,
    BLOCK: tl.constexpr,
    INTERP: tl.constexpr,
) -> None:
    """Puts the gradient in place of BLOCK logits of one row.

    rows_ptr has four values of each row, `stride` apart: logsumexp, entropy, and the gradients of
    the log-probability and of the entropy.
    """
    row = tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    logsumexp = tl.load(rows_ptr + row)
    entropy = tl.load(rows_ptr + stride + row)
    grad_logprob = tl.load(rows_ptr + 2 * stride + row)
    grad_entropy = tl.load(rows_ptr + 3 * stride + row)
    target = tl.load(targets_ptr + row)
    place = logits_ptr + row.to(tl.int64) * V + columns
    logit = tl.load(place, mask=columns < V, other=0.0)
    log_p = _floored(logit.to(tl.float32) * scale - logsumexp)
    # d log p(target) / dz = onehot - p;   d entropy / dz = -p * (log p + entropy)
    gradient = -tl.exp(log_p) * (grad_entropy * (log_p + entropy) + grad_logprob)
    gradient += tl.where(columns == target, grad_logprob, 0.0)
    gradient *= scale
    if INTERP and logit.dtype == tl.bfloat16:
        # The interpreter's own cast cuts off the low bits. Round to nearest, ties to even, first.
        bits = gradient.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        gradient = bits.to(tl.float32, bitcast=True)
    tl.store(place, gradient.to(logit.dtype), mask=columns < V)


def row_statistics(logits: Tensor, targets: Tensor, scale: float) -> Tensor:
    """Log-probability of the target, entropy and logsumexp of every row of scale * logits.

    Args:
        logits: [n, V] float32 or bfloat16, contiguous. A logit of -inf has probability 0.
        targets: [n] int64; one outside [0, V) has the log-probability nan.
        scale: multiplies the logits.

    Returns:
        [3, n] float32, in this order, in nats.

    Source: the running maximum and sum are those of Milakov and Gimelshein 2018, arXiv:1805.02867.
    """
    statistics = logits.new_empty((3, len(logits)), dtype=torch.float32)
    kernel: Any = row_statistics_kernel  # its annotations are for the compiler
    with torch.cuda.device_of(logits):
        kernel[(len(logits),)](
            logits,
            targets.contiguous(),
            statistics,
            len(logits),
            logits.shape[1],
            scale,
            **LAUNCH,
        )
    return statistics


def gradient_in_place(
    logits: Tensor, targets: Tensor, rows: Tensor, scale: float, grad_bias: Tensor | None
) -> None:
    """Overwrites logits [n, V] with the loss's gradient in them, rounded once to their dtype.

    Args:
        logits: [n, V] as `row_statistics` saw them.
        targets: [n] int64.
        rows: [4, n] float32, each row contiguous: logsumexp and entropy of `row_statistics`, and
            the loss's gradients in log-probability and entropy.
        scale: multiplies the logits.
        grad_bias: [V] float32, to which the gradient's sum over the n tokens is added, or None.
    """
    n, V = logits.shape
    kernel: Any = logits_gradient_kernel
    with torch.cuda.device_of(logits):
        kernel[(n, triton.cdiv(V, BLOCK))](
            logits,
            targets.contiguous(),
            rows,
            rows.stride(0),
            V,
            scale,
            INTERP=INTERPRETED,
            **LAUNCH,
        )
    if grad_bias is not None:
        grad_bias += logits.sum(0, dtype=torch.float32)


_SIZES = {"V": "i32", "scale": "fp32"}
_KERNELS = {
    "row_statistics": (
        row_statistics_kernel,
        {"statistics_ptr": "*fp32", "n": "i32", **_SIZES},
        {"BLOCK": BLOCK},
    ),
    "logits_gradient": (
        logits_gradient_kernel,
        {"rows_ptr": "*fp32", "stride": "i32", **_SIZES},
        {"BLOCK": BLOCK, "INTERP": False},
    ),
}
_TYPES = {"float32": "*fp32", "bfloat16": "*bf16"}
_ALIGNED = {"": {"logits_ptr", "V"}, "/ragged": {"logits_ptr"}}

SPECIALISATIONS = tuple(
    Specialisation(
        name=f"{name}/{dtype}{suffix}",
        kernel=kernel,
        signature={"logits_ptr": pointer, "targets_ptr": "*i64", **signature},
        constants=constants,
        aligned=frozenset(aligned),
        num_warps=NUM_WARPS,
    )
    for name, (kernel, signature, constants) in _KERNELS.items()
    for dtype, pointer in _TYPES.items()
    for suffix, aligned in _ALIGNED.items()
)
"""Both kernels and dtypes, for vocabularies that are a multiple of 16, as 151936 is, or are not."""

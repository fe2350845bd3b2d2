"""The kernels of triton_grouped.py on the CPU, under Triton's interpreter, against torch."""

from itertools import pairwise

import pytest
import torch

from cotree.kernels import fp8, triton_grouped
from cotree.kernels.grouped import padded_positions

# Uneven experts: none, one, more than a tile, exactly a tile; ragged and unaligned widths.
CASES = [
    ([7, 0, 130, 1], 160, 72),
    ([0, 128, 3], 24, 16),
    ([0, 0, 5], 130, 129),
]


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _experts(sizes: list[int]) -> tuple[torch.Tensor, list[slice]]:
    ends = torch.tensor(sizes).cumsum(0).int()
    return ends, [slice(a, b) for a, b in pairwise([0, *ends.tolist()])]


def test_the_kernels_are_interpreted():
    assert triton_grouped.INTERPRETED


@pytest.mark.parametrize("scales", ["pow2", "float32"])
@pytest.mark.parametrize(("sizes", "k", "n"), CASES)
def test_rows_are_multiplied_by_their_experts_matrix(
    sizes: list[int], k: int, n: int, scales: fp8.ScaleFormat
):
    offsets, experts = _experts(sizes)
    a, a_scales = fp8.quantize_tiles(_random(0, sum(sizes), k), scales=scales)
    b, b_scales = fp8.quantize_blocks(_random(1, len(sizes), n, k), scales=scales)
    got = triton_grouped.grouped_matmul(a, a_scales, b, b_scales, offsets, out_dtype=torch.float32)
    left = fp8.dequantize_tiles(a, a_scales).double()
    right = fp8.dequantize_blocks(b, b_scales).double()
    want = torch.cat([left[rows] @ right[e].T for e, rows in enumerate(experts)])
    assert float((got - want).norm()) <= 1e-5 * float(want.norm())
    low = triton_grouped.grouped_matmul(a, a_scales, b, b_scales, offsets, out_dtype=torch.bfloat16)
    assert torch.equal(low, got.bfloat16())


@pytest.mark.parametrize("scales", ["pow2", "float32"])
@pytest.mark.parametrize(("sizes", "k", "n"), CASES)
def test_weight_gradients_contract_over_an_experts_own_positions(
    sizes: list[int], k: int, n: int, scales: fp8.ScaleFormat
):
    offsets, experts = _experts(sizes)
    positions, padded, capacity = padded_positions(offsets, sum(sizes))
    dy, x = torch.zeros(capacity, n), torch.zeros(capacity, k)
    dy[positions], x[positions] = _random(0, sum(sizes), n), _random(1, sum(sizes), k)
    dy_q, x_q = (fp8.quantize_tiles_transposed(t, scales=scales) for t in (dy, x))
    got = triton_grouped.grouped_weight_gradient(*dy_q, *x_q, padded)
    left, right = (fp8.dequantize_tiles(*q).double()[:, positions] for q in (dy_q, x_q))
    want = torch.stack([left[:, rows] @ right[:, rows].T for rows in experts])
    assert got.shape == (len(sizes), n, k)
    assert float((got - want).norm()) <= 1e-5 * float(want.norm())


def test_no_rows_and_no_experts_with_rows_give_nothing_and_zeros():
    offsets, _ = _experts([0, 0])
    none = fp8.quantize_tiles(torch.zeros(0, 32), scales="pow2")
    weight = fp8.quantize_blocks(torch.ones(2, 16, 32), scales="pow2")
    out = triton_grouped.grouped_matmul(*none, *weight, offsets, out_dtype=torch.float32)
    assert out.shape == (0, 16)
    tiles = fp8.quantize_tiles_transposed(torch.ones(128, 32), scales="pow2")
    gradient = triton_grouped.grouped_weight_gradient(*tiles, *tiles, offsets)
    assert gradient.shape == (2, 32, 32)
    assert not gradient.any()


def test_scales_of_another_layout_are_refused():
    offsets, _ = _experts([3, 1])
    a = fp8.quantize_tiles(torch.ones(4, 32), scales="pow2")
    b, b_scales = fp8.quantize_blocks(torch.ones(2, 16, 32), scales="pow2")
    with pytest.raises(ValueError, match=r"needs scales \(4, 1\) and \(2, 1, 1\)"):
        triton_grouped.grouped_matmul(*a, b, b_scales[0], offsets, out_dtype=torch.float32)
    with pytest.raises(ValueError, match="a multiple of 128"):
        triton_grouped.grouped_weight_gradient(*a, *a, offsets)

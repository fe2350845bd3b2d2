"""Triton's grouped FP8 products, against float64; run by test_triton_grouped.py."""

from itertools import pairwise

import pytest
import torch

from cotree.kernels import fp8, triton_grouped
from cotree.kernels.grouped import block_grouped_linear, padded_positions

# Uneven experts: none, one, more than a tile, exactly a tile; ragged and unaligned widths.
CASES = [
    ([7, 0, 130, 1], 160, 72),
    ([0, 128, 3], 24, 16),
    ([0, 0, 5], 130, 129),
]


@pytest.fixture(autouse=True)
def torch_is_the_reference(monkeypatch: pytest.MonkeyPatch):
    # The functions of `fp8` make the operands.
    monkeypatch.setenv("COTREE_KERNELS", "torch")


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


def test_experts_train_through_the_kernels(monkeypatch: pytest.MonkeyPatch):
    offsets, _ = _experts([3, 0, 130])
    x, weight, upstream = _random(0, 133, 40), _random(1, 3, 24, 40), _random(2, 133, 24)
    results: list[tuple[torch.Tensor, ...]] = []
    for kernels in ("torch", "triton"):
        monkeypatch.setenv("COTREE_KERNELS", kernels)
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = block_grouped_linear(*leaves, offsets, scales="pow2")
        results.append((y.detach(), *torch.autograd.grad(y, leaves, upstream)))
    for expected, got in zip(*results, strict=True):
        assert float((got - expected).norm()) <= 1e-6 * float(expected.norm())


def test_more_tiles_than_a_group_of_the_cache_are_all_computed():
    # Groups of 8 row tiles: eleven of them, and two column tiles.
    offsets, experts = _experts([1000, 1, 200])
    a = fp8.quantize_tiles(_random(0, 1201, 16), scales="pow2")
    b = fp8.quantize_blocks(_random(1, 3, 130, 16), scales="pow2")
    got = triton_grouped.grouped_matmul(*a, *b, offsets, out_dtype=torch.float32)
    left, right = fp8.dequantize_tiles(*a), fp8.dequantize_blocks(*b)
    want = torch.cat([left[rows] @ right[e].T for e, rows in enumerate(experts)])
    assert float((got - want).norm()) <= 1e-5 * float(want.norm())

"""Triton's FP8 product against float64, and a layer that uses it; run by test_triton_matmul.py."""

import pytest
import torch
from fp8_cases import SCALES, gap, operands

from cotree.kernels import fp8, triton_matmul
from cotree.kernels.dispatch import status


@pytest.fixture(autouse=True)
def torch_is_the_reference(monkeypatch: pytest.MonkeyPatch):
    # The functions of `fp8` make the operands.
    monkeypatch.setenv("COTREE_KERNELS", "torch")


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("b_layout", ["tiles", "blocks"])
@pytest.mark.parametrize(("m", "n", "k"), [(130, 200, 300), (1, 5, 128), (3, 1, 17)])
def test_the_product_is_that_of_the_dequantised_matrices(m, n, k, b_layout, scales, out_dtype):
    a_q, b_q, expected = operands(m, n, k, b_layout=b_layout, scales=scales)
    got = triton_matmul.matmul(*a_q, *b_q, b_layout=b_layout, out_dtype=out_dtype)
    assert got.dtype == out_dtype
    assert gap(got, expected) <= (1e-5 if out_dtype == torch.float32 else 2**-8)


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 128), (5, 0, 128), (5, 3, 0)])
def test_a_product_without_rows_columns_or_contraction_is_empty_or_zero(m, n, k):
    a_q, b_q, expected = operands(m, n, k, b_layout="tiles", scales="pow2")
    got = triton_matmul.matmul(*a_q, *b_q, b_layout="tiles", out_dtype=torch.float32)
    assert torch.equal(got, expected.float())


def test_more_tiles_than_a_group_of_the_cache_are_all_computed():
    # Groups of 8 row tiles: nine of them, and two column tiles, fill one group and a short one.
    a_q, b_q, expected = operands(8 * 128 + 1, 129, 8, b_layout="blocks", scales="pow2")
    got = triton_matmul.matmul(*a_q, *b_q, b_layout="blocks", out_dtype=torch.float32)
    assert gap(got, expected) <= 1e-5


def test_nan_in_a_tile_reaches_the_rows_and_columns_that_read_it():
    a, b = torch.ones(3, 256), torch.ones(130, 256)
    a[1, 5], b[129, 200] = torch.inf, torch.nan
    product = triton_matmul.matmul(
        *fp8.quantize_tiles(a, scales="pow2"),
        *fp8.quantize_blocks(b, scales="pow2"),
        b_layout="blocks",
        out_dtype=torch.float32,
    )
    expected = torch.zeros(3, 130, dtype=torch.bool)
    expected[1], expected[:, 128:] = True, True
    assert torch.equal(product.isnan(), expected)


def test_a_linear_layer_trains_through_the_kernels(monkeypatch: pytest.MonkeyPatch):
    generator = torch.Generator().manual_seed(0)
    x, weight, grad = (
        torch.randn(shape, generator=generator) for shape in [(9, 40), (20, 40), (9, 20)]
    )
    results = []
    for kernels in ("torch", "triton"):
        monkeypatch.setenv("COTREE_KERNELS", kernels)
        assert {choice.backend for choice in status()} == {kernels}
        leaves = x.clone().requires_grad_(), weight.clone().requires_grad_()
        y = fp8.block_linear(*leaves, None, scales="pow2")
        results.append((y.detach(), *torch.autograd.grad(y, leaves, grad)))
    assert all(gap(got, expected) <= 1e-6 for expected, got in zip(*results, strict=True))


@pytest.mark.parametrize("b_layout", ["tiles", "blocks"])
def test_scales_of_another_layout_are_refused(b_layout):
    a_q, (b, b_scales), _ = operands(3, 200, 300, b_layout=b_layout, scales="pow2")
    with pytest.raises(ValueError, match="needs scales"):
        triton_matmul.matmul(*a_q, b, b_scales[1:], b_layout=b_layout, out_dtype=torch.float32)
    with pytest.raises(ValueError, match=r"a \[M, K\] and b \[N, K\]"):
        triton_matmul.matmul(*a_q, b[:, 1:], b_scales, b_layout=b_layout, out_dtype=torch.float32)

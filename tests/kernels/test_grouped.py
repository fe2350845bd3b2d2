"""Tests for kernels/grouped.py, against one product for each expert."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.kernels import fp8
from cotree.kernels.grouped import (
    block_grouped_linear,
    grouped_linear,
    padded_positions,
)


def _random(seed: int, *shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


def _ends(sizes: list[int]) -> torch.Tensor:
    return torch.tensor(sizes).cumsum(0).int()


def _experts(offsets: torch.Tensor) -> list[slice]:
    return [slice(start, end) for start, end in pairwise([0, *offsets.tolist()])]


# --- grouped_linear --------------------------------------------------------------------------

_SIZES = st.lists(st.integers(0, 7), min_size=1, max_size=5)
# Multiples of 16 bytes, which torch's kernel needs, and not.
_WIDTHS = st.sampled_from([(8, 16), (24, 8), (5, 3), (8, 3)])


def _loop(x: torch.Tensor, weight: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch.cat([x[s] @ weight[e].T for e, s in enumerate(_experts(offsets))])


@given(_SIZES, _WIDTHS, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]))
def test_every_expert_multiplies_its_own_rows(
    sizes: list[int], widths: tuple[int, int], dtype: torch.dtype
):
    offsets, (k, n) = _ends(sizes), widths
    rows = int(offsets[-1])
    operands = (_random(0, rows, k).to(dtype), _random(1, len(sizes), n, k).to(dtype))
    upstream = _random(2, rows, n).to(dtype)
    x, weight = (t.clone().requires_grad_() for t in operands)
    y = grouped_linear(x, weight, offsets)
    y.backward(upstream)
    exact_x, exact_weight = (t.double().requires_grad_() for t in operands)
    exact = _loop(exact_x, exact_weight, offsets)
    exact.backward(upstream.double())
    tolerance = {torch.bfloat16: 1e-2, torch.float32: 1e-5, torch.float64: 1e-12}[dtype]
    for got, want in ((y, exact), (x.grad, exact_x.grad), (weight.grad, exact_weight.grad)):
        assert got.dtype == dtype
        scale = float(want.detach().abs().max()) if want.numel() else 0.0
        torch.testing.assert_close(got.double(), want, rtol=0, atol=tolerance * scale)


def test_gradients_need_not_be_contiguous():
    x, weight = _random(0, 6, 8).float().requires_grad_(), _random(1, 2, 16, 8).float()
    grouped_linear(x, weight, _ends([4, 2])).sum().backward()  # an expanded scalar
    torch.testing.assert_close(x.grad[0], weight[0].sum(0))


def test_only_the_gradients_that_are_asked_for_are_made():
    x = _random(0, 6, 8).float()
    weight = _random(1, 2, 16, 8).float().requires_grad_()
    y = grouped_linear(x, weight, _ends([4, 2]))
    (grad,) = torch.autograd.grad(y.sum(), weight)
    torch.testing.assert_close(grad[1, 3], x[4:].sum(0))


def test_autocast_does_not_round_an_expert_that_has_no_kernel():
    x, weight = _random(0, 6, 5).float(), _random(1, 2, 3, 5).float()
    expected = grouped_linear(x, weight, _ends([4, 2]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(grouped_linear(x, weight, _ends([4, 2])), expected)


@pytest.mark.parametrize("function", [grouped_linear, block_grouped_linear])
def test_operands_that_do_not_fit_are_refused(function):
    options = {} if function is grouped_linear else {"scales": "pow2"}
    x, weight, offsets = torch.zeros(4, 8), torch.zeros(2, 16, 8), _ends([1, 3])
    for wrong in (
        (x[:, :4], weight, offsets),
        (x, weight, offsets[:1]),
        (x, weight[0], offsets),
        (x, weight, offsets.long()),
    ):
        with pytest.raises(ValueError, match=r"needs x \[T, K\], weight \[E, N, K\]"):
            function(*wrong, **options)


def test_two_dtypes_are_refused():
    with pytest.raises(ValueError, match="needs one dtype"):
        grouped_linear(torch.zeros(4, 8), torch.zeros(2, 16, 8).bfloat16(), _ends([1, 3]))


# --- block_grouped_linear --------------------------------------------------------------------


@given(st.lists(st.integers(0, 300), min_size=1, max_size=6))
def test_every_expert_starts_at_a_multiple_of_128_in_the_padded_layout(sizes: list[int]):
    offsets = _ends(sizes)
    positions, ends, capacity = padded_positions(offsets, int(offsets[-1]))
    expected, start = [], 0
    for size, end in zip(sizes, ends.tolist(), strict=True):
        expected += range(start, start + size)
        start += -(-size // 128) * 128
        assert end == start
    assert positions.tolist() == expected
    assert capacity % 128 == 0
    assert start <= capacity <= start + 128 * len(sizes)


_CASES = [
    ([5, 0, 130, 1], 130, 72),
    ([128, 256], 128, 256),
    ([0, 0, 3], 16, 24),
    ([0, 0], 16, 16),
]


def _trained(
    function, x: torch.Tensor, weight: torch.Tensor, upstream: torch.Tensor
) -> list[torch.Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = function(x, weight)
    y.backward(upstream)
    return [y.detach(), x.grad, weight.grad]


@pytest.mark.parametrize("scales", ["pow2", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("sizes", "k", "n"), _CASES)
def test_fp8_experts_are_one_fp8_layer_each(
    sizes: list[int], k: int, n: int, dtype: torch.dtype, scales: fp8.ScaleFormat
):
    offsets = _ends(sizes)
    x = _random(0, int(offsets[-1]), k).to(dtype)
    weight, upstream = _random(1, len(sizes), n, k).float(), _random(2, len(x), n).to(dtype)

    def one_by_one(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        rows = _experts(offsets)
        parts = [fp8.block_linear(x[s], weight[e], None, scales=scales) for e, s in enumerate(rows)]
        return torch.cat(parts)

    got = _trained(
        lambda x, w: block_grouped_linear(x, w, offsets, scales=scales), x, weight, upstream
    )
    want = _trained(one_by_one, x, weight, upstream)
    # The product of a matrix with fewer rows may add in another order.
    for ours, theirs in zip(got, want, strict=True):
        assert ours.dtype == theirs.dtype
        low = ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours, theirs, rtol=1e-2 if low else 1e-5, atol=1e-4)


@pytest.mark.parametrize("scales", ["pow2", "float32"])
def test_fp8_products_are_those_of_the_dequantised_operands(scales: fp8.ScaleFormat):
    offsets = _ends([5, 0, 130, 1])
    x, weight = _random(0, 136, 200).float(), _random(1, 4, 72, 200).float()
    upstream = _random(2, 136, 72).float()
    y, grad_x, grad_weight = _trained(
        lambda x, w: block_grouped_linear(x, w, offsets, scales=scales), x, weight, upstream
    )

    def tiles(values: torch.Tensor) -> torch.Tensor:
        return fp8.dequantize_tiles(*fp8.quantize_tiles(values, scales=scales)).double()

    blocks = fp8.dequantize_blocks(*fp8.quantize_blocks(weight, scales=scales)).double()
    for expert, rows in enumerate(_experts(offsets)):
        want_weight = tiles(upstream[rows].T.contiguous()) @ tiles(x[rows].T.contiguous()).T
        for got, want in (
            (y[rows], tiles(x[rows]) @ blocks[expert].T),
            (grad_x[rows], tiles(upstream[rows]) @ blocks[expert]),
            (grad_weight[expert], want_weight),
        ):
            gap = float((got - want).norm())
            assert gap <= 1e-5 * float(want.norm()), (expert, gap)


def test_fp8_keeps_only_what_gradients_need():
    saved: list[torch.Tensor] = []
    x, weight, offsets = torch.ones(4, 16), torch.ones(2, 16, 16).requires_grad_(), _ends([1, 3])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = block_grouped_linear(x, weight, offsets, scales="pow2")
    # x's tiles along the tokens, their scales, and the offsets; no weight, as x is frozen.
    kept = [t for t in saved if t is not None]
    assert sorted(t.dtype.itemsize for t in kept) == [1, 4, 4]
    y.sum().backward()
    # 1 and 3 tokens of ones: every product is a sum of that many.
    assert weight.grad[:, 0, 0].tolist() == [1.0, 3.0]


@settings(max_examples=20)
@given(_SIZES, st.integers(0, 100))
def test_fp8_weight_gradients_do_not_depend_on_other_experts(sizes: list[int], seed: int):
    # A value of another expert in the same tile would change the tile's scale.
    offsets = _ends(sizes)
    x = _random(seed, int(offsets[-1]), 16).float()
    weight, upstream = _random(1, len(sizes), 16, 16).float(), _random(2, len(x), 16).float()
    loud = x.clone()
    first = _experts(offsets)[0]
    loud[first] *= 1e6

    def grads(x: torch.Tensor) -> torch.Tensor:
        return _trained(
            lambda x, w: block_grouped_linear(x, w, offsets, scales="pow2"), x, weight, upstream
        )[2]

    assert torch.equal(grads(loud)[1:], grads(x)[1:])

"""Triton's quantisers against the torch functions; run by test_triton_quantize.py."""

import pytest
import torch
from fp8_cases import (
    DTYPES,
    QUANTISERS,
    SCALES,
    SHAPES,
    extremes,
    representable,
    same_bytes,
    spread_out,
)

from cotree.kernels import fp8, triton_quantize


@pytest.fixture(autouse=True)
def torch_is_the_reference(monkeypatch: pytest.MonkeyPatch):
    # The functions of `fp8` are called for the expected values.
    monkeypatch.setenv("COTREE_KERNELS", "torch")


def agree(quantiser: str, values: torch.Tensor, scales: fp8.ScaleFormat) -> bool:
    expected = getattr(fp8, quantiser)(values, scales=scales)
    return same_bytes(getattr(triton_quantize, quantiser)(values, scales=scales), expected)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_and_scales_are_those_of_torch(shape, dtype, quantiser, scales):
    assert agree(quantiser, spread_out(shape, dtype), scales)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_and_largest_values_and_nan_are_those_of_torch(dtype, quantiser, scales):
    rows = extremes(dtype)
    assert agree(quantiser, rows, scales)
    assert agree(quantiser, rows[:11], scales)


@pytest.mark.parametrize("scales", SCALES)
def test_every_bfloat16_and_every_tie_rounds_as_torch_does(scales):
    assert agree("quantize_tiles", representable(), scales)


@pytest.mark.parametrize("scales", SCALES)
def test_experts_have_blocks_of_their_own(scales):
    weight = spread_out((260, 200), torch.float32).view(2, 130, 200)
    assert agree("quantize_blocks", weight, scales)


@pytest.mark.parametrize("shape", [(130, 200), (2, 130, 200), (1, 1), (2, 0, 5)])
def test_bytes_are_transposed(shape):
    values = torch.arange(torch.Size(shape).numel()).to(torch.uint8).view(shape)
    got = triton_quantize.transposed(values.view(torch.float8_e4m3fn))
    assert got.is_contiguous()
    assert got.dtype == torch.float8_e4m3fn
    assert torch.equal(got.view(torch.uint8), values.transpose(-1, -2))


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("shape", [(0, 200), (130, 0)])
def test_nothing_is_quantised_to_nothing(shape, quantiser):
    assert agree(quantiser, torch.zeros(shape), "pow2")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: triton_quantize.quantize_tiles(torch.zeros(3), scales="pow2"), "matrix"),
        (lambda: triton_quantize.quantize_blocks(torch.zeros(3), scales="pow2"), r"\[N, K\]"),
    ],
)
def test_other_shapes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()

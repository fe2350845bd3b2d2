"""Tests for kernels/fp8.py on the GPU: Triton's bytes are torch's, and its product is float64's."""

import pytest
import torch
from devices import CUDA
from fp8_cases import (
    DTYPES,
    QUANTISERS,
    SCALES,
    SHAPES,
    extremes,
    gap,
    operands,
    representable,
    same_bytes,
    spread_out,
)

from cotree.kernels import fp8, triton_matmul, triton_quantize
from cotree.kernels.dispatch import OPS, VARIABLE, status


@pytest.fixture(autouse=True)
def nothing_asked_for(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def agree(quantiser: str, values: torch.Tensor, scales: fp8.ScaleFormat) -> bool:
    """Whether Triton on the GPU makes the bytes of torch on the CPU."""
    expected = getattr(fp8, quantiser)(values, scales=scales)
    got = getattr(triton_quantize, quantiser)(values.cuda(), scales=scales)
    return same_bytes(got, expected)


@pytest.mark.parametrize("device", [CUDA])
def test_triton_is_chosen_for_every_operation(device):
    assert torch.cuda.get_device_capability() >= (8, 9), "this GPU has no e4m3; use another"
    chosen = status()
    assert [(one.op, one.backend) for one in chosen] == [(op, "triton") for op in OPS]
    assert all("compute capability" in one.reason for one in chosen)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("shape", [*SHAPES, (1000, 2048)])
def test_bytes_and_scales_are_those_of_torch(device, shape, dtype, quantiser, scales):
    assert agree(quantiser, spread_out(shape, dtype), scales)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_smallest_and_largest_values_and_nan_are_those_of_torch(
    device, dtype, quantiser, scales
):
    rows = extremes(dtype)
    assert agree(quantiser, rows, scales)
    assert agree(quantiser, rows[:11], scales)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("scales", SCALES)
def test_every_bfloat16_and_every_tie_rounds_as_torch_does(device, scales):
    assert agree("quantize_tiles", representable(), scales)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("scales", SCALES)
def test_experts_have_blocks_of_their_own(device, scales):
    weight = spread_out((520, 200), torch.float32).view(4, 130, 200)
    assert agree("quantize_blocks", weight, scales)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("shape", [(1000, 2048), (3, 130, 200), (1, 1), (2, 0, 5)])
def test_bytes_are_transposed(device, shape):
    values = torch.arange(torch.Size(shape).numel(), device=device).to(torch.uint8).view(shape)
    got = fp8.transposed(values.view(torch.float8_e4m3fn))
    assert got.is_contiguous()
    assert torch.equal(got.view(torch.uint8), values.transpose(-1, -2))


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_torch_on_the_gpu_makes_the_same_bytes(device, quantiser, scales, monkeypatch):
    monkeypatch.setenv(VARIABLE, "torch")
    for values in (spread_out((130, 200), torch.float32), extremes(torch.float32)):
        expected = getattr(fp8, quantiser)(values, scales=scales)
        assert same_bytes(getattr(fp8, quantiser)(values.to(device), scales=scales), expected)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("b_layout", ["tiles", "blocks"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(130, 200, 300), (1, 5, 128), (3, 1, 17), (1000, 1536, 2048)]
)
def test_the_product_is_that_of_the_dequantised_matrices(
    device, m, n, k, b_layout, scales, out_dtype
):
    # The tensor cores keep about 14 bits of a sum over 128: 2^-14 of the largest summand, where
    # float32 would keep 2^-24. The float32 additions of the tiles' sums are not seen beside it.
    a_q, b_q, expected = operands(m, n, k, b_layout=b_layout, scales=scales)
    a_q, b_q = (tuple(tensor.to(device) for tensor in pair) for pair in (a_q, b_q))
    got = triton_matmul.matmul(*a_q, *b_q, b_layout=b_layout, out_dtype=out_dtype)
    assert got.dtype == out_dtype
    assert gap(got, expected) <= (1e-3 if out_dtype == torch.float32 else 2**-8)


@pytest.mark.parametrize("device", [CUDA])
def test_the_error_does_not_grow_with_the_contraction(device):
    # Ones and a small value whose sums stay below 2^14 in one tile, and pass it over all of K: an
    # accumulator of 14 bits that is not moved to float32 would drop the small values at the end.
    k = 128 * 512
    a, b = torch.ones(1, k), torch.ones(1, k)
    a[:, 1::2] = 2**-6
    a_q, b_q = (fp8.quantize_tiles(x.to(device), scales="pow2") for x in (a, b))
    got = triton_matmul.matmul(*a_q, *b_q, b_layout="tiles", out_dtype=torch.float32)
    # k / 2 * (1 + 2^-6) = 33,280: exact in float32, tile by tile 65.
    assert float(got) == k / 2 * (1 + 2**-6)


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tokens", [150, 0])
def test_a_layer_trains_as_it_does_on_the_cpu(device, tokens, dtype):
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn((tokens, d), generator=generator).to(dtype) for d in (400, 272))
    weight, bias = (torch.randn(shape, generator=generator) for shape in [(272, 400), (272,)])
    results = []
    for place in ("cpu", device):
        leaves = [tensor.to(place).requires_grad_() for tensor in (x, weight, bias)]
        y = fp8.block_linear(*leaves, scales="pow2")
        assert y.device.type == torch.device(place).type
        results.append((y.detach(), *torch.autograd.grad(y, leaves, grad.to(place))))
    bound = 1e-3 if dtype == torch.float32 else 2**-7
    for expected, got in zip(*results, strict=True):
        assert got.dtype == expected.dtype
        assert gap(got, expected) <= bound


@pytest.mark.parametrize("device", [CUDA])
def test_under_autocast_the_result_is_autocasts(device):
    x = torch.randn(64, 128, device=device, requires_grad=True)
    weight = torch.randn(256, 128, device=device, requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        y = fp8.block_linear(x, weight, None, scales="pow2")
    y.sum().backward()
    assert (y.dtype, x.grad.dtype, weight.grad.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )


@pytest.mark.parametrize("device", [CUDA])
def test_nan_reaches_the_rows_and_columns_that_read_its_tile(device):
    a, b = torch.ones(3, 256, device=device), torch.ones(130, 256, device=device)
    a[1, 5], b[129, 200] = torch.inf, torch.nan
    got = fp8.matmul(
        *fp8.quantize_tiles(a, scales="pow2"),
        *fp8.quantize_blocks(b, scales="pow2"),
        b_layout="blocks",
        out_dtype=torch.bfloat16,
    )
    expected = torch.zeros(3, 130, dtype=torch.bool, device=device)
    expected[1], expected[:, 128:] = True, True
    assert torch.equal(got.isnan(), expected)

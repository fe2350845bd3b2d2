"""Tests of the CUDA quantiser on a GPU: the bytes of the torch function, whatever the input."""

import threading

import pytest
import torch

from cotree.kernels import fp8
from cotree.kernels.cuda_quantize import available, quantize_tiles

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MISSING = available(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]


def check_bytes(values: torch.Tensor) -> None:
    """Compares with the torch function on the CPU; `values` is on the GPU."""
    q, scales = quantize_tiles(values)
    expected_q, expected_scales = fp8.quantize_tiles(values.cpu(), scales="pow2")
    assert q.dtype == torch.float8_e4m3fn
    assert (q.shape, scales.shape) == (expected_q.shape, expected_scales.shape)
    bits = scales.cpu().view(torch.int32), expected_scales.view(torch.int32)
    torch.testing.assert_close(*bits, rtol=0, atol=0, msg=lambda text: f"scales' bits: {text}")
    octets = q.cpu().view(torch.uint8), expected_q.view(torch.uint8)
    torch.testing.assert_close(*octets, rtol=0, atol=0, msg=lambda text: f"bytes of q: {text}")


def spread(m: int, k: int, dtype: torch.dtype) -> torch.Tensor:
    """Normal values, each row of another magnitude, over most of the dtype's range."""
    generator = torch.Generator().manual_seed(1000 * m + k)
    largest = 10 if dtype == torch.float16 else 100
    magnitudes = torch.randint(-largest, largest, (m, 1), generator=generator)
    values = torch.randn(m, k, generator=generator, dtype=torch.float64)
    return (values * 2.0**magnitudes).to(dtype).cuda()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [
        *((1, 128), (64, 256), (1000, 1024)),  # whole tiles
        *((1, 1), (3, 8), (7, 136), (130, 200)),  # ragged, vector and scalar loads
        *((5, 127), (5, 129), (33, 1001), (257, 4)),
        *((0, 128), (4, 0), (0, 0)),
    ],
)
def test_bytes_are_those_of_the_torch_function(shape: tuple[int, int], dtype: torch.dtype):
    check_bytes(spread(*shape, dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_value_of_two_bytes_gives_its_scale(dtype: torch.dtype):
    # Each of the 2^16 patterns leads a tile of its own; behind it come smaller and equal values.
    lead = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    shares = torch.linspace(-1, 1, 127)
    values = torch.cat([lead[:, None], (lead[:, None].float() * shares).to(dtype)], dim=1)
    check_bytes(values.cuda())


def test_every_exponent_is_rounded_up_above_448():
    # A scale doubles where amax's mantissa passes that of 448 = 1.75 * 2^8, which is 0x600000.
    mantissas = torch.tensor([0, 1, 0x5FFFFF, 0x600000, 0x600001, 0x7FFFFF], dtype=torch.int32)
    exponents = torch.arange(256, dtype=torch.int32)[:, None] << 23
    amax = (exponents + mantissas).flatten().view(torch.float32)
    shares = torch.linspace(-1, 1, 128)
    check_bytes((amax[:, None] * shares).cuda())


def test_halfway_values_go_to_the_even_neighbour():
    # In a tile whose largest is 448 the scale is 1: q is x itself, rounded.
    grid = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    middles = (grid[1:] + grid[:-1]) / 2
    steps = torch.tensor([-1, 0, 1], dtype=torch.int32)
    near = (middles.view(torch.int32)[:, None] + steps).view(torch.float32).flatten()
    rows = torch.cat([near, -near]).view(-1, 126)
    values = torch.cat([rows, torch.full((len(rows), 2), 448.0)], dim=1)
    q, scales = quantize_tiles(values.cuda())
    assert scales.cpu().eq(1).all()
    expected = values.to(torch.float8_e4m3fn)
    torch.testing.assert_close(q.cpu().view(torch.uint8), expected.view(torch.uint8))
    check_bytes(values.cuda())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [256, 250])
@pytest.mark.parametrize("bad", [float("inf"), -float("inf"), float("nan"), -float("nan")])
def test_what_is_not_finite_makes_its_tile_nan_and_no_other(
    bad: float, columns: int, dtype: torch.dtype
):
    values = spread(6, columns, dtype)
    values[2, 5] = bad
    values[4, columns - 1] = bad
    check_bytes(values)
    q, scales = quantize_tiles(values)
    expected = torch.zeros(6, 2, dtype=torch.bool)
    expected[2, 0] = expected[4, 1] = True
    assert scales.isnan().cpu().equal(expected)
    assert q.float().isnan().cpu().equal(expected.repeat_interleave(128, 1)[:, :columns])


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_keep_their_sign_and_have_scale_one(dtype: torch.dtype):
    values = torch.zeros(4, 200, dtype=dtype, device="cuda")
    values[1] = -0.0
    check_bytes(values)
    assert quantize_tiles(values)[1].eq(1).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_and_unaligned_matrices_are_read_right(dtype: torch.dtype):
    values = spread(64, 264, dtype)
    check_bytes(values[:, 3:259])
    check_bytes(values.T)
    check_bytes(values.flatten()[1 : 1 + 8 * 256].view(8, 256))


def test_other_streams_and_threads_are_served():
    values = spread(64, 256, torch.bfloat16)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        check_bytes(values)
    failures: list[BaseException] = []

    def body() -> None:
        try:
            check_bytes(values)
        except (AssertionError, RuntimeError) as failure:
            failures.append(failure)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert failures == []

"""Tests of the wgmma product on a GPU: exact where the arithmetic is, else close to float64."""

import pytest
import torch

from cotree.kernels import fp8
from cotree.kernels.cuda_matmul import available, matmul

SHAPES = [  # M, N, K
    *((64, 128, 128), (64, 128, 256), (128, 256, 512), (512, 384, 1024)),  # whole blocks
    *((1, 1, 16), (1, 128, 128), (65, 129, 144), (100, 200, 304), (3, 500, 1168)),  # ragged
]
MISSING = available(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(MISSING is not None, reason=str(MISSING)),
]
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def small_integers(m: int, n: int, k: int) -> Operands:
    """Integers of -2 to 2 with scales of 2^-2 to 2^2; on the CPU.

    128 products are at most 512 together: no bit is lost in an accumulator of 14. Scaled, the
    sums are multiples of 2^-4 below 512 * 2^4 * 10 < 2^17: no bit is lost in float32.
    """
    generator = torch.Generator().manual_seed(m + 1000 * n + 1000_000 * k)
    tiles = -(-k // 128)
    a, b = (torch.randint(-2, 3, (rows, k), generator=generator) for rows in (m, n))
    a_scales, b_scales = (
        2.0 ** torch.randint(-2, 3, (rows, tiles), generator=generator)
        for rows in (m, -(-n // 128))
    )
    return a.to(torch.float8_e4m3fn), a_scales, b.to(torch.float8_e4m3fn), b_scales


def normal_values(m: int, n: int, k: int) -> Operands:
    """Quantised normal values, rows of different magnitudes; on the CPU."""
    generator = torch.Generator().manual_seed(m + 1000 * n + 1000_000 * k)
    x = torch.randn(m, k, generator=generator)
    x *= 2.0 ** torch.randint(-8, 8, (m, 1), generator=generator)
    weight = torch.randn(n, k, generator=generator)
    return (
        *fp8.quantize_tiles(x, scales="pow2"),
        *fp8.quantize_blocks(weight, scales="pow2"),
    )


def in_float64(a, a_scales, b, b_scales) -> tuple[torch.Tensor, torch.Tensor]:
    """The product of the dequantised operands, and of their magnitudes."""
    left = fp8.dequantize_tiles(a, a_scales).double()
    right = fp8.dequantize_blocks(b, b_scales).double()
    return left @ right.T, left.abs() @ right.abs().T


def on_gpu(operands: Operands, out_dtype: torch.dtype) -> torch.Tensor:
    return matmul(*(operand.cuda() for operand in operands), out_dtype=out_dtype).cpu()


@pytest.mark.parametrize("shape", SHAPES)
def test_small_integers_are_multiplied_exactly(shape: tuple[int, int, int]):
    # A wrong place of one byte in shared memory, or of one sum in the registers, shows here.
    operands = small_integers(*shape)
    expected, _ = in_float64(*operands)
    torch.testing.assert_close(on_gpu(operands, torch.float32).double(), expected, rtol=0, atol=0)


def test_each_byte_is_multiplied_with_its_own_and_no_other():
    # a is the identity: out is b transposed. No byte is twice in a row or a column of b.
    a = torch.eye(128).to(torch.float8_e4m3fn)
    finite = torch.tensor([byte for byte in range(256) if byte & 0x7F != 0x7F], dtype=torch.uint8)
    at = torch.arange(128)[:, None] * 3 + torch.arange(128)[None, :]
    b = finite[at % len(finite)].view(torch.float8_e4m3fn)
    ones = torch.ones(128, 1)
    out = on_gpu((a, ones, b, ones[:1]), torch.float32)
    torch.testing.assert_close(out, b.float().T, rtol=0, atol=0)
    # And the other way round, so that a's place is checked as finely as b's.
    out = on_gpu((b, ones, a, ones[:1]), torch.float32)
    torch.testing.assert_close(out, b.float(), rtol=0, atol=0)


def share_of_magnitudes(operands: Operands) -> tuple[float, float]:
    """Error over sum |a| |b|, (root mean square, largest)."""
    expected, magnitudes = in_float64(*operands)
    error = (on_gpu(operands, torch.float32).double() - expected).abs()
    return float(error.norm() / magnitudes.norm()), float((error / magnitudes).max())


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_as_close_as_the_accumulator_allows(shape: tuple[int, int, int]):
    # The tensor core lines up 32 products and the accumulator below the largest of them, and
    # keeps about 14 bits of each: 2^-13 of the largest is lost, where float32 would lose 2^-24.
    average, largest = share_of_magnitudes(normal_values(*shape))
    assert average <= 2**-10, f"error over sum |a| |b|: {average:.2e}, largest {largest:.2e}"
    assert largest <= 2**-8, f"error over sum |a| |b|: {average:.2e}, largest {largest:.2e}"


def test_the_error_does_not_grow_with_the_contraction():
    # Every 128 moves to float32. In the tensor core alone K = 4096 loses up to 2%.
    short, long = (share_of_magnitudes(normal_values(64, 128, k))[0] for k in (128, 16384))
    assert long <= 2 * short, f"error over sum |a| |b|: {short:.2e} at 128, {long:.2e} at 16384"


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(64, 128, 256), (65, 129, 144)])
def test_narrow_results_are_the_float32_ones_rounded(
    shape: tuple[int, int, int], out_dtype: torch.dtype
):
    operands = normal_values(*shape)
    expected = on_gpu(operands, torch.float32).to(out_dtype)
    assert on_gpu(operands, out_dtype).equal(expected)


def test_nan_reaches_its_row_and_block_of_columns_only():
    operands = small_integers(128, 256, 256)
    operands[1][3, 1] = float("nan")  # of row 3
    operands[3][1, 0] = float("nan")  # of columns 128 to 255
    expected = torch.zeros(128, 256, dtype=torch.bool)
    expected[3] = True
    expected[:, 128:] = True
    assert on_gpu(operands, torch.float32).isnan().equal(expected)


def test_strided_and_unaligned_operands_are_read_right():
    a, a_scales, b, b_scales = small_integers(64, 128, 256)
    expected, _ = in_float64(a, a_scales, b, b_scales)
    wide = torch.zeros(64, 300, dtype=torch.float8_e4m3fn, device="cuda")
    wide.view(torch.uint8)[:, 5:261] = a.view(torch.uint8).cuda()
    shifted = torch.zeros(128 * 256 + 1, dtype=torch.float8_e4m3fn, device="cuda")
    shifted.view(torch.uint8)[1:] = b.view(torch.uint8).flatten().cuda()
    columns_first = a_scales.cuda().T.contiguous().T
    out = matmul(
        *(wide[:, 5:261], columns_first, shifted[1:].view(128, 256), b_scales.cuda()),
        out_dtype=torch.float32,
    )
    torch.testing.assert_close(out.cpu().double(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(0, 128, 128), (64, 0, 128), (64, 128, 0)])
def test_empty_products_are_zeros(shape: tuple[int, int, int]):
    out = on_gpu(small_integers(*shape), torch.float32)
    assert out.equal(torch.zeros(shape[:2]))

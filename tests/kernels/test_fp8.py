"""Tests for quantisers and product of kernels/fp8.py; test_fp8_linear.py has the layer's."""

import pytest
import torch
from fp8_cases import DTYPES, QUANTISERS, SCALES, extremes, gap, operands, same_bytes, spread_out
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from cotree.kernels import fp8

GRID = torch.arange(127, dtype=torch.uint8).view(torch.float8_e4m3fn).double()
"""The e4m3 values that are not negative, 0 to 448."""


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Float32 matrices of up to three tiles a side, over up to 2^40, some with rows of zeros."""
    shape = draw(st.tuples(st.integers(1, 300), st.integers(1, 300)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    width = draw(st.integers(1, 40))
    exponents = torch.randint(-width, 1, shape, generator=generator)
    values = torch.randn(shape, generator=generator) * torch.exp2(exponents.float())
    return values * (torch.rand((shape[0], 1), generator=generator) > 0.1)


def expanded(scales: torch.Tensor, columns: int) -> torch.Tensor:
    """The [M, columns] scale of every value, from those of its tiles."""
    return scales.repeat_interleave(128, -1)[:, :columns].double()


def scales_of(mantissas: torch.Tensor, exponent: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact amaxes of one exponent in float64, and the pow2 scale of a tile with each."""
    amax = ((exponent + 127) << 23 | mantissas).view(torch.float32)
    return amax.double(), fp8.quantize_tiles(amax[:, None], scales="pow2")[1][:, 0].double()


def is_the_smallest_power(amax: torch.Tensor, scale: torch.Tensor) -> bool:
    # 448 * scale and 224 * scale have three bits: exact.
    power = torch.frexp(scale).mantissa == 0.5
    return bool((power & (amax <= 448 * scale) & (amax > 224 * scale)).all())


@pytest.mark.parametrize("exponent", [-117, -60, 0, 8, 127])
def test_a_pow2_scale_is_the_smallest_power_that_reaches_the_largest_value(exponent: int):
    around = torch.arange(0x5FFF00, 0x600100, dtype=torch.int32)  # where 448 * 2^e is
    mantissas = torch.cat([torch.arange(0, 2**23, 97, dtype=torch.int32), around])
    assert is_the_smallest_power(*scales_of(mantissas, exponent))


@pytest.mark.slow
def test_a_pow2_scale_is_the_smallest_power_for_every_mantissa():
    # In parts: a tile is filled up to 128 values, 4 GiB for all.
    for part in torch.arange(2**23, dtype=torch.int32).split(2**17):
        assert is_the_smallest_power(*scales_of(part, 0))


@settings(max_examples=25)
@given(values=matrices(), scales=st.sampled_from(SCALES))
def test_every_value_becomes_the_nearest_e4m3(values, scales):
    # The spacing is 2^-3 of the power of two below a value, and 2^-9 for those below 2^-6: half
    # of it is the largest distance. float32 scales round quotient and product, 2^-24 each.
    q, scale = fp8.quantize_tiles(values, scales=scales)
    each = expanded(scale, values.shape[1])
    magnitude = (values.double() / each).abs()
    spacing = torch.exp2(torch.frexp(magnitude.clamp(min=2**-6)).exponent.double() - 4)
    slack = 0 if scales == "pow2" else 2**-23 * magnitude
    assert (((q.double() * each - values).abs() / each) <= spacing / 2 + slack).all()
    assert torch.equal(fp8.dequantize_tiles(q, scale), (q.float() * each.float()))


def test_ties_go_to_the_even_neighbour():
    # Scale 1, by the 448. Odd places in the grid have an odd mantissa.
    ties = (GRID[1:] + GRID[:-1]) / 2
    q, scale = fp8.quantize_tiles(
        functional.pad(ties, (0, 2), value=448)[None].float(), scales="pow2"
    )
    assert float(scale) == 1
    assert torch.equal(
        q[0, :126].double(), torch.where(torch.arange(126) % 2 == 0, GRID[:-1], GRID[1:])
    )


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16])
@pytest.mark.parametrize("scales", SCALES)
def test_the_largest_value_of_a_tile_becomes_448_or_above_half_of_it(dtype, scales):
    values = spread_out((40, 300), dtype)
    q, _ = fp8.quantize_tiles(values, scales=scales)
    largest = functional.pad(q.float(), (0, 84)).view(40, 3, 128).abs().amax(-1)
    largest = largest[values.any(-1)]
    assert ((largest == 448) if scales == "float32" else (largest >= 224) & (largest <= 448)).all()


@pytest.mark.parametrize("scales", SCALES)
def test_a_ragged_tile_counts_as_filled_up_with_zeros(scales):
    values = spread_out((130, 200), torch.float32)
    padded = functional.pad(values, (0, 56, 0, 126))
    q, scale = fp8.quantize_tiles(padded, scales=scales)
    assert same_bytes(
        fp8.quantize_tiles(values, scales=scales), (q[:130, :200].contiguous(), scale[:130])
    )
    q, scale = fp8.quantize_blocks(padded, scales=scales)
    assert same_bytes(
        fp8.quantize_blocks(values, scales=scales), (q[:130, :200].contiguous(), scale)
    )


@pytest.mark.parametrize("scales", SCALES)
def test_transposed_tiles_run_along_the_tokens(scales):
    values = spread_out((130, 200), torch.bfloat16)
    got = fp8.quantize_tiles_transposed(values, scales=scales)
    assert (got[0].shape, got[1].shape) == ((200, 130), (200, 2))
    assert same_bytes(got, fp8.quantize_tiles(values.T.contiguous(), scales=scales))


@pytest.mark.parametrize("scales", SCALES)
def test_a_block_is_the_tile_of_its_largest_row(scales):
    # Every row of a block has its scale: with one row far above the others, that row's own.
    weight = spread_out((130, 200), torch.float32)
    weight[7], weight[128] = weight[7] * 2**20, weight[128] * 2**20
    q, scale = fp8.quantize_blocks(weight, scales=scales)
    rows = weight[[7, 128]]
    assert same_bytes(fp8.quantize_tiles(rows, scales=scales), (q[[7, 128]], scale))
    assert gap(fp8.dequantize_blocks(q, scale)[[7, 128]], rows) <= 2**-4


@pytest.mark.parametrize("scales", SCALES)
def test_the_transposed_weight_has_the_transposed_bytes_and_scales(scales):
    weight = spread_out((130, 200), torch.float32)
    q, scale = fp8.quantize_blocks(weight, scales=scales)
    transposed = fp8.quantize_blocks(weight.T, scales=scales)
    assert same_bytes(transposed, (fp8.transposed(q), scale.T))
    assert torch.equal(fp8.transposed(q).view(torch.uint8), q.view(torch.uint8).T)


def test_experts_have_blocks_of_their_own():
    weight = spread_out((260, 200), torch.float32).view(2, 130, 200)
    q, scale = fp8.quantize_blocks(weight, scales="pow2")
    for expert in range(2):
        alone = fp8.quantize_blocks(weight[expert], scales="pow2")
        assert same_bytes((q[expert], scale[expert]), alone)
    both = fp8.dequantize_blocks(q, scale)
    assert torch.equal(both[1], fp8.dequantize_blocks(q[1], scale[1]))


@settings(max_examples=25)
@given(values=matrices())
def test_pow2_scales_make_a_second_quantisation_lose_only_subnormals(values):
    """Across the tokens as along them: the backward pass may start from the forward's bytes.

    Both scales are powers of two, so a value keeps its four significant bits under the other
    scale, and its size stays below 448; only below 2^-6 of the scale e4m3 has fewer bits.
    """
    once = fp8.dequantize_tiles(*fp8.quantize_tiles(values, scales="pow2"))
    assert torch.equal(fp8.dequantize_tiles(*fp8.quantize_tiles(once, scales="pow2")), once)
    q, scale = fp8.quantize_tiles_transposed(once, scales="pow2")
    twice, each = fp8.dequantize_tiles(q, scale).T, expanded(scale, len(values)).T
    normal = once.abs() >= 2**-6 * each
    assert torch.equal(twice[normal], once[normal])
    assert ((twice - once).abs() <= 2**-10 * each).all()


def test_float32_scales_make_a_second_quantisation_round_again():
    # What pow2 scales are for. kernels.md measured the same: 0.016 to 0.030, and 0.027 to 0.027.
    values = torch.randn(256, 256, generator=torch.Generator().manual_seed(0))
    errors = {}
    for scales in SCALES:
        once = fp8.dequantize_tiles(*fp8.quantize_tiles(values, scales=scales))
        twice = fp8.dequantize_tiles(*fp8.quantize_tiles_transposed(once, scales=scales)).T
        errors[scales] = gap(once, values), gap(twice, values)
    assert errors["float32"][1] > 1.2 * errors["float32"][0]
    assert errors["pow2"][1] < 1.01 * errors["pow2"][0]


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("scales", SCALES)
def test_zeros_stay_zeros_with_scale_one(scales, quantiser):
    q, scale = getattr(fp8, quantiser)(torch.zeros(130, 3), scales=scales)
    assert not q.float().any()
    assert (scale == 1).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scales", SCALES)
def test_the_smallest_and_the_largest_values_have_finite_scales(scales, dtype):
    values = extremes(dtype)[:11]
    q, scale = fp8.quantize_tiles(values, scales=scales)
    assert scale.isfinite().all()
    assert (scale >= 2.0**-126).all()
    # e4m3 ends at 2^-9, half of it rounds up: the smallest scale keeps what is above 2^-136.
    error = (q.double() * expanded(scale, 130) - values).abs()
    assert (
        error <= torch.maximum(2**-4 * values.double().abs(), 2**-10 * expanded(scale, 130))
    ).all()


@pytest.mark.parametrize("bad", [torch.nan, -torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("scales", SCALES)
def test_nan_and_infinity_make_their_tile_nan_and_no_other(scales, bad):
    values = torch.ones(3, 300)
    values[1, 130] = bad
    q, scale = fp8.quantize_tiles(values, scales=scales)
    expected = torch.zeros(3, 3, dtype=torch.bool)
    expected[1, 1] = True
    assert torch.equal(scale.isnan(), expected)
    assert (q[1, 128:256].view(torch.uint8) == 0x7F).all()  # one byte, whatever the NaN's sign
    assert torch.equal(fp8.dequantize_tiles(q, scale).isnan(), expanded(expected.float(), 300) > 0)
    q, scale = fp8.quantize_blocks(values, scales=scales)
    assert scale.isnan().tolist() == [[False, True, False]]


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("b_layout", ["tiles", "blocks"])
@pytest.mark.parametrize(("m", "n", "k"), [(130, 200, 300), (1, 1, 128), (3, 1, 17)])
def test_the_product_is_that_of_the_dequantised_matrices(m, n, k, b_layout, scales, out_dtype):
    (a, a_scales), b_q, expected = operands(m, n, k, b_layout=b_layout, scales=scales)
    factor = 2.0 ** -int(expected.abs().max().log2())  # results near 1: float16 ends at 65504
    got = fp8.matmul(a, a_scales * factor, *b_q, b_layout=b_layout, out_dtype=out_dtype)
    bound = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[out_dtype]
    assert got.dtype == out_dtype
    assert gap(got, expected * factor) <= bound


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("b_layout", ["tiles", "blocks"])
def test_a_bfloat16_product_is_the_float32_one_rounded_once(b_layout, scales):
    # Another order of additions moves a few results over a tie; operands rounded to bfloat16,
    # which float32 scales do not allow, would move a good part of them.
    a_q, b_q, _ = operands(130, 200, 300, b_layout=b_layout, scales=scales)
    got, precise = (
        fp8.matmul(*a_q, *b_q, b_layout=b_layout, out_dtype=dtype)
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert (got == precise.bfloat16()).double().mean() > 0.999


def test_autocast_does_not_reach_the_product():
    a_q, b_q, expected = operands(64, 64, 256, b_layout="blocks", scales="float32")
    with torch.autocast("cpu", torch.bfloat16):
        got = fp8.matmul(*a_q, *b_q, b_layout="blocks", out_dtype=torch.float32)
    assert gap(got, expected) <= 1e-5


@pytest.mark.parametrize(("m", "n", "k"), [(0, 5, 128), (5, 0, 128), (5, 3, 0)])
def test_a_product_without_rows_columns_or_contraction_is_empty_or_zero(m, n, k):
    a_q, b_q, expected = operands(m, n, k, b_layout="tiles", scales="pow2")
    got = fp8.matmul(*a_q, *b_q, b_layout="tiles", out_dtype=torch.float32)
    assert torch.equal(got, expected.float())


@pytest.mark.parametrize("b_layout", ["tiles", "blocks"])
@pytest.mark.parametrize("out_dtype", [torch.float32, torch.bfloat16])
def test_nan_reaches_the_rows_and_columns_that_read_its_tile(out_dtype, b_layout):
    a, b = torch.ones(3, 256), torch.ones(130, 256)
    a[1, 5], b[129, 200] = torch.inf, torch.nan
    b_q = (fp8.quantize_tiles if b_layout == "tiles" else fp8.quantize_blocks)(b, scales="pow2")
    a_q = fp8.quantize_tiles(a, scales="pow2")
    expected = torch.zeros(3, 130, dtype=torch.bool)
    expected[1], expected[:, (129 if b_layout == "tiles" else 128) :] = True, True
    got = fp8.matmul(*a_q, *b_q, b_layout=b_layout, out_dtype=out_dtype)
    assert torch.equal(got.isnan(), expected)


Q, S = torch.zeros(3, 130).to(torch.float8_e4m3fn), torch.ones(3, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fp8.quantize_tiles(torch.zeros(3), scales="pow2"), r"\[M, K\].*\(3,\)"),
        (lambda: fp8.quantize_tiles(torch.zeros(3, 3).double(), scales="pow2"), "float64"),
        (lambda: fp8.quantize_blocks(torch.zeros(1, 1, 1, 1), scales="pow2"), r"\[E, N, K\]"),
        (lambda: fp8.quantize_tiles(torch.zeros(3, 3), scales="e8m0"), "'e8m0' must be pow2 or"),
        (lambda: fp8.dequantize_tiles(Q, S[:, :1]), r"needs scales \(3, 2\) \(tiles\)"),
        (lambda: fp8.dequantize_blocks(Q, S), r"needs scales \(1, 2\) \(blocks\)"),
        (lambda: fp8.dequantize_tiles(Q.float(), S), "float8_e4m3fn values and float32 scales"),
        (lambda: multiply(Q[:, :3], S[:, :1], Q, S), r"a \[M, K\] and b \[N, K\]"),
        (lambda: multiply(Q, S, Q, S, b_layout="blocks"), r"matmul's b needs scales \(1, 2\)"),
        (lambda: multiply(Q, S, Q, S, b_layout="rows"), "'rows' must be tiles or blocks"),
        (lambda: multiply(Q, S, Q, S, out_dtype=torch.int8), "int8 must be float32"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def multiply(*operands, b_layout="tiles", out_dtype=torch.float32):
    return fp8.matmul(*operands, b_layout=b_layout, out_dtype=out_dtype)

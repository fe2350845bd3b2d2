"""Tests for `block_linear` of kernels/fp8.py: three products, each against its own operands."""

import pytest
import torch
from fp8_cases import SCALES, gap
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from cotree.kernels import fp8

M, N, K = 150, 140, 200


def leaves(
    dtype: torch.dtype = torch.float32, *, octaves: int = 0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input [M, K], float32 weight [N, K] and bias [N]; seven tokens span 6 * `octaves` bits."""
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(s, generator=generator) for s in [(M, K), (N, K), (N,)])
    x *= torch.exp2(torch.arange(M) % 7 * octaves)[:, None]
    return x.to(dtype).requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def upstream(dtype: torch.dtype = torch.float32, *, octaves: int = 0) -> torch.Tensor:
    """Gradient [M, N], the smaller the larger the token's input is."""
    grad = torch.randn((M, N), generator=torch.Generator().manual_seed(1))
    return (grad / torch.exp2(torch.arange(M) % 7 * octaves)[:, None]).to(dtype)


def tiles(values: torch.Tensor, scales: fp8.ScaleFormat) -> torch.Tensor:
    return fp8.dequantize_tiles(*fp8.quantize_tiles(values.detach(), scales=scales)).double()


def tokens(values: torch.Tensor, scales: fp8.ScaleFormat) -> torch.Tensor:
    """Tiles along the tokens, back in the shape of `values`."""
    return tiles(values.detach().T.contiguous(), scales).T


def blocks(weight: torch.Tensor, scales: fp8.ScaleFormat) -> torch.Tensor:
    return fp8.dequantize_blocks(*fp8.quantize_blocks(weight.detach(), scales=scales)).double()


@pytest.mark.parametrize("scales", SCALES)
def test_each_product_reads_operands_quantised_along_its_own_contraction(scales):
    # Tokens of which the smallest are lost beside the largest: with pow2 scales tiles along either
    # axis are the same but for values that far apart.
    x, weight, bias = leaves(octaves=4)
    grad = upstream(octaves=4)
    y = fp8.block_linear(x, weight, bias, scales=scales)
    grads = torch.autograd.grad(y, (x, weight, bias), grad)
    x, weight, bias = x.detach(), weight.detach(), bias.detach()
    expected = (
        tiles(x, scales) @ blocks(weight, scales).T + bias,
        tiles(grad, scales) @ blocks(weight, scales),
        tokens(grad, scales).T @ tokens(x, scales),
        grad.double().sum(0),
    )
    y = y.detach()
    assert all(gap(got, exact) <= 1e-6 for got, exact in zip((y, *grads), expected, strict=True))
    # Along the other axis each would be far off.
    assert gap(y[:1] - bias, tokens(x, scales)[:1] @ blocks(weight, scales).T) > 0.1
    assert gap(grads[0][6:7], tokens(grad, scales)[6:7] @ blocks(weight, scales)) > 0.1
    assert gap(grads[1], tiles(grad, scales).T @ tiles(x, scales)) > 0.1


@pytest.mark.parametrize("scales", SCALES)
def test_the_result_and_the_gradients_are_near_those_of_the_exact_layer(scales):
    # An e4m3 value is off by at most 2^-4, evenly spread by 2^-4 / sqrt(3) = 0.036 or less; a
    # product of two such by sqrt(2) of that, 0.051.
    x, weight, bias = leaves()
    y = fp8.block_linear(x, weight, bias, scales=scales)
    exact = functional.linear(x, weight, bias)
    assert gap(y.detach(), exact.detach()) <= 0.051
    grads = torch.autograd.grad(y, (x, weight), upstream())
    expected = torch.autograd.grad(exact, (x, weight), upstream())
    assert all(gap(a, b) <= 0.051 for a, b in zip(grads, expected, strict=True))


def test_leading_dimensions_are_kept():
    x, weight, bias = leaves()
    flat = fp8.block_linear(x, weight, bias, scales="pow2")
    y = fp8.block_linear(x.view(3, 50, K), weight, bias, scales="pow2")
    assert torch.equal(y, flat.view(3, 50, N))
    assert fp8.block_linear(x[0], weight, bias, scales="pow2").shape == (N,)


def test_a_gradient_that_is_no_contiguous_tensor_is_read_right():
    x, weight, _ = leaves()
    y = fp8.block_linear(x, weight, None, scales="pow2")
    transposed = upstream().T.contiguous().T
    got = torch.autograd.grad(y, (x, weight), transposed, retain_graph=True)
    expected = torch.autograd.grad(y, (x, weight), upstream())
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    torch.autograd.grad(fp8.block_linear(x, weight, None, scales="pow2").sum(), (x, weight))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_dtypes_are_those_of_linear(dtype):
    x, weight, bias = leaves(dtype)
    y = fp8.block_linear(x, weight, bias, scales="pow2")
    y.backward(upstream(dtype))
    assert y.dtype == dtype
    assert gap(bias.grad, upstream(dtype).double().sum(0)) <= 1e-6  # not rounded to bfloat16
    assert [leaf.grad.dtype for leaf in (x, weight, bias)] == [dtype, torch.float32, torch.float32]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_the_result_is_autocasts(dtype):
    x, weight, bias = leaves(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        y = fp8.block_linear(x, weight, bias, scales="pow2")
        expected = functional.linear(x, weight, bias)
    assert y.dtype == expected.dtype == torch.bfloat16
    # float32 inputs are quantised as they are, not from bfloat16.
    exact = tiles(x, "pow2") @ blocks(weight, "pow2").T + bias.detach()
    assert gap(y.detach(), exact) <= 2**-8
    y.backward(upstream(torch.bfloat16))
    assert [leaf.grad.dtype for leaf in (x, weight, bias)] == [dtype, torch.float32, torch.float32]


def test_autocast_around_the_backward_pass_changes_nothing():
    x, weight, _ = leaves()
    y = fp8.block_linear(x, weight, None, scales="float32")
    expected = torch.autograd.grad(y, (x, weight), upstream(), retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):
        got = torch.autograd.grad(y, (x, weight), upstream())
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_the_master_weight_is_quantised_without_a_stop_in_bfloat16():
    # Scale 1 by the 448. 17 + 2^-8 is above the tie between 16 and 18, and its bfloat16 is the
    # tie, which goes to 16: rounded twice, the result would be 16.
    weight = torch.tensor([[448.0, 17 + 2**-8]])
    x = torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert fp8.block_linear(x, weight, None, scales="pow2").item() == 18


def saved(x: torch.Tensor, weight: torch.Tensor) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    """What the forward pass keeps for the backward pass."""
    kept: list[tuple[torch.dtype, tuple[int, ...]]] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.append((tensor.dtype, tuple(tensor.shape)))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        fp8.block_linear(x, weight, None, scales="pow2")
    return kept


WEIGHT = [(torch.float8_e4m3fn, (N, K)), (torch.float32, (2, 2))]
INPUT = [(torch.float8_e4m3fn, (K, M)), (torch.float32, (K, 2))]


@pytest.mark.parametrize(
    ("x_trains", "weight_trains", "expected"),
    [
        (True, True, WEIGHT + INPUT),
        (True, False, WEIGHT),  # below an adapter: no input
        (False, True, INPUT),  # the first layer: no weight
        (False, False, []),
    ],
)
def test_only_bytes_that_a_gradient_needs_are_saved(x_trains, weight_trains, expected):
    x, weight, _ = leaves()
    assert saved(x.requires_grad_(x_trains), weight.requires_grad_(weight_trains)) == expected


class Casts(TorchDispatchMode):
    """Counts the casts to e4m3 inside its context."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.count += kwargs.get("dtype") == torch.float8_e4m3fn
        return func(*args, **kwargs)


@pytest.mark.parametrize(("recorded", "expected"), [(True, 3), (False, 2)])
def test_without_a_backward_pass_nothing_is_quantised_for_it(recorded, expected):
    x, weight, _ = leaves()
    with torch.set_grad_enabled(recorded), Casts() as casts:
        fp8.block_linear(x, weight, None, scales="pow2")
    assert casts.count == expected  # the input, the weight, and the input along the tokens


@pytest.mark.parametrize("trained", [0, 1, 2])
def test_a_frozen_argument_gets_no_gradient_and_changes_no_other(trained):
    every = leaves()
    fp8.block_linear(*every, scales="pow2").backward(upstream())
    some = leaves()
    for index, leaf in enumerate(some):
        leaf.requires_grad_(index == trained)
    fp8.block_linear(*some, scales="pow2").backward(upstream())
    assert [leaf.grad is not None for leaf in some] == [index == trained for index in range(3)]
    assert torch.equal(some[trained].grad, every[trained].grad)


def test_without_tokens_the_result_is_empty_and_the_weight_gradient_zero():
    _, weight, bias = leaves()
    x = torch.zeros(0, 4, K, requires_grad=True)
    y = fp8.block_linear(x, weight, bias, scales="pow2")
    assert y.shape == (0, 4, N)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert not weight.grad.any()
    assert not bias.grad.any()


@pytest.mark.parametrize("scales", SCALES)
def test_zero_inputs_and_gradients_stay_zero(scales):
    _, weight, _ = leaves()
    x = torch.zeros(M, K, requires_grad=True)
    y = fp8.block_linear(x, weight, None, scales=scales)
    y.backward(torch.zeros(M, N))
    assert not y.any()
    assert not x.grad.any()
    assert not weight.grad.any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_nan_and_infinity_surface_forward_and_backward(bad):
    x, weight, _ = leaves()
    with torch.no_grad():
        x[5, 3] = bad
    y = fp8.block_linear(x, weight, None, scales="pow2")
    assert y.isnan().all(1).tolist() == [token == 5 for token in range(M)]
    grad = upstream()
    grad[7, 130] = bad
    grad_x, grad_weight = torch.autograd.grad(y, (x, weight), grad)
    assert grad_x.isnan().all(1).tolist() == [token == 7 for token in range(M)]
    expected = torch.zeros(N, K, dtype=torch.bool)
    expected[130], expected[:, 3] = True, True
    assert torch.equal(grad_weight.isnan(), expected)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 4), (5, 3), None), r"got \[\(3, 4\), \(5, 3\), None\]"),
        (((3, 4), (5, 4), (4,)), r"bias \[N\] or None"),
        (((), (5, 4), None), r"x \[\.\.\., K\]"),
    ],
)
def test_shapes_that_disagree_are_refused(shapes, message):
    tensors = [None if shape is None else torch.zeros(shape) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        fp8.block_linear(*tensors, scales="pow2")

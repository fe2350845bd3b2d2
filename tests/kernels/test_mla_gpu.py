"""Tests for kernels/mla.py on the GPU; the same bodies run on the CPU as well."""

import pytest
import torch
from devices import DEVICES

from cotree.kernels.mla import absorbed, absorbed_weights, naive

HEADS, NOPE, ROPE, VALUE, RANK = 16, 128, 64, 128, 512
"""DeepSeek-V3's head, an eighth of its heads."""
SCALE = (NOPE + ROPE) ** -0.5


def leaves(device: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """query, latent, key_rope, kv_b_weight: the same numbers on every device."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 96, HEADS, NOPE + ROPE), (2, 96, RANK), (2, 96, ROPE))
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    weight = torch.randn((HEADS * (NOPE + VALUE), RANK), generator=generator, dtype=torch.float64)
    drawn.append(weight / RANK**0.5)
    return [leaf.to(device, dtype).requires_grad_() for leaf in drawn]


def measured(device: str, dtype: torch.dtype, *, absorb: bool) -> list[torch.Tensor]:
    """The output and the gradients of its sum of squares, in float64 on the CPU."""
    query, latent, key_rope, weight = given = leaves(device, dtype)
    if absorb:
        stacked = absorbed_weights(weight, HEADS, NOPE, VALUE)
        output = absorbed(query, latent, key_rope, *stacked, scale=SCALE)
    else:
        output = naive(query, latent, key_rope, weight, scale=SCALE)
    assert output.device.type == device
    gradients = torch.autograd.grad(output.square().sum(), given)
    return [tensor.detach().cpu().double() for tensor in (output, *gradients)]


@pytest.fixture(scope="module")
def exact() -> list[torch.Tensor]:
    return measured("cpu", torch.float64, absorb=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("absorb", [False, True], ids=["naive", "absorbed"])
@pytest.mark.parametrize(
    ("dtype", "bound"),
    # Relative, in the Euclidean norm. 2^-9 is what one rounding to bfloat16 may cost; the scores
    # are rounded before the exponential, and a score of 4 by 2^-7.
    [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)],
    ids=["float64", "float32", "bfloat16"],
)
def test_each_form_equals_the_naive_one_in_float64(exact, device, absorb, dtype, bound):
    for got, expected in zip(measured(device, dtype, absorb=absorb), exact, strict=True):
        assert float((got - expected).norm() / expected.norm()) <= bound

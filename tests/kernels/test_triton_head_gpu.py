"""Tests for kernels/triton_head.py on a GPU; test_triton_head.py has those of the interpreter."""

import math

import pytest
import torch
from devices import CUDA
from head_rows import SCALE, exact, gradient_gap, per_row, rows, statistics_bound

from cotree.kernels.dispatch import backend
from cotree.kernels.token_logprobs import token_logprobs

pytestmark = [pytest.mark.parametrize("device", [CUDA])]
DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [1, 37, 8192, 151_936, 151_937])
def test_statistics_and_gradient_equal_float64(device, dtype, v):
    from cotree.kernels.triton_head import gradient_in_place, row_statistics

    given = rows(7, v, dtype=dtype, device=device)
    given.logits[1, : v // 2] = -math.inf  # no probability, no gradient
    given.targets[1] = v - 1
    expected = exact(given)
    statistics = row_statistics(given.logits, given.targets, SCALE)
    finite = given._replace(logits=given.logits.nan_to_num(neginf=0.0))
    bound = statistics_bound(finite)
    assert float((statistics.cpu().double() - expected.statistics).abs().max()) <= bound
    gradient = given.logits.clone()
    gradient_in_place(gradient, given.targets, per_row(given, statistics), SCALE, None)
    if v == 1:
        # p is exp(logit - logsumexp), both of which are rounded at their own size.
        assert float(gradient.abs().max()) <= 4 * bound
    else:
        low = 2**-8 if dtype == torch.bfloat16 else 0.0
        assert gradient_gap(gradient, expected.gradient) <= low + 4 * bound


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [151_936, 151_937])
def test_the_same_call_gives_the_same_bits(device, dtype, v):
    from cotree.kernels.triton_head import gradient_in_place, row_statistics

    given = rows(220, v, dtype=dtype, device=device)
    made = []
    for _ in range(2):
        logits = given.logits.clone()
        statistics = row_statistics(logits, given.targets, SCALE)
        gradient_in_place(logits, given.targets, per_row(given, statistics), SCALE, None)
        made.append((statistics, logits))
    (first, first_gradient), (second, second_gradient) = made
    assert torch.equal(first, second)
    assert torch.equal(first_gradient, second_gradient)


@pytest.mark.parametrize("dtype", DTYPES)
def test_token_logprobs_gives_the_same_through_triton_and_torch(device, dtype, monkeypatch):
    # Chunks of 33 start at addresses of targets and statistics that are no multiple of 16 bytes.
    n, d, v = 100, 128, 151_937
    generator = torch.Generator(device).manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, device=device) / d**0.25
        return values.to(dtype).requires_grad_()

    hidden, weight, bias = leaf(n, d), leaf(v, d), leaf(v)
    targets = torch.randint(0, v, (n,), generator=generator, device=device)

    def scored(kernels: str) -> list[torch.Tensor]:
        monkeypatch.setenv("COTREE_KERNELS", kernels)
        logprobs, entropy = token_logprobs(
            hidden, weight, targets, bias=bias, temperature=0.7, chunk_tokens=33
        )
        share = torch.linspace(-1, 2, n, device=device)
        loss = logprobs.sum() + (share * entropy).sum()
        return [logprobs, entropy, *torch.autograd.grad(loss, [hidden, weight, bias])]

    monkeypatch.setenv("COTREE_KERNELS", "auto")
    assert backend("token_logprobs", hidden) == "triton"
    # Results in bfloat16 are rounded twice, each time by 2^-8 at most.
    bound = 2 * 2**-8 if dtype == torch.bfloat16 else 1e-5
    for got, expected in zip(scored("triton"), scored("torch"), strict=True):
        assert got.dtype == expected.dtype
        assert (got - expected).norm() <= bound * expected.norm()

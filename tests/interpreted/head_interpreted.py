"""Triton's statistics of logits and their gradient; run by test_triton_head.py."""

import math

import pytest
import torch
from head_rows import SCALE, Rows, exact, gradient_gap, per_row, rows, statistics_bound

from cotree.kernels.dispatch import backend
from cotree.kernels.token_logprobs import token_logprobs
from cotree.kernels.triton_head import BLOCK, gradient_in_place, row_statistics

DTYPES = [torch.float32, torch.bfloat16]


def applied(given: Rows, *, scale: float = SCALE) -> tuple[torch.Tensor, torch.Tensor]:
    """Statistics [3, n], and the gradient [n, V] that took the logits' place."""
    logits = given.logits.clone()
    statistics = row_statistics(logits, given.targets, scale)
    assert torch.equal(logits.view(torch.uint8), given.logits.view(torch.uint8))
    gradient_in_place(logits, given.targets, per_row(given, statistics), scale, None)
    return statistics, logits


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("v", [2, 37, BLOCK - 1, BLOCK, 2 * BLOCK + 617])
def test_statistics_and_gradient_equal_float64(dtype, v):
    given = rows(3, v, dtype=dtype, device="cpu")
    statistics, gradient = applied(given)
    expected = exact(given)
    gap = float((statistics.double() - expected.statistics).abs().max())
    assert gap <= statistics_bound(given)
    # A probability's relative error is its logarithm's error.
    low = 2**-8 if dtype == torch.bfloat16 else 0.0
    assert gradient.dtype == dtype
    assert gradient_gap(gradient, expected.gradient) <= low + 4 * statistics_bound(given)


def test_bfloat16_gradients_are_rounded_to_nearest():
    # Cutting the low bits off, as the interpreter's own cast does, would lower nearly half of
    # them. float32 arithmetic comes out on the other side of a tie about once in 2^15 numbers.
    given = rows(3, 5000, dtype=torch.bfloat16, device="cpu")
    _, gradient = applied(given)
    differ = gradient != exact(given).gradient.bfloat16()
    assert differ.float().mean() <= 1e-3


@pytest.mark.parametrize("order", [1, -1])
def test_the_running_maximum_may_come_first_or_last(order):
    # Logits that rise by 0.02 a token: each block's maximum is 164 above the last one's, and
    # exp(-164) is 0 in float32, so what earlier blocks added up is scaled away, not kept.
    v = 2 * BLOCK + 5
    logits = (0.02 * torch.arange(v, dtype=torch.float32)).reshape(1, v)
    logits = logits if order == 1 else logits.flip(-1)
    given = Rows(logits, torch.tensor([v - 1]), torch.ones(1), torch.ones(1))
    statistics, _ = applied(given)
    gap = float((statistics.double() - exact(given).statistics).abs().max())
    assert gap <= statistics_bound(given)


def test_entropy_of_a_tie_survives_large_logits():
    # z - logsumexp(z) at 1e4 has an absolute error of 5e-4; distances from the maximum have none.
    logits = torch.full((1, BLOCK + 2), -1e4)
    logits[0, [3, BLOCK + 1]] = 1e4
    statistics = row_statistics(logits, torch.tensor([3]), 1.0)
    assert statistics[0].item() == pytest.approx(-math.log(2), rel=1e-6)
    assert statistics[1].item() == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_logit_of_minus_infinity_has_no_probability_and_no_gradient(dtype):
    v = BLOCK + 9
    given = rows(3, v, dtype=dtype, device="cpu")
    given.logits[:, 5:40] = -math.inf
    given.logits[1, :BLOCK] = -math.inf  # a whole block, before any finite logit
    given.targets[:] = v - 1
    given.grad_entropy[2] = 0.0
    statistics, gradient = applied(given)
    expected = exact(given)
    gap = float((statistics.double() - expected.statistics).abs().max())
    finite = Rows(given.logits.nan_to_num(neginf=0.0), *given[1:])
    assert gap <= statistics_bound(finite)
    assert (gradient[given.logits == -math.inf] == 0).all()
    assert gradient_gap(gradient, expected.gradient) <= 2**-8


def test_a_row_does_not_see_its_neighbours():
    given = rows(3, 500, dtype=torch.float32, device="cpu")
    statistics, gradient = applied(given)
    given.logits[1, 7] = math.nan
    spoiled_statistics, spoiled_gradient = applied(given)
    assert spoiled_statistics[:, 1].isnan().all()
    assert spoiled_gradient[1].isnan().any()
    for row in (0, 2):
        assert torch.equal(spoiled_statistics[:, row], statistics[:, row])
        assert torch.equal(spoiled_gradient[row], gradient[row])


def test_a_target_outside_the_vocabulary_has_no_log_probability():
    given = rows(3, 50, dtype=torch.float32, device="cpu")
    targets = torch.tensor([50, -1, 49])
    logprobs = row_statistics(given.logits, targets, 1.0)[0]
    assert logprobs.isnan().tolist() == [True, True, False]


def test_the_gradient_of_the_bias_is_added_to_what_is_there():
    given = rows(3, 50, dtype=torch.float32, device="cpu")
    statistics, gradient = applied(given)
    grad_bias = torch.ones(50)
    gradient_in_place(given.logits, given.targets, per_row(given, statistics), SCALE, grad_bias)
    assert torch.allclose(grad_bias, 1 + gradient.sum(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_token_logprobs_gives_the_same_through_triton_and_torch(monkeypatch, dtype, with_bias):
    generator = torch.Generator().manual_seed(0)
    n, d, v = 7, 8, 301

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    hidden, weight, bias = leaf(n, d), leaf(v, d), leaf(v) if with_bias else None
    targets = torch.randint(0, v, (n,), generator=generator)
    leaves = [hidden, weight, bias] if bias is not None else [hidden, weight]

    def scored(kernels: str) -> list[torch.Tensor]:
        monkeypatch.setenv("COTREE_KERNELS", kernels)
        assert backend("token_logprobs", hidden) == kernels
        logprobs, entropy = token_logprobs(
            hidden, weight, targets, bias=bias, temperature=0.7, chunk_tokens=3
        )
        # sum() gives a gradient of stride 0, and the weights one that differs by token.
        loss = logprobs.sum() + (torch.linspace(-1, 2, n) * entropy).sum()
        return [logprobs, entropy, *torch.autograd.grad(loss, leaves)]

    # The bias's gradient adds up rounded gradients of logits in one, unrounded ones in the other.
    bound = 4e-3 if dtype == torch.bfloat16 else 2e-6
    for got, expected in zip(scored("triton"), scored("torch"), strict=True):
        assert got.dtype == expected.dtype
        assert (got - expected).norm() <= bound * expected.norm()

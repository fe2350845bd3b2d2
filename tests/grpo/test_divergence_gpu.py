"""Tests for grpo/divergence.py on the GPU; the same bodies run on the CPU as well."""

import math
from collections.abc import Callable, Iterator
from typing import get_args

import pytest
import torch
from devices import DEVICES

from cotree.grpo.divergence import Kind, divergence, outcome_logprobs

N, V, K = 40, 500, 6
Pair = tuple[torch.Tensor, torch.Tensor]


def log_distribution(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.log_softmax(2.0 * torch.randn(shape, generator=generator).double(), -1)


def value_and_gradient(function: Callable[[torch.Tensor], torch.Tensor], z: torch.Tensor) -> Pair:
    """What `function` makes of the student's logits, and a gradient that weighs all of it."""
    leaf = z.clone().requires_grad_()
    value = function(leaf)
    finite = value.masked_fill(value == -math.inf, 0.0)
    share = torch.linspace(1, 2, value.numel(), dtype=torch.float64, device=z.device)
    return value.detach(), torch.autograd.grad((share.view_as(value) * finite).sum(), leaf)[0]


def ranges(*, longest: int) -> Pair:
    """Disjoint outcomes [N, K] of up to `longest` tokens, in no order, empty ones among them."""
    generator = torch.Generator().manual_seed(longest)
    end = torch.randint(0, longest + 1, (N, K), generator=generator).cumsum(-1)
    first = torch.cat([torch.zeros(N, 1, dtype=end.dtype), end[:, :-1]], -1)
    shuffled = torch.argsort(torch.rand(N, K, generator=generator), -1)
    first, end = first.gather(-1, shuffled), end.gather(-1, shuffled)
    empty = first == end
    return first.masked_fill(empty, 0).int(), end.masked_fill(empty, 0).int()


@pytest.fixture
def repeatable() -> Iterator[None]:
    """The settings of a learner; they are the process's, so they are put back."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", get_args(Kind))
def test_value_and_gradient_equal_float64_on_the_cpu(device, kind, temperature):
    # Log-probabilities reach 15 nats, of which float32 keeps 1e-6; the floor multiplies that by
    # no more than its 30 nats, and temperature^2 by 4.
    teacher, z = log_distribution(N, K, seed=1), log_distribution(N, K, seed=2)
    teacher[:10, 0] = -math.inf  # no mass on one outcome
    teacher[5] = -math.inf  # no opinion

    def nats(leaf: torch.Tensor) -> torch.Tensor:
        student = torch.log_softmax(leaf, -1)
        given = teacher.to(leaf.device)
        return divergence(kind, given, student, mix=0.3, temperature=temperature)

    expected = value_and_gradient(nats, z)
    got = value_and_gradient(nats, z.float().to(device))
    assert got[0].device.type == device
    for mine, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(mine.cpu().double(), exact, rtol=1e-5, atol=1e-4)
    assert not got[0][5].any()
    assert not got[1][5].any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("longest", [1, 60])
def test_outcomes_equal_float64_on_the_cpu(device, longest, ordered):
    first, end = ranges(longest=longest)
    order = torch.randperm(V, generator=torch.Generator().manual_seed(3)) if ordered else None
    z = log_distribution(N, V, seed=4)

    def outcomes(leaf: torch.Tensor) -> torch.Tensor:
        here = leaf.device
        return outcome_logprobs(
            torch.log_softmax(leaf, -1),
            first.to(here),
            end.to(here),
            order=None if order is None else order.to(here),
        )

    expected = value_and_gradient(outcomes, z)
    got = value_and_gradient(outcomes, z.float().to(device))
    assert (expected[0] == -math.inf).any()  # empty outcomes took part
    for mine, exact in zip(got, expected, strict=True):
        torch.testing.assert_close(mine.cpu().double(), exact, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("longest", [1, 60])
@pytest.mark.usefixtures("repeatable")
def test_the_same_call_gives_the_same_bits(device, longest):
    # Masses of ranges are added up by index_add, whose order on a GPU is fixed on request only.
    first, end = (places.to(device) for places in ranges(longest=longest))
    teacher = outcome_logprobs(log_distribution(N, V, seed=5).to(device), first, end, order=None)

    def nats(leaf: torch.Tensor) -> torch.Tensor:
        student = outcome_logprobs(torch.log_softmax(leaf, -1), first, end, order=None)
        return divergence("jsd", teacher, student, mix=0.5, temperature=1.0)

    z = log_distribution(N, V, seed=6).float().to(device)
    runs = [value_and_gradient(nats, z) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))

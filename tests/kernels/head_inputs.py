"""A language-model head on any device, and its results in float64 on the CPU."""

from collections.abc import Callable
from typing import NamedTuple

import torch

from cotree.kernels import reference

N, D, V = 130, 64, 3001
TEMPERATURE = 0.8
UNIT_ROUNDOFF = {torch.float32: 2**-24, torch.bfloat16: 2**-8}
"""Largest relative error of rounding to the dtype, which keeps 24 or 8 bits."""


class Head(NamedTuple):
    """Leaves of a head: hidden [N, D], weight [V, D], bias [V], and int64 targets [N]."""

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor
    targets: torch.Tensor

    @property
    def leaves(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.hidden, self.weight, self.bias


Scored = Callable[[Head], tuple[torch.Tensor, torch.Tensor]]
"""Log-probabilities and entropy at `TEMPERATURE`."""


def head(device: str, *, hidden: torch.dtype, weight: torch.dtype) -> Head:
    """Logits of standard deviation 2; the same numbers on every device, rounded to the dtypes."""
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int, dtype: torch.dtype, spread: float) -> torch.Tensor:
        values = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(device=device, dtype=dtype).requires_grad_()

    targets = torch.randint(0, V, (N,), generator=generator)
    return Head(
        leaf(N, D, dtype=hidden, spread=1.0),
        leaf(V, D, dtype=weight, spread=2.0 / D**0.5),
        leaf(V, dtype=weight, spread=0.2),
        targets.to(device),
    )


def values_and_gradients(scored: Scored, inputs: Head) -> list[torch.Tensor]:
    """Results, and gradients of a combination of both in which no two tokens weigh the same."""
    logprobs, entropy = scored(inputs)
    share = torch.linspace(-1, 2, N, dtype=torch.float64, device=logprobs.device)
    loss = (share * logprobs).sum() + (share.flip(0) * entropy).sum()
    return [logprobs.detach(), entropy.detach(), *torch.autograd.grad(loss, inputs.leaves)]


def exact(inputs: Head) -> list[torch.Tensor]:
    """`values_and_gradients` of the same numbers, unchunked, in float64 on the CPU."""
    leaves = [leaf.detach().cpu().double().requires_grad_() for leaf in inputs.leaves]

    def scored(one: Head) -> tuple[torch.Tensor, torch.Tensor]:
        return reference.token_logprobs(
            one.hidden, one.weight, one.targets, bias=one.bias, temperature=TEMPERATURE
        )

    return values_and_gradients(scored, Head(*leaves, inputs.targets.cpu()))


def largest_logit(inputs: Head) -> float:
    """The largest |z|, before the temperature."""
    hidden, weight, bias = (leaf.detach().double() for leaf in inputs.leaves)
    return float((hidden @ weight.T + bias).abs().max())


def value_gap(got: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest difference between log-probabilities, and between entropies, in nats."""
    pairs = zip(got[:2], expected[:2], strict=True)
    return max(float((a.double().cpu() - b.double().cpu()).abs().max()) for a, b in pairs)


def gradient_gap(got: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """Largest relative difference between gradients, in the Euclidean norm."""
    pairs = [
        (a.double().cpu(), b.double().cpu()) for a, b in zip(got[2:], expected[2:], strict=True)
    ]
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)

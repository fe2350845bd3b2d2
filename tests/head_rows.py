"""Rows of logits, and their softmax statistics and gradient in float64 on the CPU."""

import math
from typing import NamedTuple

import torch

SCALE = 1 / 0.7
"""As logit_scale / temperature."""
UNIT_ROUNDOFF = {torch.float32: 2**-24, torch.bfloat16: 2**-8}


class Rows(NamedTuple):
    """Logits [n, V] and targets [n]; the loss's gradients in log-probability and entropy [n]."""

    logits: torch.Tensor
    targets: torch.Tensor
    grad_logprobs: torch.Tensor
    grad_entropy: torch.Tensor


class Exact(NamedTuple):
    """In float64: [3, n] log-probability, entropy, logsumexp; gradients of logits [n, V]."""

    statistics: torch.Tensor
    gradient: torch.Tensor


def rows(n: int, v: int, *, dtype: torch.dtype, device: str) -> Rows:
    """Logits of standard deviation 4; the first row's are 50 higher, which changes nothing."""
    generator = torch.Generator().manual_seed(v)
    logits = 4 * torch.randn(n, v, generator=generator)
    logits[0] += 50
    targets = torch.randint(0, v, (n,), generator=generator)
    gradients = torch.randn(2, n, generator=generator)
    return Rows(logits.to(device, dtype), targets.to(device), *gradients.to(device))


def exact(given: Rows, *, scale: float = SCALE) -> Exact:
    """Of the same rounded logits; one of -inf has probability 0."""
    logits, targets, grad_logprobs, grad_entropy = (tensor.cpu() for tensor in given)
    z = logits.double() * scale
    logsumexp = z.logsumexp(-1)
    log_p = z - logsumexp[:, None]
    p = log_p.exp()
    chosen = log_p.gather(-1, targets[:, None])[:, 0]
    log_p[log_p == -math.inf] = 0  # times p = 0
    entropy = -(p * log_p).sum(-1)
    gradient = -p * (
        grad_entropy[:, None].double() * (log_p + entropy[:, None]) + grad_logprobs[:, None]
    )
    gradient.scatter_add_(-1, targets[:, None], grad_logprobs[:, None].double())
    return Exact(torch.stack((chosen, entropy, logsumexp)), gradient * scale)


def statistics_bound(given: Rows, *, scale: float = SCALE) -> float:
    """Nats that float32 may be off.

    A scaled logit z is rounded by u max|z|, so is the largest, and their distance by 2 u max|z|.
    The other half is for the sums of exp and their logarithm.
    """
    return 8 * UNIT_ROUNDOFF[torch.float32] * scale * float(given.logits.abs().max())


def per_row(given: Rows, statistics: torch.Tensor) -> torch.Tensor:
    """[4, n] as the gradient wants it."""
    return torch.stack((statistics[2], statistics[1], given.grad_logprobs, given.grad_entropy))


def gradient_gap(got: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of a row in the Euclidean norm, relative to the row's."""
    gap = (got.cpu().double() - expected).norm(dim=-1) / expected.norm(dim=-1)
    return float(gap.max())

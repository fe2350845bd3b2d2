"""Per-token estimators of the divergence from the reference policy.

With r = ref / policy for a sampled token, all three estimate KL(policy || ref) in nats when the
token was sampled from the policy. As a *loss*, what counts is their gradient, which differs:

    k1 = -log r              unbiased value; expected gradient exactly zero
    k2 = (log r)^2 / 2       biased value; expected gradient grad KL(policy || ref), the true one
    k3 = r - 1 - log r       unbiased value, >= 0; expected gradient grad KL(ref || policy)

"Expected" is over the token given its prefix: none of them carries the effect that a token has on
the divergence of later ones. The statements hold for tokens sampled from the policy itself.

Source: Schulman 2020, "Approximating KL divergence" (values); the gradients follow from
E[grad log policy] = 0 and are checked by enumeration in tests/grpo/test_kl.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from torch import Tensor

Estimator = Literal["k1", "k2", "k3"]


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The log-ratio. Unbiased value, zero expected gradient: for measuring, not for training.

        k1 = logprobs - ref_logprobs

    Args:
        logprobs: [B, T] nats, of tokens sampled from the policy. Carries the gradient.
        ref_logprobs: [B, T] nats, the same tokens under the reference policy.

    Returns:
        [B, T] nats, of either sign. Padding is not masked here.
    """
    return logprobs - ref_logprobs.detach()


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Half the squared log-ratio. Biased value, the true gradient of KL(policy || ref).

        k2 = (logprobs - ref_logprobs)^2 / 2

    Args:
        logprobs: [B, T] nats, of tokens sampled from the policy. Carries the gradient.
        ref_logprobs: [B, T] nats, the same tokens under the reference policy.

    Returns:
        [B, T] nats, never negative; lower is closer. Padding is not masked here.
    """
    return 0.5 * k1(logprobs, ref_logprobs).square()


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """GRPO's estimator. Unbiased value, but the gradient of KL(ref || policy).

        k3 = exp(ref_logprobs - logprobs) - 1 - (ref_logprobs - logprobs)

    Args:
        logprobs: [B, T] nats, of tokens sampled from the policy. Carries the gradient.
        ref_logprobs: [B, T] nats, the same tokens under the reference policy.

    Returns:
        [B, T] nats, never negative; lower is closer. Padding is not masked here.

    Source: Shao et al. 2024, arXiv:2402.03300, eq. 4.
    """
    log_r = -k1(logprobs, ref_logprobs)
    return torch.expm1(log_r) - log_r  # expm1: exp(x) - 1 loses every digit near x = 0


def kl_estimate(estimator: Estimator, logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """The [B, T] estimate by the estimator's name."""
    return {"k1": k1, "k2": k2, "k3": k3}[estimator](logprobs, ref_logprobs)

"""Per-token policy losses and importance corrections for group-relative policy optimization.

Pure functions: tensors in, tensors out. Shapes use the project letters: B rollouts, T tokens.
Lower is better everywhere. Three policies appear and are never confused:

    logprobs           the policy being trained; the only argument that carries a gradient
    old_logprobs       the learner's own, before the first update on these rollouts
    behavior_logprobs  the engine's, which sampled the tokens

`ratio` compares the first two and is what clipping acts on. A correction weight compares the last
two: same weights in theory, different arithmetic (and, with staleness, older weights) in practice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cotree.grpo.config_algorithm import (
    CispoLoss,
    GrpoLoss,
    GspoLoss,
    MaskedWeights,
    NoCorrection,
    ReinforceLoss,
    SequenceMask,
    TruncatedWeights,
)
from cotree.grpo.kl import kl_estimate

if TYPE_CHECKING:
    from torch import Tensor

    from cotree.grpo.config_algorithm import Correction, Kl, Loss


# --- losses ----------------------------------------------------------------------------------


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """PPO's clipped surrogate per token, negated so that lower is better.

        ratio = exp(logprobs - old_logprobs)
        loss  = -min(ratio * A, clip(ratio, 1 - clip_low, 1 + clip_high) * A)

    Args:
        logprobs: [B, T] nats. Carries the gradient.
        old_logprobs: [B, T] nats.
        advantages: [B, T], or [B] to share one advantage among a rollout's tokens.
        clip_low: distance below 1 at which the ratio stops earning, in (0, 1).
        clip_high: distance above 1. Larger than `clip_low` is DAPO's clip-higher.

    Returns:
        [B, T] loss per token. Padding is not masked here; see `policy_loss`.

    Raises:
        ValueError: the shapes disagree, which broadcasting would otherwise hide.

    Source: Schulman et al. 2017, arXiv:1707.06347, eq. 7; Shao et al. 2024, arXiv:2402.03300,
        eq. 3; Yu et al. 2025, arXiv:2503.14476, sec. 3.1 (clip-higher).
    """
    advantages_BT = _per_token(advantages, logprobs, old_logprobs)
    ratio = torch.exp(logprobs - old_logprobs.detach())
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(ratio * advantages_BT, clipped * advantages_BT)


def sequence_clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """GSPO: the clipped surrogate with one ratio per sequence, spread over its tokens.

        s_i   = exp(mean over i's tokens of (logprobs - old_logprobs))
        s_it  = sg(s_i) * exp(logprobs - sg(logprobs))          (sg: no gradient)
        loss  = -min(s_it * A, clip(s_it, 1 - clip_low, 1 + clip_high) * A)

    s_it has the value of s_i and the gradient sg(s_i) * grad logprobs, so that averaging the
    tokens of a sequence (`sequence_mean`) gives both the value and the gradient of eq. 5-7.

    Args:
        logprobs: [B, T] nats. Carries the gradient.
        old_logprobs: [B, T] nats.
        advantages: [B, T], or [B] to share one advantage among a rollout's tokens.
        mask: [B, T] bool, True on the tokens that make up the sequence.
        clip_low: distance below 1 at which s_i stops earning. The paper's are near 3e-4: a mean
            over tokens moves far less than one token does.
        clip_high: distance above 1.

    Returns:
        [B, T] loss per token. What stands at padding never enters s_i.

    Raises:
        ValueError: the shapes disagree.

    Source: Zheng et al. 2025, arXiv:2507.18071, eq. 5-7 and, for s_it, sec. 4.3 (GSPO-token).
    """
    advantages_BT = _per_token(advantages, logprobs, old_logprobs, mask)
    ratio_B1 = _sequence_ratio(logprobs.detach(), old_logprobs, mask)
    ratio = ratio_B1 * torch.exp(logprobs - logprobs.detach())
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return -torch.minimum(ratio * advantages_BT, clipped * advantages_BT)


def cispo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float,
    clip_high: float,
) -> Tensor:
    """Policy gradient with a truncated importance weight; every token keeps its gradient.

        loss = -sg(clip(ratio, 1 - clip_low, 1 + clip_high)) * A * logprobs

    Args:
        logprobs: [B, T] nats. Carries the gradient.
        old_logprobs: [B, T] nats.
        advantages: [B, T], or [B] to share one advantage among a rollout's tokens.
        clip_low: distance below 1, in (0, 1]; 1 is no lower bound, the paper's setting.
        clip_high: distance above 1 at which the weight stops growing.

    Returns:
        [B, T] loss per token. Its value means nothing on its own; its gradient does.

    Raises:
        ValueError: the shapes disagree.

    Source: MiniMax 2025, arXiv:2506.13585, eq. 4-5.
    """
    advantages_BT = _per_token(advantages, logprobs, old_logprobs)
    weight = torch.exp((logprobs - old_logprobs).detach()).clamp(1.0 - clip_low, 1.0 + clip_high)
    return -weight * advantages_BT * logprobs


def reinforce(logprobs: Tensor, advantages: Tensor) -> Tensor:
    """Plain policy gradient: loss = -A * logprobs.

    It has no ratio, so a second update on the same rollouts is off-policy and uncorrected.

    Args:
        logprobs: [B, T] nats. Carries the gradient.
        advantages: [B, T], or [B] to share one advantage among a rollout's tokens.

    Returns:
        [B, T] loss per token. Its value means nothing on its own; its gradient does.

    Raises:
        ValueError: the shapes disagree.

    Source: Williams 1992; Ahmadian et al. 2024, arXiv:2402.14740 (with a leave-one-out baseline).
    """
    return -_per_token(advantages, logprobs) * logprobs


# --- importance corrections ------------------------------------------------------------------


def truncated_weights(old_logprobs: Tensor, behavior_logprobs: Tensor, *, cap: float) -> Tensor:
    """Truncated importance weights per token: min(exp(old - behavior), cap).

    Args:
        old_logprobs: [B, T] nats, by the learner.
        behavior_logprobs: [B, T] nats, by the engine that sampled.
        cap: largest weight, >= 1. Bounds the variance at the price of a bias towards the engine.

    Returns:
        [B, T] in [0, cap], without gradient.

    Source: Yao et al. 2025, "Your efficient RL framework secretly brings you off-policy RL
        training".
    """
    return _weights(old_logprobs, behavior_logprobs).clamp(max=cap)


def masked_weights(
    old_logprobs: Tensor, behavior_logprobs: Tensor, *, low: float, high: float
) -> Tensor:
    """Importance weights where they lie in [low, high], zero outside: IcePop.

    Args:
        old_logprobs: [B, T] nats, by the learner.
        behavior_logprobs: [B, T] nats, by the engine that sampled.
        low: smallest weight that is trusted, in (0, 1).
        high: largest weight that is trusted, > 1.

    Returns:
        [B, T] 0 or in [low, high], without gradient.

    Source: Ling team 2025, arXiv:2510.18855, sec. 3.
    """
    weights = _weights(old_logprobs, behavior_logprobs)
    return torch.where((weights >= low) & (weights <= high), weights, torch.zeros_like(weights))


def sequence_mask(
    old_logprobs: Tensor, behavior_logprobs: Tensor, mask: Tensor, *, low: float, high: float
) -> Tensor:
    """1 on the tokens of rollouts whose geometric-mean weight lies in [low, high], else 0.

        w_i = exp(mean over i's tokens of (old_logprobs - behavior_logprobs))

    Args:
        old_logprobs: [B, T] nats, by the learner.
        behavior_logprobs: [B, T] nats, by the engine that sampled.
        mask: [B, T] bool, True on the tokens of the rollout.
        low: smallest w_i that is trusted, in (0, 1).
        high: largest w_i that is trusted, > 1.

    Returns:
        [B, T] of 0 and 1, without gradient; 0 at padding.
    """
    _check_shapes(old_logprobs, behavior_logprobs, mask)
    weight_B1 = _sequence_ratio(old_logprobs.detach(), behavior_logprobs, mask)
    return (mask & (weight_B1 >= low) & (weight_B1 <= high)).to(old_logprobs.dtype)


# --- the entry -------------------------------------------------------------------------------


def policy_loss(
    loss: Loss,
    correction: Correction,
    kl: Kl | None,
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    behavior_logprobs: Tensor,
    ref_logprobs: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The configured loss per token, and what to measure about it.

        per_token = correction_weight * surrogate + kl.coef * kl_estimate

    The step's loss is (per_token * weights).sum() with the batch's weights. The correction does
    not weigh the divergence penalty: a rollout that it drops is still held to the reference.

    Args:
        loss: which surrogate, with its clip distances.
        correction: which importance weight bridges engine and learner.
        kl: the divergence penalty, or None.
        logprobs: [B, T] nats. Carries the gradient.
        old_logprobs: [B, T] nats; `logprobs.detach()` when a step makes one update.
        behavior_logprobs: [B, T] nats.
        ref_logprobs: [B, T] nats; given exactly when `kl` is.
        advantages: [B, T], or [B] to share one advantage among a rollout's tokens.
        mask: [B, T] bool. Nothing outside it reaches the loss or the gradient, NaN included.

    Returns:
        The loss [B, T], zero outside the mask, and diagnostics [B, T], without gradient and zero
        outside the mask: `ratio`; `clipped`, 1 where the clip is active; `correction_weight`;
        `mismatch`, old - behavior in nats; and `kl` in nats, when there is a penalty.

    Raises:
        ValueError: the shapes disagree, or one of `kl` and `ref_logprobs` is given alone.
    """
    advantages = _per_token(advantages, logprobs, old_logprobs, behavior_logprobs, mask)
    # Masking what goes in, not just what comes out: 0 * NaN is NaN, in the backward pass too.
    logprobs, advantages = _inside(mask, logprobs), _inside(mask, advantages)
    old_logprobs = _inside(mask, old_logprobs.detach())
    behavior_logprobs = _inside(mask, behavior_logprobs.detach())

    surrogate, ratio, clipped = _surrogate(loss, logprobs, old_logprobs, advantages, mask)
    weight = _correction_weight(correction, old_logprobs, behavior_logprobs, mask)
    per_token = weight * surrogate
    diagnostics = {"ratio": ratio, "clipped": clipped.to(ratio.dtype), "correction_weight": weight}
    diagnostics["mismatch"] = old_logprobs - behavior_logprobs
    if kl is not None and ref_logprobs is not None:
        _check_shapes(logprobs, ref_logprobs)
        diagnostics["kl"] = kl_estimate(
            kl.estimator, logprobs, _inside(mask, ref_logprobs.detach())
        )
        per_token = per_token + kl.coef * diagnostics["kl"]
    elif kl is not None or ref_logprobs is not None:
        got = "missing" if ref_logprobs is None else "given"
        raise ValueError(f"ref_logprobs come exactly when kl is set; kl = {kl!r}, they are {got}.")
    measured = {name: _inside(mask, value.detach()) for name, value in diagnostics.items()}
    return _inside(mask, per_token), measured


def _surrogate(
    loss: Loss, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, the ratio that its clip acts on, and where the clip is active, each [B, T]."""
    detached = logprobs.detach()
    ratio = torch.exp(detached - old_logprobs)
    if isinstance(loss, ReinforceLoss):
        return reinforce(logprobs, advantages), ratio, torch.zeros_like(mask)
    low, high = loss.clip_low, loss.clip_high
    if isinstance(loss, CispoLoss):
        surrogate = cispo(logprobs, old_logprobs, advantages, clip_low=low, clip_high=high)
        return surrogate, ratio, (ratio < 1.0 - low) | (ratio > 1.0 + high)
    if isinstance(loss, GspoLoss):
        ratio = _sequence_ratio(detached, old_logprobs, mask).expand_as(detached)
        surrogate = sequence_clipped_surrogate(
            logprobs, old_logprobs, advantages, mask, clip_low=low, clip_high=high
        )
    else:
        assert isinstance(loss, GrpoLoss)
        surrogate = clipped_surrogate(
            logprobs, old_logprobs, advantages, clip_low=low, clip_high=high
        )
    # The minimum keeps the gradient of a clipped ratio that makes the objective worse.
    clipped = ((ratio > 1.0 + high) & (advantages > 0)) | ((ratio < 1.0 - low) & (advantages < 0))
    return surrogate, ratio, clipped


def _correction_weight(
    correction: Correction, old_logprobs: Tensor, behavior_logprobs: Tensor, mask: Tensor
) -> Tensor:
    """The configured importance weight, [B, T]."""
    if isinstance(correction, NoCorrection):
        return torch.ones_like(old_logprobs)
    if isinstance(correction, TruncatedWeights):
        return truncated_weights(old_logprobs, behavior_logprobs, cap=correction.cap)
    low, high = correction.low, correction.high
    if isinstance(correction, MaskedWeights):
        return masked_weights(old_logprobs, behavior_logprobs, low=low, high=high)
    assert isinstance(correction, SequenceMask)
    return sequence_mask(old_logprobs, behavior_logprobs, mask, low=low, high=high)


# --- pieces ----------------------------------------------------------------------------------


def _weights(old_logprobs: Tensor, behavior_logprobs: Tensor) -> Tensor:
    """exp(old - behavior), [B, T], without gradient."""
    _check_shapes(old_logprobs, behavior_logprobs)
    return torch.exp((old_logprobs - behavior_logprobs).detach())


def _sequence_ratio(logprobs: Tensor, other_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Geometric mean over the masked tokens of exp(logprobs - other), [B, 1]; 1 without tokens."""
    log_ratio = _inside(mask, logprobs - other_logprobs.detach())
    tokens_B1 = mask.sum(-1, keepdim=True).clamp(min=1)
    return torch.exp(log_ratio.sum(-1, keepdim=True) / tokens_B1)


def _inside(mask: Tensor, values: Tensor) -> Tensor:
    """The values where the mask is True, zero elsewhere; NaN elsewhere is dropped as well."""
    return torch.where(mask, values, torch.zeros_like(values))


def _per_token(advantages: Tensor, logprobs: Tensor, *others: Tensor) -> Tensor:
    """Advantages as [B, T] without gradient, after all shapes were compared."""
    _check_shapes(logprobs, *others)
    if advantages.ndim == 1 and advantages.shape == logprobs.shape[:1]:
        advantages = advantages.unsqueeze(-1).expand_as(logprobs)
    if advantages.shape != logprobs.shape:
        raise ValueError(
            f"advantages have shape {tuple(advantages.shape)}, logprobs {tuple(logprobs.shape)}. "
            "Pass one advantage per rollout, [B], or one per token, [B, T]."
        )
    return advantages.detach()


def _check_shapes(*tensors: Tensor) -> None:
    """Raises unless all are [B, T] alike: broadcasting would hide a mistake."""
    shapes = [tuple(tensor.shape) for tensor in tensors]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(f"log-probabilities and mask must all be [B, T] alike; got {shapes}.")

"""One micro-batch's share of the loss, and the sums that a step's statistics are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cotree.grpo.config_algorithm import Train
from cotree.grpo.config_distill import Divergence
from cotree.grpo.loss import policy_loss
from cotree.grpo.tree_packing import TreeBatch
from cotree.grpo.types import Batch


@dataclass(frozen=True, slots=True)
class Taught:
    """A divergence from a teacher, alone or beside cross-entropy and the policy gradient."""

    divergence: Divergence
    coef: float = 1.0
    cross_entropy_coef: float = 0.0
    train: Train | None = None
    """The policy gradient that joins in, where the student sampled the tokens itself."""


Objective = Literal["sft"] | Train | Taught
"""Cross-entropy, the policy gradient that the train section configures, or a teacher's."""


def policy_part(objective: Objective) -> Train | None:
    """The settings of the policy gradient, where the objective has one."""
    if isinstance(objective, Taught):
        return objective.train
    return None if objective == "sft" else objective


def micro_batch_loss(
    objective: Objective,
    batch: Batch,
    *,
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    ref_logprobs: Tensor | None,
    divergence: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The micro-batch's share of the step's loss, and per-token diagnostics.

        loss = (per_token * batch.weights).sum()

    with per_token = -logprobs for "sft", `grpo.loss.policy_loss` for a policy gradient, and

        coef * divergence - cross_entropy_coef * logprobs (+ policy_loss)

    under a teacher. Of a `TreeBatch` it is the loss of the rows that were packed into it; see
    `grpo.tree_packing`.

    Args:
        objective: what is minimised.
        batch: B rows; its weights are shares of the whole step.
        logprobs: [B, S] nats, carries the gradient.
        old_logprobs: [B, S] by the learner before the step's first update; None when the step
            makes one update, where they are `logprobs` itself.
        ref_logprobs: [B, S] of the reference policy, given exactly when the objective has `kl`.
        divergence: [B, S] nats, given exactly when the objective is `Taught`; carries a gradient.

    Returns:
        Scalar loss and diagnostics [B, S], empty for "sft".

    Raises:
        ValueError: a `TreeBatch` meets a loss or correction that depends on whole rows, or there is
            no divergence under a teacher.
    """
    if objective == "sft":
        return -(logprobs * batch.weights).sum(), {}
    old = logprobs.detach() if old_logprobs is None else old_logprobs
    if not isinstance(objective, Taught):
        return _policy_loss(
            objective, batch, logprobs=logprobs, old_logprobs=old, ref_logprobs=ref_logprobs
        )
    if divergence is None:
        raise ValueError(
            "the objective is a teacher's, and this batch has no opinions of one; give the learner "
            "a resident teacher, or a TaughtBatch."
        )
    per_token = objective.coef * divergence - objective.cross_entropy_coef * logprobs
    loss, diagnostics = (per_token * batch.weights).sum(), {"divergence": divergence.detach()}
    if objective.train is not None:
        policy, measured = _policy_loss(
            objective.train, batch, logprobs=logprobs, old_logprobs=old, ref_logprobs=ref_logprobs
        )
        loss, diagnostics = loss + policy, diagnostics | measured
    return loss, diagnostics


def _policy_loss(
    train: Train,
    batch: Batch,
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    if isinstance(batch, TreeBatch):
        return _tree_loss(
            train, batch, logprobs=logprobs, old_logprobs=old_logprobs, ref_logprobs=ref_logprobs
        )
    per_token, diagnostics = policy_loss(
        train.loss,
        train.correction,
        train.kl,
        logprobs=logprobs,
        old_logprobs=old_logprobs,
        behavior_logprobs=batch.behavior_logprobs,
        ref_logprobs=ref_logprobs,
        advantages=batch.advantages,
        mask=batch.mask,
    )
    return (per_token * batch.weights).sum(), diagnostics


def _tree_loss(
    train: Train,
    batch: TreeBatch,
    *,
    logprobs: Tensor,
    old_logprobs: Tensor,
    ref_logprobs: Tensor | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the packed rows, and diagnostics that are means over a token's rows.

    The surrogate at advantage +1, -1 and 0 is weighed by P, M and the sum of weights; the last
    call brings the divergence penalty alone.
    """
    train.check_shared_prefixes()
    rows = batch.num_rows.clamp(min=1)
    parts = {
        1.0: (batch.positive, batch.num_positive),
        -1.0: (batch.negative, batch.num_negative),
        0.0: (batch.weights, batch.num_rows - batch.num_positive - batch.num_negative),
    }
    loss, clipped = logprobs.new_zeros(()), torch.zeros_like(logprobs)
    diagnostics: dict[str, Tensor] = {}
    for sign, (mass, count) in parts.items():
        per_token, diagnostics = policy_loss(
            train.loss,
            train.correction,
            None if sign else train.kl,
            logprobs=logprobs,
            old_logprobs=old_logprobs,
            behavior_logprobs=batch.behavior_logprobs,
            ref_logprobs=None if sign else ref_logprobs,
            advantages=torch.full_like(logprobs, sign),
            mask=batch.mask,
        )
        loss = loss + (per_token * mass).sum()
        clipped = clipped + diagnostics["clipped"] * count / rows
    return loss, diagnostics | {"clipped": clipped}


_SUMS = (
    *("tokens", "entropy", "clipped", "weight", "abs_mismatch", "k1", "k3", "kl", "divergence"),
    *("drafted", "draft_nats", "draft_hits"),
)
_MAXIMA = ("ratio", "abs_mismatch")


class StepStatistics:
    """Sums and maxima over a step's trained tokens, kept in float64; one reduction at the end."""

    def __init__(self) -> None:
        self._sums = dict.fromkeys(_SUMS, 0.0)
        self._maxima: dict[str, float] = dict.fromkeys(_MAXIMA, 0.0)
        self._is_policy = False
        self._has_kl = False
        self._has_teacher = False
        self._has_drafts = False

    def add(self, batch: Batch, entropy: Tensor, diagnostics: dict[str, Tensor]) -> None:
        """Takes in a micro-batch: [B, S] entropy and the diagnostics of `micro_batch_loss`.

        A token that stands for several rows counts once for each.
        """
        copies = batch.num_rows if isinstance(batch, TreeBatch) else batch.mask

        def total(values: Tensor) -> float:
            return float((values.detach().double() * copies).sum())

        self._sums["tokens"] += float(copies.sum())
        self._sums["entropy"] += total(entropy)
        if "divergence" in diagnostics:
            self._has_teacher = True
            self._sums["divergence"] += total(diagnostics["divergence"])
        if "mismatch" not in diagnostics:
            return
        mismatch = diagnostics["mismatch"].double()  # old - behavior, samples from behavior
        self._is_policy = True
        self._sums["clipped"] += total(diagnostics["clipped"])
        self._sums["weight"] += total(diagnostics["correction_weight"])
        self._sums["abs_mismatch"] += total(mismatch.abs())
        self._sums["k1"] += total(-mismatch)
        self._sums["k3"] += total(mismatch.expm1() - mismatch)
        if "kl" in diagnostics:
            self._has_kl = True
            self._sums["kl"] += total(diagnostics["kl"])
        if batch.mask.any():
            maxima = {"ratio": diagnostics["ratio"], "abs_mismatch": mismatch.abs()}
            for name, value in maxima.items():
                self._maxima[name] = max(self._maxima[name], float(value.max()))

    def add_drafts(self, batch: Batch, logprobs: Tensor | None, hits: Tensor | None) -> None:
        """Takes in what a multi-token prediction module made of it; see `grpo.policy.Scores`.

        The first two tokens of a row have no place from where the module would predict them.
        """
        if logprobs is None or hits is None:
            return
        self._has_drafts = True
        self._sums["drafted"] += float(batch.mask[:, 2:].sum())
        self._sums["draft_nats"] -= float(logprobs.detach().double().sum())
        self._sums["draft_hits"] += float(hits.sum())

    def reduced(self, *, world_size: int, device: torch.device) -> dict[str, float]:
        """Means and maxima over all processes, under the names that metrics files use."""
        sums = torch.tensor([self._sums[name] for name in _SUMS], dtype=torch.float64)
        maxima = torch.tensor([self._maxima[name] for name in _MAXIMA], dtype=torch.float64)
        if world_size > 1:
            sums, maxima = sums.to(device), maxima.to(device)
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(maxima, op=torch.distributed.ReduceOp.MAX)
        total = dict(zip(_SUMS, sums.tolist(), strict=True))
        largest = dict(zip(_MAXIMA, maxima.tolist(), strict=True))
        tokens = max(1.0, total["tokens"])
        stats = {"tokens": total["tokens"], "entropy_nats": total["entropy"] / tokens}
        if self._is_policy:
            stats |= {
                "clip_frac": total["clipped"] / tokens,
                "ratio_max": largest["ratio"],
                "correction/mean_weight": total["weight"] / tokens,
                "mismatch/mean_abs_nats": total["abs_mismatch"] / tokens,
                "mismatch/max_abs_nats": largest["abs_mismatch"],
                "mismatch/kl_nats": total["k1"] / tokens,
                "mismatch/kl_k3_nats": total["k3"] / tokens,
            }
        if self._has_teacher:
            stats["distill/divergence_nats"] = total["divergence"] / tokens
        if self._has_kl:
            stats["kl_ref_nats"] = total["kl"] / tokens
        if self._has_drafts:
            drafted = max(1.0, total["drafted"])
            stats["mtp/nats"] = total["draft_nats"] / drafted
            stats["mtp/top1_frac"] = total["draft_hits"] / drafted
        return stats

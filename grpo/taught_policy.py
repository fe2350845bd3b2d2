"""The student under a teacher: log-probabilities, entropy, and the divergence from the teacher.

The logits of a chunk of tokens serve all three, so the head is computed once.
"""

from __future__ import annotations

from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from cotree.grpo.config_distill import Divergence
from cotree.grpo.config_learner import Mtp
from cotree.grpo.divergence import divergence_of, outcome_logprobs
from cotree.grpo.policy import PredictingStates, Scores, policy_logprobs, predicting_states
from cotree.grpo.types import Batch, TaughtBatch
from cotree.kernels.chunked_head import chunked_head

_DENSE_TENSORS = 4
"""How much smaller a chunk is where two whole distributions are compared: that takes about 13 of
its logits' tensors instead of 3."""


class ResidentModel:
    """A teacher's frozen network in the learner; no part of the module that is trained."""

    def __init__(self, network: PreTrainedModel, *, packing: bool) -> None:
        self._network = network.eval().requires_grad_(requires_grad=False)
        self._packing = packing

    @torch.no_grad()
    def states(self, batch: Batch) -> PredictingStates:
        """What predicts the batch's trained tokens, in the network's own precision."""
        with torch.autocast(batch.token_ids.device.type, enabled=False):
            return predicting_states(self._network, batch, packing=self._packing)

    @torch.no_grad()
    def logprobs(self, batch: Batch, *, temperature: float) -> Tensor:
        """[B, S] nats: of the batch's trained tokens; see `grpo.policy.policy_logprobs`."""
        with torch.autocast(batch.token_ids.device.type, enabled=False):
            return policy_logprobs(
                self._network, batch, temperature=temperature, packing=self._packing
            )[0]


class TaughtPolicy(nn.Module):
    """As `grpo.policy.Policy`, with the divergence from a teacher as a third result."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        *,
        packing: bool,
        divergence: Divergence,
        teacher: ResidentModel | None,
        order: Tensor | None,
        mtp: Mtp | None = None,
    ) -> None:
        """Takes over the model.

        Args:
            model: the student.
            packing: see `grpo.policy.policy_logprobs`.
            divergence: from the teacher.
            teacher: asked about every batch; None reads a `TaughtBatch`.
            order: [V] int64, the order of the vocabulary that a `TaughtBatch` means; None is the
                student's own.
            mtp: how the student's multi-token prediction module is trained, if it is.
        """
        super().__init__()
        self.model = model
        self.packing = packing
        self._divergence = divergence
        self._teacher = teacher
        self._mtp = mtp
        self.register_buffer("_order", order, persistent=False)

    def forward(
        self, batch: Batch, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor | None] | Scores:
        """[B, S] log-probabilities and entropy at `temperature`, and the divergence, in nats.

        With `mtp` the module's scores as well: `Scores(*result)` has either.

        The divergence is zero where the teacher has no opinion, and has a temperature of its own.
        It is None where there is no teacher to ask and the batch holds no opinions.
        """
        mtp = self._mtp if torch.is_grad_enabled() else None
        states = predicting_states(self.model, batch, packing=self.packing, mtp=mtp)
        targets = batch.token_ids[states.rows, states.columns]
        teacher = None if self._teacher is None else self._teacher.states(batch)

        def score(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor, Tensor]:
            raw = torch.log_softmax(logits, dim=-1)
            scaled = raw if temperature == 1 else torch.log_softmax(logits / temperature, dim=-1)
            chosen = scaled.gather(-1, targets[chunk, None])[:, 0]
            entropy = -(scaled.exp() * scaled).sum(-1)
            if teacher is not None:
                pair = _dense(teacher, raw, chunk)
            else:
                pair = self._stored(batch, states, raw, chunk)
            if pair is None:
                return chosen, entropy, torch.zeros_like(chosen)
            return chosen, entropy, divergence_of(self._divergence, *pair)

        chunk_tokens = states.chunk_tokens
        if teacher is not None:
            chunk_tokens = max(1, chunk_tokens // _DENSE_TENSORS)
        results = chunked_head(
            states.hidden,
            states.head.weight,
            bias=states.head.bias,
            score=score,
            chunk_tokens=chunk_tokens,
            logit_scale=states.logit_scale,
        )
        logprobs, entropy, divergence = (states.placed(values, batch) for values in results)
        is_taught = teacher is not None or isinstance(batch, TaughtBatch)
        found = (logprobs, entropy, divergence if is_taught else None)
        if mtp is None:
            return found
        return Scores(*found, *states.mtp_scores(batch, detached=mtp.detached))

    def _stored(
        self, batch: Batch, states: PredictingStates, raw: Tensor, chunk: slice
    ) -> tuple[Tensor, Tensor] | None:
        """Teacher and student over the outcomes that the batch holds; None if it holds none."""
        if not isinstance(batch, TaughtBatch):
            return None
        where = (states.rows[chunk], states.columns[chunk])
        order = cast("Tensor | None", self._order)
        student = outcome_logprobs(
            raw, batch.outcome_first[where], batch.outcome_end[where], order=order
        )
        teacher = batch.teacher_logprobs[where].to(raw.dtype)
        # Where every token is named, the rest is what rounding left, and tempering would raise it.
        exhausted = (student == -torch.inf) & (teacher > -torch.inf)
        exhausted[:, :-1] = False
        return teacher.masked_fill(exhausted, -torch.inf), student


def _dense(teacher: PredictingStates, student: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
    """Teacher and student over the whole vocabulary.

    Embedding tables may be padded differently: what is beyond the shorter one is one outcome.
    """
    hidden, head = teacher.hidden[chunk], teacher.head
    with torch.no_grad(), torch.autocast(hidden.device.type, enabled=False):
        logits = functional.linear(hidden, head.weight.to(hidden.dtype), head.bias)
        scores = torch.log_softmax(logits.to(student.dtype) * teacher.logit_scale, dim=-1)
    common = min(scores.shape[-1], student.shape[-1])
    if scores.shape == student.shape:
        return scores, student
    return _lumped(scores, common), _lumped(student, common)


def _lumped(logprobs: Tensor, common: int) -> Tensor:
    """[n, common + 1]: the first tokens, and all others as one."""
    rest = logprobs[:, common:]
    lump = (
        torch.logsumexp(rest, -1, keepdim=True)
        if rest.shape[-1]
        else torch.full_like(logprobs[:, :1], -torch.inf)
    )
    return torch.cat([logprobs[:, :common], lump], dim=-1)

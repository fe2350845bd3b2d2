"""The teacher in the loop: it judges what the student samples, and its word joins the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from cotree.grpo.collate import trained_completions
from cotree.grpo.config_distill import AdvantageSignal, OnPolicyDistill, ResidentTeacher
from cotree.grpo.distilling.taught_batch import first_trained, taught_batch
from cotree.grpo.distilling.view import TeacherView, Text
from cotree.grpo.token_scores import ScoreRequest, TokenScores
from cotree.grpo.types import Batch, Group, Stats

Score = Callable[[Sequence[ScoreRequest], int], list[TokenScores]]
"""A teacher's scores of texts, with so many of the most likely tokens."""


class OnPolicyTeacher:
    """Adds a teacher's opinion to batches; `teach` is `grpo.loop.Parts.teach`."""

    def __init__(
        self, settings: OnPolicyDistill, *, view: TeacherView, score: Score | None
    ) -> None:
        """Takes over the parts.

        Args:
            settings: what the opinion is for.
            view: between the two tokenizers.
            score: asks the teacher; None where the learner compares whole distributions itself.
        """
        self._settings, self._view, self._score = settings, view, score

    def teach(self, groups: Sequence[Group], batch: Batch) -> tuple[Batch, Stats]:
        """The batch of these groups, with the teacher's opinion in its advantages or beside them.

        Args:
            groups: what `collate` made the batch of.
            batch: its rewards' advantages are scaled by `reward_coef`.
        """
        settings, signal = self._settings, self._settings.signal
        batch = replace(batch, advantages=settings.reward_coef * batch.advantages)
        if self._score is None:
            return batch, {}
        refused = self._view.refused.total()
        rows = trained_completions(groups, mask_truncated=settings.train.mask_truncated)
        texts = [Text(group.problem.question, completion.token_ids) for group, completion in rows]
        requests = [self._view.request(text) for text in texts]
        asked = [row for row, request in enumerate(requests) if request is not None]
        most = 0 if isinstance(signal, AdvantageSignal) else signal.keep.most
        answers = self._score([request for request in requests if request is not None], most)
        judged = {
            row: (texts[row], request, scores)
            for row, scores in zip(asked, answers, strict=True)
            if (request := requests[row]) is not None
        }
        stats = {"distill/refused": float(self._view.refused.total() - refused)}
        if isinstance(signal, AdvantageSignal):
            sampled = {row: rows[row][1].logprobs for row in judged}
            batch, kl = self._with_advantages(batch, judged, sampled)
            return batch, stats | {"distill/reverse_kl_nats": kl}
        opinions = {
            row: self._view.opinion(text, request, scores.trimmed(signal.keep))
            for row, (text, request, scores) in judged.items()
        }
        inside = sum(one.num_inside for one in opinions.values())
        stats["distill/inside_frac"] = inside / batch.num_tokens
        return taught_batch(batch, [opinions.get(row) for row in range(len(rows))]), stats

    def _with_advantages(
        self,
        batch: Batch,
        judged: dict[int, tuple[Text, ScoreRequest, TokenScores]],
        sampled: dict[int, tuple[float, ...]],
    ) -> tuple[Batch, float]:
        """Adds coef * (log p - log q) to the advantages; also the mean of log q - log p."""
        advantages = batch.advantages.clone()
        starts = first_trained(batch.mask)
        total, count = 0.0, 0
        for row, (text, request, scores) in judged.items():
            ratios = torch.from_numpy(self._view.log_ratios(text, request, scores, sampled[row]))
            total, count = total - float(ratios.sum()), count + len(ratios)
            tokens = slice(starts[row], starts[row] + len(ratios))
            advantages[row, tokens] += self._settings.signal.coef * ratios
        return replace(batch, advantages=advantages), total / max(1, count)


def learner_compares(settings: OnPolicyDistill) -> bool:
    """Whether the learner itself compares whole distributions, with the teacher beside it."""
    resident = isinstance(settings.teacher, ResidentTeacher)
    return resident and not isinstance(settings.signal, AdvantageSignal)

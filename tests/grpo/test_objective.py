"""Tests for grpo/objective.py. What it measures is checked end to end in test_learner.py."""

import pytest
import torch
from random_batches import KL, random_batch, train_config

from cotree.grpo.collate import micro_batches
from cotree.grpo.loss import policy_loss
from cotree.grpo.objective import StepStatistics, micro_batch_loss
from cotree.grpo.types import Batch


def _logprobs(batch: Batch) -> torch.Tensor:
    return (batch.behavior_logprobs + 0.2 * torch.sin(torch.arange(24.0))) * batch.mask


def test_sft_is_the_weighted_negative_log_likelihood():
    batch = random_batch(0)
    loss, diagnostics = micro_batch_loss(
        "sft", batch, logprobs=_logprobs(batch), old_logprobs=None, ref_logprobs=None
    )
    torch.testing.assert_close(loss, -(_logprobs(batch).sum() / batch.num_tokens))
    assert diagnostics == {}


def test_without_old_logprobs_the_present_policy_is_the_old_one():
    batch, train = random_batch(0), train_config()
    loss, diagnostics = micro_batch_loss(
        train, batch, logprobs=_logprobs(batch), old_logprobs=None, ref_logprobs=None
    )
    per_token, _ = policy_loss(
        train.loss,
        train.correction,
        None,
        logprobs=_logprobs(batch),
        old_logprobs=_logprobs(batch),
        behavior_logprobs=batch.behavior_logprobs,
        ref_logprobs=None,
        advantages=batch.advantages,
        mask=batch.mask,
    )
    torch.testing.assert_close(loss, (per_token * batch.weights).sum())
    assert float(diagnostics["ratio"].max()) == 1.0


def test_a_penalty_without_reference_is_an_error():
    batch = random_batch(0)
    with pytest.raises(ValueError, match="exactly when kl is set"):
        micro_batch_loss(
            train_config(kl=KL),
            batch,
            logprobs=_logprobs(batch),
            old_logprobs=None,
            ref_logprobs=None,
        )


def test_statistics_do_not_depend_on_the_cut():
    batch, train = random_batch(1), train_config()
    results = []
    for limit in (10_000, 50):
        statistics = StepStatistics()
        for piece in micro_batches(batch, max_tokens=limit):
            logprobs = piece.behavior_logprobs - 0.3 * piece.advantages
            _, diagnostics = micro_batch_loss(
                train, piece, logprobs=logprobs, old_logprobs=None, ref_logprobs=None
            )
            statistics.add(piece, logprobs.abs(), diagnostics)
        results.append(statistics.reduced(world_size=1, device=torch.device("cpu")))
    assert results[0] == pytest.approx(results[1], rel=1e-9)
    assert results[0]["mismatch/max_abs_nats"] == pytest.approx(
        0.3 * float(batch.advantages.abs().max())
    )


def test_a_cold_start_reports_no_ratios():
    batch, statistics = random_batch(2), StepStatistics()
    statistics.add(batch, 2.0 * batch.mask, {})
    stats = statistics.reduced(world_size=1, device=torch.device("cpu"))
    assert stats == {"tokens": batch.num_tokens, "entropy_nats": 2.0}

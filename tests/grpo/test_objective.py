"""Tests for grpo/objective.py. What it measures is checked end to end in test_learner.py."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from objective_processes import reduced_in_group
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


# --- drafts ----------------------------------------------------------------------------------


def _drafts(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """What a module made of the trained tokens that have two before: nats, and whether it hit."""
    columns = torch.arange(24)
    place = columns + 24 * torch.arange(len(batch.lengths))[:, None]
    predicted = batch.mask & (columns >= 2)
    return -(1.0 + place.sin().abs()) * predicted, ((place % 3 == 0) & predicted).float()


def _measured(batches: list[Batch]) -> dict[str, float]:
    statistics = StepStatistics()
    for batch in batches:
        statistics.add(batch, batch.mask.float(), {})
        statistics.add_drafts(batch, *_drafts(batch))
    return statistics.reduced(world_size=1, device=torch.device("cpu"))


def _from_the_second_token(seed: int) -> Batch:
    """Rows of which all tokens but the first are trained, as of a text without a prompt."""
    batch, columns = random_batch(seed), torch.arange(24)
    mask = (columns >= 1) & (columns < batch.lengths[:, None])
    return replace(batch, mask=mask, num_tokens=int(mask.sum()))


def test_drafts_are_means_over_the_tokens_that_two_others_precede():
    # A row's second token has one before it: nothing drafts it, and it is no miss either.
    batch = _from_the_second_token(0)
    logprobs, hits = _drafts(batch)
    drafted = batch.num_tokens - len(batch.lengths)
    stats = _measured([batch])
    assert stats["mtp/nats"] == pytest.approx(-float(logprobs.double().sum()) / drafted)
    assert stats["mtp/top1_frac"] == pytest.approx(float(hits.sum()) / drafted)
    assert stats["tokens"] == batch.num_tokens > drafted


def test_a_module_that_knows_every_token_it_can_draft_has_no_miss():
    batch = _from_the_second_token(1)
    statistics = StepStatistics()
    ones = (batch.mask & (torch.arange(24) >= 2)).float()
    statistics.add_drafts(batch, 0.0 * ones, ones)
    stats = statistics.reduced(world_size=1, device=torch.device("cpu"))
    assert (stats["mtp/nats"], stats["mtp/top1_frac"]) == (0.0, 1.0)


def test_drafts_do_not_depend_on_the_cut():
    batches = [random_batch(seed) for seed in range(3)]
    whole = _measured(batches)
    nats = sum(float(_drafts(batch)[0].double().sum()) for batch in batches)
    tokens = sum(batch.num_tokens for batch in batches)
    assert whole["mtp/nats"] == pytest.approx(-nats / tokens)
    for order in ((2, 0, 1), (1, 2, 0)):
        assert _measured([batches[i] for i in order]) == pytest.approx(whole, rel=1e-12)


def test_without_a_module_nothing_is_said_of_drafts():
    batch, statistics = random_batch(0), StepStatistics()
    statistics.add(batch, batch.mask.float(), {})
    statistics.add_drafts(batch, None, None)
    stats = statistics.reduced(world_size=1, device=torch.device("cpu"))
    assert not [name for name in stats if name.startswith("mtp/")]


def test_a_step_without_a_trained_token_drafts_nothing():
    batch = random_batch(0)
    stats = _measured([replace(batch, mask=torch.zeros_like(batch.mask))])
    assert (stats["mtp/nats"], stats["mtp/top1_frac"]) == (0.0, 0.0)


def test_two_processes_report_the_mean_over_both_ones_tokens(tmp_path: Path):
    # This process and another one, which has more tokens.
    batches = [random_batch(0, rows=2), random_batch(1, rows=5)]
    shares = [(batch, *_drafts(batch)) for batch in batches]
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        other = pool.submit(reduced_in_group, 1, tmp_path, shares)
        own = reduced_in_group(0, tmp_path, shares)
        assert own == other.result()
    assert own == pytest.approx(_measured(batches), rel=1e-12)

"""Tests for grpo/objective.py under a teacher: what is summed, and what is measured."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_batches import KL, random_batch, train_config
from taught_batches import everything, frozen, scores_of, told, write_teacher
from transformers import PreTrainedModel

from cotree.grpo.collate import micro_batches
from cotree.grpo.config_distill import Divergence
from cotree.grpo.models import load_model
from cotree.grpo.objective import (
    Objective,
    StepStatistics,
    Taught,
    micro_batch_loss,
    policy_part,
)
from cotree.grpo.taught_policy import ResidentModel, TaughtPolicy
from cotree.grpo.types import Batch

FORWARD = Divergence()
TRAIN = train_config()


def _loss(objective: Objective, batch: Batch, **given: object):
    """Of log-probabilities and divergences that are written down, with a gradient."""
    places = torch.arange(24.0)
    logprobs = ((batch.behavior_logprobs + 0.2 * places.sin()) * batch.mask).requires_grad_()
    divergence = ((1.5 + places.cos()) * batch.mask).requires_grad_()
    arguments = {"old_logprobs": None, "ref_logprobs": None, "divergence": divergence, **given}
    loss, diagnostics = micro_batch_loss(objective, batch, logprobs=logprobs, **arguments)
    return loss, diagnostics, logprobs, divergence


@pytest.mark.parametrize(("coef", "cross_entropy_coef"), [(1.0, 0.0), (0.3, 0.0), (2.0, 0.7)])
def test_the_loss_weighs_divergence_and_cross_entropy(coef: float, cross_entropy_coef: float):
    batch = random_batch(0)
    objective = Taught(FORWARD, coef=coef, cross_entropy_coef=cross_entropy_coef)
    loss, diagnostics, logprobs, divergence = _loss(objective, batch)
    # token_mean: each of num_tokens tokens weighs 1 / num_tokens.
    expected = (coef * divergence.sum() - cross_entropy_coef * logprobs.sum()) / batch.num_tokens
    torch.testing.assert_close(loss, expected)
    assert diagnostics.keys() == {"divergence"}
    assert torch.equal(diagnostics["divergence"], divergence)
    assert not diagnostics["divergence"].requires_grad


def test_a_policy_gradient_is_added_as_it_is():
    batch = random_batch(0)
    alone, measured, *_ = _loss(TRAIN, batch, divergence=None)
    taught, both, _, divergence = _loss(Taught(FORWARD, coef=0.4, train=TRAIN), batch)
    torch.testing.assert_close(taught, alone + 0.4 * divergence.sum() / batch.num_tokens)
    assert both.keys() == measured.keys() | {"divergence"}
    assert all(torch.equal(both[name], value) for name, value in measured.items())


def test_old_and_reference_logprobs_reach_the_policy_gradient():
    batch = random_batch(1)
    train = train_config(kl=KL)
    given = {
        "old_logprobs": batch.behavior_logprobs - 0.05,
        "ref_logprobs": batch.behavior_logprobs + 0.1 * batch.mask,
    }
    alone, *_ = _loss(train, batch, **given)
    taught, measured, _, divergence = _loss(Taught(FORWARD, train=train), batch, **given)
    torch.testing.assert_close(taught, alone + divergence.sum() / batch.num_tokens)
    assert "kl" in measured
    with pytest.raises(ValueError, match="exactly when kl is set"):
        _loss(Taught(FORWARD, train=train), batch)


def test_a_batch_without_a_teachers_opinion_is_refused():
    with pytest.raises(ValueError, match="this batch has no opinions"):
        _loss(Taught(FORWARD), random_batch(0), divergence=None)


def test_the_policy_part_is_what_is_left_without_the_teacher():
    assert policy_part("sft") is None
    assert policy_part(TRAIN) is TRAIN
    assert policy_part(Taught(FORWARD)) is None
    assert policy_part(Taught(FORWARD, train=TRAIN)) is TRAIN


# --- gradients of a model --------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedModel:
    folder = tmp_path_factory.mktemp("teacher")
    return frozen(write_teacher(tiny_model, folder, seed=1, sharpness=4.0))


def _gradients(
    objective: Objective, batch: Batch, *, student: PreTrainedModel, teacher: PreTrainedModel | None
) -> dict[str, torch.Tensor]:
    resident = None if teacher is None else ResidentModel(teacher, packing=False)
    policy = TaughtPolicy(
        student, packing=False, divergence=Divergence(kind="jsd"), teacher=resident, order=None
    )
    student.zero_grad()
    train = policy_part(objective)
    logprobs, _, divergence = policy(batch, train.rollout.temperature if train else 1.0)
    loss, _ = micro_batch_loss(
        objective,
        batch,
        logprobs=logprobs,
        old_logprobs=None,
        ref_logprobs=None,
        divergence=divergence if isinstance(objective, Taught) else None,
    )
    loss.backward()
    return {name: p.grad.clone() for name, p in student.named_parameters()}


@pytest.mark.parametrize("is_resident", [True, False], ids=["resident", "told"])
@pytest.mark.parametrize("loss", ["grpo", "gspo", "cispo", "reinforce"])
def test_the_gradient_is_the_policy_gradient_plus_coef_times_the_divergences(
    tiny_model, teacher, loss: str, is_resident: bool
):
    # At temperature 0.7 the policy gradient's log-probabilities are tempered, the divergence's
    # are not.
    student = load_model(str(tiny_model), dtype="float64")
    batch = random_batch(0)
    if not is_resident:
        scores = [scores for _, scores in scores_of(teacher, batch)]
        batch = told(batch, scores, vocab_size=128, keep=everything(teacher))
    train = train_config(loss={"type": loss}, rollout={"temperature": 0.7})
    settings = Divergence(kind="jsd")

    def gradients(objective: Objective) -> dict[str, torch.Tensor]:
        asked = teacher if is_resident else None
        return _gradients(objective, batch, student=student, teacher=asked)

    policy, divergence = gradients(train), gradients(Taught(settings))
    both = gradients(Taught(settings, coef=0.25, train=train))
    for name, gradient in both.items():
        expected = policy[name] + 0.25 * divergence[name]
        scale = float(expected.abs().max())
        # transformers computes a norm, and the gradient through it, in float32.
        torch.testing.assert_close(gradient, expected, atol=2e-6 * scale, rtol=0)
        assert float(policy[name].abs().max()) > 1e-5
        assert float(divergence[name].abs().max()) > 1e-5


def test_a_row_without_an_opinion_leaves_the_policy_gradient_alone(tiny_model, teacher):
    student = load_model(str(tiny_model), dtype="float64")
    batch = random_batch(0)
    silent = told(batch, [None] * 6, vocab_size=128, keep=everything(teacher))
    taught = Taught(FORWARD, train=TRAIN)
    alone = _gradients(TRAIN, batch, student=student, teacher=None)
    both = _gradients(taught, silent, student=student, teacher=None)
    assert max(float((both[name] - alone[name]).abs().max()) for name in alone) < 1e-15


# --- statistics ------------------------------------------------------------------------------


@pytest.mark.parametrize("train", [None, TRAIN], ids=["alone", "with_train"])
def test_the_mean_divergence_is_measured_and_does_not_depend_on_the_cut(train):
    batch = random_batch(1)
    results = []
    for limit in (10_000, 50, 1):
        statistics = StepStatistics()
        for piece in micro_batches(batch, max_tokens=limit):
            logprobs = piece.behavior_logprobs
            _, diagnostics = micro_batch_loss(
                Taught(FORWARD, train=train),
                piece,
                logprobs=logprobs,
                old_logprobs=None,
                ref_logprobs=None,
                divergence=-2.0 * logprobs,
            )
            statistics.add(piece, logprobs.abs(), diagnostics)
        results.append(statistics.reduced(world_size=1, device=torch.device("cpu")))
    nats = -2.0 * float(batch.behavior_logprobs.sum()) / batch.num_tokens
    assert results[0]["distill/divergence_nats"] == pytest.approx(nats, rel=1e-6)
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-6)
    assert ("ratio_max" in results[0]) == (train is not None)


def test_without_a_teacher_no_divergence_is_reported():
    batch, statistics = random_batch(2), StepStatistics()
    loss = micro_batch_loss(
        TRAIN, batch, logprobs=batch.behavior_logprobs, old_logprobs=None, ref_logprobs=None
    )
    statistics.add(batch, 2.0 * batch.mask, loss[1])
    stats = statistics.reduced(world_size=1, device=torch.device("cpu"))
    assert "distill/divergence_nats" not in stats


def test_a_step_of_which_nothing_is_trained_is_measured_as_zero():
    batch = replace(random_batch(2), mask=torch.zeros(6, 24, dtype=torch.bool))
    statistics = StepStatistics()
    statistics.add(batch, torch.zeros(6, 24), {"divergence": torch.ones(6, 24)})
    stats = statistics.reduced(world_size=1, device=torch.device("cpu"))
    assert stats["distill/divergence_nats"] == stats["tokens"] == 0.0

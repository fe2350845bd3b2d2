"""Tests for grpo/taught_policy.py with a multi-token prediction module beside the student."""

from pathlib import Path

import pytest
import torch
from random_batches import random_batch, train_config
from taught_batches import FORWARD, frozen, opinions, taught_learner, write_teacher
from transformers import PreTrainedModel

from cotree.grpo.config_learner import Mtp
from cotree.grpo.learner import Learner
from cotree.grpo.mtp import mtp_loss
from cotree.grpo.mtp_files import load_model_with_mtp
from cotree.grpo.objective import Taught
from cotree.grpo.policy import Policy, Scores
from cotree.grpo.taught_policy import ResidentModel, TaughtPolicy
from cotree.grpo.types import Batch

PREFIX = "model.layers.3."
BATCHES = [random_batch(seed, vocab=22) for seed in range(3)]
DETACHED, ATTACHED = Mtp(), Mtp(detached=False)


@pytest.fixture(scope="module")
def teacher_folder(mtp_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(mtp_model, tmp_path_factory.mktemp("teacher"), seed=1, sharpness=4.0)


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> PreTrainedModel:
    return frozen(teacher_folder, dtype="float32")


@pytest.fixture(scope="module")
def student(mtp_model: Path) -> PreTrainedModel:
    return load_model_with_mtp(str(mtp_model), dtype="float32")


def taught(
    student: PreTrainedModel,
    *,
    teacher: PreTrainedModel | None,
    mtp: Mtp | None,
    packing: bool = False,
) -> TaughtPolicy:
    resident = None if teacher is None else ResidentModel(teacher, packing=packing)
    return TaughtPolicy(
        student, packing=packing, divergence=FORWARD, teacher=resident, order=None, mtp=mtp
    )


def gradients(policy: TaughtPolicy, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of every parameter, zero where the loss does not reach it."""
    named = dict(policy.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {
        name.removeprefix("model."): torch.zeros_like(value) if grad is None else grad
        for (name, value), grad in zip(named.items(), found, strict=True)
    }


@pytest.mark.parametrize("mtp", [DETACHED, ATTACHED], ids=["detached", "attached"])
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_modules_scores_are_those_of_a_policy_without_a_teacher(
    student, teacher, mtp: Mtp, packing: bool, temperature: float
):
    batch = BATCHES[0]
    expected = Scores(*Policy(student, packing=packing, mtp=mtp)(batch, temperature))
    for asked in (teacher, None):
        policy = taught(student, teacher=asked, mtp=mtp, packing=packing)
        found = Scores(*policy(batch, temperature))
        assert torch.equal(found.mtp_logprobs, expected.mtp_logprobs)
        assert torch.equal(found.mtp_hits, expected.mtp_hits)
        torch.testing.assert_close(found.logprobs, expected.logprobs, atol=1e-5, rtol=0)
        assert (found.divergence is None) == (asked is None)
    assert float(expected.mtp_logprobs.detach()[batch.mask].max()) < -0.1


def test_stored_opinions_are_compared_as_without_a_module(student, teacher):
    batch = opinions(teacher, BATCHES[0])
    plain = Scores(*taught(student, teacher=None, mtp=None)(batch, 1.0))
    found = Scores(*taught(student, teacher=None, mtp=DETACHED)(batch, 1.0))
    assert torch.equal(found.divergence, plain.divergence)
    assert float(found.divergence.detach()[batch.mask].min()) > 0
    assert plain.mtp_logprobs is None
    assert found.mtp_logprobs is not None


def test_without_gradients_the_module_does_not_run(student, teacher):
    with torch.no_grad():
        found = Scores(*taught(student, teacher=teacher, mtp=DETACHED)(BATCHES[0], 1.0))
    assert found.mtp_logprobs is None
    assert found.mtp_hits is None
    assert found.divergence is not None


def _divergence_and_both(student, teacher, batch: Batch, mtp: Mtp):
    """Gradients of the divergence alone, and with the module's cross-entropy added."""
    policy = taught(student, teacher=teacher, mtp=None)
    scores = Scores(*policy(batch, 1.0))
    alone = gradients(policy, (scores.divergence * batch.weights).sum())
    policy = taught(student, teacher=teacher, mtp=mtp)
    scores = Scores(*policy(batch, 1.0))
    loss = (scores.divergence * batch.weights).sum()
    drafts = mtp_loss(scores.mtp_logprobs, batch.weights, weight=mtp.weight)
    return alone, gradients(policy, loss + drafts)


def test_a_detached_module_leaves_the_divergences_gradient_as_it_is(student, teacher):
    alone, both = _divergence_and_both(student, teacher, BATCHES[0], DETACHED)
    own = {name for name in both if name.startswith(PREFIX)}
    assert own
    assert all(torch.equal(both[name], alone[name]) for name in both.keys() - own)
    assert any(alone[name].any() for name in both.keys() - own)
    assert not any(alone[name].any() for name in own)
    assert both[PREFIX + "eh_proj.weight"].any()


def test_an_attached_module_pulls_on_the_student(student, teacher):
    alone, both = _divergence_and_both(student, teacher, BATCHES[0], ATTACHED)
    for part in ("model.embed_tokens", "lm_head", "model.layers.2.input_layernorm"):
        name = part + ".weight"
        assert float((both[name] - alone[name]).abs().max()) > 1e-6, name


# --- learners --------------------------------------------------------------------------------


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """All that it would save, the module's weights with it; `weights()` leaves those out."""
    return learner._files.checkpoint_weights()


OBJECTIVES = {
    "divergence": Taught(FORWARD),
    "all": Taught(FORWARD, coef=0.5, cross_entropy_coef=0.5, train=train_config()),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_learner_under_a_teacher_trains_the_module_and_the_student_is_as_without(
    mtp_model: Path, teacher_folder: Path, name: str
):
    objective = OBJECTIVES[name]
    plain = taught_learner(mtp_model, objective, teacher=teacher_folder)
    start = tensors(taught_learner(mtp_model, objective, teacher=teacher_folder, mtp={}))
    ours = taught_learner(mtp_model, objective, teacher=teacher_folder, mtp={})
    for batch in BATCHES:
        expected, found = plain.step(batch), ours.step(batch)
        assert found["distill/divergence_nats"] == expected["distill/divergence_nats"]
        assert found["grad_norm"] == expected["grad_norm"]  # a detached module is clipped apart
        assert found["mtp/nats"] > 0
        assert "mtp/nats" not in expected
    own, theirs = tensors(ours), tensors(plain)
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    module = own.keys() - theirs.keys()
    assert all(name.startswith(PREFIX) for name in module)
    for part in ("eh_proj", "enorm", "hnorm", "shared_head.norm"):
        trained = PREFIX + part + ".weight"
        assert not torch.equal(own[trained], start[trained]), trained


def test_the_module_learns_the_texts_while_the_student_learns_from_its_teacher(
    mtp_model: Path, teacher_folder: Path
):
    learner = taught_learner(mtp_model, Taught(FORWARD), teacher=teacher_folder, mtp={})
    first, *_, last = [learner.step(BATCHES[0]) for _ in range(8)]
    assert last["mtp/nats"] < first["mtp/nats"]
    assert last["distill/divergence_nats"] < first["distill/divergence_nats"]
    weight = 0.3 * last["mtp/nats"]
    assert last["loss"] == pytest.approx(last["distill/divergence_nats"] + weight, rel=1e-5)


def test_a_student_of_stored_opinions_has_a_module_too(mtp_model: Path, teacher: PreTrainedModel):
    batch = opinions(teacher, BATCHES[0])
    ours = taught_learner(mtp_model, Taught(FORWARD), mtp={})
    plain = taught_learner(mtp_model, Taught(FORWARD))
    found, expected = ours.step(batch), plain.step(batch)
    assert found["distill/divergence_nats"] == expected["distill/divergence_nats"]
    assert found["mtp/nats"] > 0
    own, theirs = tensors(ours), tensors(plain)
    assert all(torch.equal(own[name], value) for name, value in theirs.items())

"""Tests for grpo/taught_policy.py: what a batch holds of a teacher, against the teacher itself."""

from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from random_batches import random_batch
from taught_batches import (
    assert_same,
    by_definition,
    frozen,
    full_logprobs,
    gradients,
    opinions,
    taught,
    told,
    write_teacher,
)
from transformers import PreTrainedModel

from cotree.grpo.config_distill import Divergence, TopK
from cotree.grpo.divergence import Kind, truncation_bound
from cotree.grpo.models import load_model
from cotree.grpo.types import Batch, TaughtBatch

KINDS = get_args(Kind)
# Opinions of a batch are float32: 6e-8 of a log-probability of 10 is 6e-7, and a divergence
# averages such errors.
STORED = {"atol": 2e-6, "rtol": 0}


@pytest.fixture(scope="module")
def teacher_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tiny_model, tmp_path_factory.mktemp("teacher"), seed=1, sharpness=4.0)


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> PreTrainedModel:
    return frozen(teacher_folder)


@pytest.fixture
def student(tiny_model: Path) -> PreTrainedModel:
    return load_model(str(tiny_model), dtype="float64")


# --- opinions in the batch -------------------------------------------------------------------


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_that_names_every_token_is_as_good_as_the_teacher_itself(
    student, teacher, kind, temperature: float, packing: bool
):
    batch, settings = random_batch(0), Divergence(kind=kind, temperature=temperature)
    _, _, expected = taught(student, teacher=teacher, divergence=settings)(batch, 1.0)
    policy = taught(student, divergence=settings, packing=packing)
    _, _, divergence = policy(opinions(teacher, batch), 1.0)
    torch.testing.assert_close(divergence, expected, **STORED)
    whole = gradients(taught(student), (expected * batch.weights).sum())
    assert_same(gradients(policy, (divergence * batch.weights).sum()), whole, within=1e-5)


@pytest.mark.parametrize("most", [2, 8, 32])
def test_the_gradient_at_the_logits_is_within_the_truncation_bound(student, teacher, most: int):
    # The gradient with respect to a bias of the head is the sum of the logits' gradients over the
    # trained tokens, so with one of them it is that token's own.
    student.lm_head.bias = torch.nn.Parameter(torch.zeros(128, dtype=torch.float64))
    batch = random_batch(0)
    kept = opinions(teacher, batch, TopK(most=most, tail_mass=0.0))
    tails = kept.teacher_logprobs[..., -1].double().exp()
    gaps: list[float] = []
    bounds: list[float] = []
    for row, column in batch.mask.nonzero()[::5].tolist():
        one = torch.zeros_like(batch.mask)
        one[row, column] = True
        found = []
        for policy, source in ((taught(student, teacher=teacher), batch), (taught(student), kept)):
            _, _, divergence = policy(replace(source, mask=one), 1.0)
            found.append(torch.autograd.grad(divergence.sum(), student.lm_head.bias)[0])
        gaps.append(float((found[0] - found[1]).abs().sum()))
        bounds.append(float(truncation_bound(tails[row, column])))
    assert len(gaps) > 10
    for gap, bound in zip(gaps, bounds, strict=True):
        assert gap <= bound + 1e-6
    assert sum(gaps) > 0.05 * sum(bounds)  # the bound is not idle


@pytest.mark.parametrize("kind", KINDS)
def test_outcomes_are_ranges_of_the_order_they_were_made_for(student, kind):
    # Position by position, the vocabulary in a random order is cut into [0, 10), [40, 45), the
    # single place 90, an empty outcome, and the tail.
    batch, order = random_batch(3), torch.randperm(128, generator=torch.Generator().manual_seed(4))
    bounds = torch.tensor([[0, 10], [40, 45], [90, 91], [0, 0]], dtype=torch.int32)
    mass = torch.tensor([0.5, 0.2, 0.1, 0.0, 0.2])
    shape = batch.mask.shape
    given = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    source = TaughtBatch(
        **given,
        outcome_first=bounds[:, 0].expand(*shape, 4),
        outcome_end=bounds[:, 1].expand(*shape, 4),
        teacher_logprobs=mass.log().expand(*shape, 5),
    )
    q = full_logprobs(student, batch).exp()[..., order]
    parts = [q[..., 0:10], q[..., 40:45], q[..., 90:91]]
    masses = torch.stack([part.sum(-1) for part in parts], -1)
    student_mass = torch.cat([masses, 1 - masses.sum(-1, keepdim=True)], -1)
    settings = Divergence(kind=kind)
    expected = by_definition(
        kind,
        mass[[0, 1, 2, 4]].double().log().expand(*shape, 4),
        student_mass.log(),
        mix=settings.mixture,
        temperature=1.0,
    )

    _, _, divergence = taught(student, divergence=settings, order=order.tolist())(source, 1.0)

    torch.testing.assert_close(divergence, expected.where(batch.mask, 0.0), **STORED)
    _, _, unordered = taught(student, divergence=settings)(source, 1.0)
    assert float((unordered - divergence).detach().abs().max()) > 1e-2


def test_where_the_teacher_has_no_opinion_there_is_no_divergence(student, teacher):
    batch = random_batch(0)
    silent = opinions(teacher, batch)
    silent.teacher_logprobs[1] = -torch.inf
    silent.teacher_logprobs[0, 6] = -torch.inf
    policy = taught(student)
    logprobs, entropy, divergence = policy(silent, 1.0)
    _, _, whole = policy(opinions(teacher, batch), 1.0)
    heard = batch.mask.clone()
    heard[1] = heard[0, 6] = False
    assert torch.equal(divergence, whole * heard)
    assert bool((logprobs[batch.mask] < 0).all())
    assert bool((entropy[batch.mask] > 0).all())
    ours = gradients(policy, divergence.sum())
    theirs = gradients(policy, (policy(opinions(teacher, batch), 1.0)[2] * heard).sum())
    assert_same(ours, theirs, within=1e-12)


def test_a_batch_without_any_opinion_has_a_gradient_of_zero(student):
    batch = random_batch(0)
    nothing = told(batch, [None] * 6, vocab_size=128, keep=TopK())
    assert nothing.outcome_first.shape == (*batch.mask.shape, 0)
    policy = taught(student)
    _, _, divergence = policy(nothing, 1.0)
    assert not divergence.any()
    assert all(not gradient.any() for gradient in gradients(policy, divergence.sum()).values())


def test_a_teacher_of_whom_nothing_is_known_is_not_taken_for_one_that_agrees(student):
    assert taught(student)(random_batch(0), 1.0)[2] is None


@pytest.mark.parametrize("is_resident", [True, False])
def test_a_batch_without_trained_tokens_still_reaches_every_parameter(
    student, teacher, is_resident: bool
):
    batch = opinions(teacher, random_batch(3))
    batch.mask[:] = False
    policy = taught(student, teacher=teacher if is_resident else None)
    _, _, divergence = policy(batch, 1.0)
    divergence.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in student.parameters())

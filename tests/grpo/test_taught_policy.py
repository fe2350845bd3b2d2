"""Tests for grpo/taught_policy.py, in float64 against both models' own full logits."""

from dataclasses import replace
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
    scores_of,
    taught,
    write_teacher,
)
from transformers import PreTrainedModel, Qwen3Config, Qwen3ForCausalLM

from cotree.grpo.config_distill import Divergence
from cotree.grpo.divergence import FLOOR_NATS, Kind
from cotree.grpo.models import load_model
from cotree.grpo.policy import Policy
from cotree.grpo.taught_policy import ResidentModel
from cotree.grpo.token_scores import TokenScores

KINDS = get_args(Kind)
EXACT = {"atol": 1e-9, "rtol": 0}


@pytest.fixture(scope="module")
def teacher_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tiny_model, tmp_path_factory.mktemp("teacher"), seed=1, sharpness=4.0)


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> PreTrainedModel:
    return frozen(teacher_folder)


@pytest.fixture
def student(tiny_model: Path) -> PreTrainedModel:
    return load_model(str(tiny_model), dtype="float64")


# --- a resident teacher ----------------------------------------------------------------------


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropy_are_the_policys_with_or_without_a_teacher(
    student, teacher, packing: bool, temperature: float
):
    batch = random_batch(0)
    with torch.no_grad():
        logprobs, entropy = Policy(student, packing=packing)(batch, temperature)
        for asked in (teacher, None):
            ours, own_entropy, _ = taught(student, teacher=asked, packing=packing)(
                batch, temperature
            )
            torch.testing.assert_close(ours, logprobs, **EXACT)
            torch.testing.assert_close(own_entropy, entropy, **EXACT)


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_divergence_is_that_of_both_models_full_logits(
    student, teacher, kind, temperature: float, packing: bool
):
    batch = random_batch(0)
    settings = Divergence(kind=kind, temperature=temperature)
    with torch.no_grad():
        p, q = full_logprobs(teacher, batch), full_logprobs(student, batch)
        expected = by_definition(kind, p, q, mix=settings.mixture, temperature=temperature)
        policy = taught(student, teacher=teacher, divergence=settings, packing=packing)
        # The policy's own temperature does not reach the divergence.
        for sampling in (1.0, 0.7):
            _, _, divergence = policy(batch, sampling)
            torch.testing.assert_close(divergence, expected * batch.mask, **EXACT)
    assert float(expected[batch.mask].min()) > 0.1


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_full_logits_in_either_layout(
    student, teacher, kind, temperature: float
):
    batch, settings = random_batch(1), Divergence(kind=kind, temperature=temperature)
    nats = by_definition(
        kind,
        full_logprobs(teacher, batch),
        full_logprobs(student, batch),
        mix=settings.mixture,
        temperature=temperature,
    )
    plain = taught(student, teacher=teacher, divergence=settings)
    expected = gradients(plain, (nats * batch.weights).sum())
    for packing in (False, True):
        policy = taught(student, teacher=teacher, divergence=settings, packing=packing)
        _, _, divergence = policy(batch, 1.0)
        assert_same(gradients(policy, (divergence * batch.weights).sum()), expected, within=1e-7)


def test_the_teacher_is_no_part_of_what_is_trained(student, teacher_folder):
    teacher = load_model(str(teacher_folder), dtype="float64").train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    policy = taught(student, teacher=teacher, order=range(128))
    assert not teacher.training
    own = {id(parameter) for parameter in teacher.parameters()}
    assert not own & {id(parameter) for parameter in policy.parameters()}
    assert policy.state_dict().keys() == {f"model.{name}" for name in student.state_dict()}
    assert all(module is not teacher for module in policy.modules())

    _, _, divergence = policy(random_batch(0), 1.0)
    divergence.sum().backward()

    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    policy.train()
    assert not teacher.training


def test_a_teacher_that_is_the_student_has_nothing_to_teach(tiny_model, student):
    policy = taught(student, teacher=frozen(tiny_model))
    _, _, divergence = policy(random_batch(0), 1.0)
    assert float(divergence.detach().abs().max()) < 1e-12
    found = gradients(policy, divergence.sum())
    assert max(float(gradient.abs().max()) for gradient in found.values()) < 1e-10


def test_a_resident_models_logprobs_are_its_own_at_any_temperature(teacher):
    batch = random_batch(0)
    for packing in (False, True):
        model = ResidentModel(teacher, packing=packing)
        for temperature in (1.0, 0.5):
            scaled = torch.log_softmax(full_logprobs(teacher, batch) / temperature, -1)
            own = scaled.gather(-1, batch.token_ids[..., None])[..., 0] * batch.mask
            got = model.logprobs(batch, temperature=temperature)
            torch.testing.assert_close(got, own, **EXACT)


def test_autocast_rounds_the_student_and_not_its_teacher(tiny_model, teacher_folder):
    batch = random_batch(0)
    resident = ResidentModel(frozen(teacher_folder, dtype="float32"), packing=False)
    exact = resident.states(batch).hidden, resident.logprobs(batch, temperature=1.0)
    policy = taught(load_model(str(tiny_model), dtype="float32"), teacher=resident._network)
    unrounded = policy(batch, 1.0)[2]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resident.states(batch).hidden, exact[0])
        assert torch.equal(resident.logprobs(batch, temperature=1.0), exact[1])
        rounded = policy(batch, 1.0)[2]
    assert rounded.dtype == torch.float32
    assert 1e-4 < float((rounded - unrounded).detach().abs().max()) < 0.1


def test_a_bfloat16_teacher_is_compared_in_the_students_precision(student, teacher_folder):
    batch, rounded = random_batch(0), frozen(teacher_folder, dtype="bfloat16")
    _, _, divergence = taught(student, teacher=rounded)(batch, 1.0)
    assert divergence.dtype == torch.float64
    _, _, exact = taught(student, teacher=frozen(teacher_folder))(batch, 1.0)
    assert 1e-4 < float((divergence - exact).abs().max()) < 0.2


# --- tables of other sizes -------------------------------------------------------------------


def lumped(logprobs: torch.Tensor, common: int) -> torch.Tensor:
    """Probabilities of the first tokens, and of all others together."""
    p = logprobs.exp()
    return torch.cat([p[..., :common], p[..., common:].sum(-1, keepdim=True)], -1)


def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """KL(a || b) with 0 log 0 = 0, and log b never below the floor."""
    return (torch.xlogy(a, a) - a * b.log().clamp(min=FLOOR_NATS)).sum(-1)


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("rows", [144, 100])
def test_rows_beyond_the_shorter_table_are_one_outcome(
    tiny_model, tmp_path, student, kind, rows: int
):
    # 144: the teacher's table is padded further than the student's 128; 100: less far.
    folder = write_teacher(tiny_model, tmp_path, seed=2, sharpness=2.0, vocab_size=rows)
    teacher, batch, common = frozen(folder), random_batch(0), min(rows, 128)
    assert teacher.config.vocab_size == rows
    settings = Divergence(kind=kind)
    p = lumped(full_logprobs(teacher, batch), common)
    q = lumped(full_logprobs(student, batch), common)
    m = (p + q) / 2
    nats = {"forward_kl": kl(p, q), "reverse_kl": kl(q, p), "jsd": (kl(p, m) + kl(q, m)) / 2}[kind]
    policy = taught(student, teacher=teacher, divergence=settings)

    _, _, divergence = policy(batch, 1.0)

    torch.testing.assert_close(divergence, nats * batch.mask, **EXACT)
    lump = (p if rows == 144 else q)[batch.mask][:, -1]
    assert float(lump.min()) > 1e-3  # there is something beyond the shorter table
    assert all(
        gradient.isfinite().all() for gradient in gradients(policy, divergence.sum()).values()
    )


# --- chunks ---------------------------------------------------------------------------------


def _wide(seed: int) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
        settings = Qwen3Config(
            vocab_size=1 << 18,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            initializer_range=0.3,
            tie_word_embeddings=True,
            **sizes,
        )
        return Qwen3ForCausalLM(settings)


@pytest.mark.slow
def test_the_tokens_of_every_chunk_meet_their_own_opinion():
    # With 2^18 tokens a chunk has 2^26 / 2^18 / 4 = 64 positions beside a resident teacher: the
    # batch takes three of them, each of its rows by itself one.
    student, teacher = _wide(0), _wide(1).eval()
    batch = random_batch(0, rows=12)
    assert 128 < batch.num_tokens < 192
    policy = taught(student, teacher=teacher)
    with torch.no_grad():
        whole = policy(batch, 1.0)
        for row in range(12):
            names = ("token_ids", "lengths", "mask", "behavior_logprobs", "advantages", "weights")
            one = replace(batch, **{name: getattr(batch, name)[row : row + 1] for name in names})
            for ours, alone in zip(whole, policy(one, 1.0), strict=True):
                torch.testing.assert_close(ours[row : row + 1], alone, atol=1e-4, rtol=1e-4)


def test_scores_are_what_the_teacher_says(teacher):
    # The tests above rest on it: token by token, the likeliest first.
    batch = random_batch(0)
    request, scores = scores_of(teacher, batch)[0]
    assert isinstance(scores, TokenScores)
    assert request.prompt_ids + request.token_ids == tuple(batch.token_ids[0].tolist())
    with torch.no_grad():
        own = full_logprobs(teacher, batch)[0, 4:]
    assert (torch.tensor(scores.top_ids[:, 0]) == own.argmax(-1)).all()
    chosen = own.gather(-1, batch.token_ids[0, 4:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(scores.logprobs).double(), chosen, atol=1e-5, rtol=0)

"""Tests for grpo/learner.py under a teacher: resident, or known from what a store has of it."""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from deepseek_models import ALPHABET, UNGROUPED
from random_batches import KL, largest_gap, make_learner, random_batch, tensors, train_config
from safetensors.torch import load_file
from taught_batches import (
    frozen,
    full_logprobs,
    heard,
    steps,
    taught_learner,
    write_teacher,
)

from cotree.grpo import config
from cotree.grpo.config_distill import Divergence
from cotree.grpo.models import create_model, load_model
from cotree.grpo.objective import Taught
from cotree.grpo.types import Batch, TaughtBatch

# As in test_learner.py: float32 sums in another order, against steps of 1e-2.
SAME = 2e-5
LORA = config.Lora(rank=4, alpha=8.0)
FORWARD = Taught(Divergence())
WITH_TRAIN = Taught(
    Divergence(kind="reverse_kl"), coef=0.5, train=train_config(kl=KL, updates_per_step=2)
)


@pytest.fixture(scope="module")
def teacher(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_teacher(tiny_model, tmp_path_factory.mktemp("teacher"), seed=1, sharpness=6.0)


def plain(number: int = 2) -> list[Batch]:
    return [random_batch(seed) for seed in range(number)]


def partly_heard(teacher: Path, batches: Sequence[Batch]) -> list[TaughtBatch]:
    """Two rows of each batch, the longest among them, and a single token have no opinion."""
    made = [heard(teacher, batch, silent=(0, 3)) for batch in batches]
    for batch in made:
        batch.teacher_logprobs[1, 5] = -torch.inf
    return made


# --- what a step does ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_the_loss_of_a_step_is_the_mean_divergence_and_falls(tiny_model, teacher, kind):
    batch = random_batch(0)
    with torch.no_grad():
        p = full_logprobs(frozen(teacher), batch)
        q = full_logprobs(load_model(str(tiny_model), dtype="float64"), batch)
    m = (p.exp() + q.exp()) / 2
    nats = {
        "forward_kl": (p.exp() * (p - q)).sum(-1),
        "jsd": ((p.exp() * (p - m.log())).sum(-1) + (q.exp() * (q - m.log())).sum(-1)) / 2,
    }[kind]
    learner = taught_learner(tiny_model, Taught(Divergence(kind=kind)), teacher=teacher)

    measured = steps(learner, [batch] * 5)

    expected = float(nats[batch.mask].mean())
    assert measured[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert measured[0]["distill/divergence_nats"] == pytest.approx(expected, rel=1e-5)
    assert measured[0]["tokens"] == batch.num_tokens
    assert "ratio_max" not in measured[0]
    assert measured[-1]["loss"] < 0.9 * measured[0]["loss"]


def test_the_loss_with_a_policy_gradient_is_the_sum_of_both(tiny_model, teacher):
    batch, train = random_batch(0), train_config(rollout={"temperature": 0.7})
    alone = make_learner(tiny_model, train=train).step(batch)
    divergence = taught_learner(tiny_model, FORWARD, teacher=teacher).step(batch)
    both = taught_learner(
        tiny_model, Taught(Divergence(), coef=0.5, train=train), teacher=teacher
    ).step(batch)
    assert both["loss"] == pytest.approx(alone["loss"] + 0.5 * divergence["loss"], rel=1e-5)
    for name in ("distill/divergence_nats", "tokens"):
        assert both[name] == pytest.approx(divergence[name], rel=1e-6)
    for name in ("entropy_nats", "mismatch/kl_nats", "correction/mean_weight"):
        assert both[name] == pytest.approx(alone[name], rel=1e-6)


def test_cross_entropy_joins_with_its_weight(tiny_model, teacher):
    batch = random_batch(0)
    texts = taught_learner(tiny_model, "sft").step(batch)["loss"]
    divergence = taught_learner(tiny_model, FORWARD, teacher=teacher).step(batch)["loss"]
    objective = Taught(Divergence(), cross_entropy_coef=0.3)
    both = taught_learner(tiny_model, objective, teacher=teacher).step(batch)["loss"]
    assert both == pytest.approx(divergence + 0.3 * texts, rel=1e-5)


def test_a_batch_without_opinions_and_no_teacher_is_refused(tiny_model):
    with pytest.raises(ValueError, match="this batch has no opinions"):
        taught_learner(tiny_model, FORWARD).step(random_batch(0))


@pytest.mark.parametrize("objective", [FORWARD, WITH_TRAIN], ids=["alone", "with_train"])
def test_prefixes_cannot_be_shared_under_a_teacher(tiny_model, teacher, objective):
    # Opinions belong to rows, and the rows are laid out anew: they would be lost without a word.
    with pytest.raises(ValueError, match=r"share_prefixes does not know a teacher's divergence"):
        taught_learner(tiny_model, objective, teacher=teacher, share_prefixes=True)


def test_bfloat16_is_close_to_float32(tiny_model, teacher):
    exact, rounded = (
        steps(taught_learner(tiny_model, FORWARD, teacher=teacher, dtype=dtype), plain(1))[0]
        for dtype in ("float32", "bfloat16")
    )
    for name in ("loss", "grad_norm", "entropy_nats"):
        assert rounded[name] == pytest.approx(exact[name], rel=0.03), name


# --- however a batch is cut ------------------------------------------------------------------

CUTS = [
    {"micro_batch_tokens": 50},
    {"micro_batch_tokens": 1},  # every row alone
    {"packing": True, "micro_batch_tokens": 60},
    {"gradient_checkpointing": True},
]


@pytest.mark.parametrize("objective", [FORWARD, WITH_TRAIN], ids=["alone", "with_train"])
@pytest.mark.parametrize("is_resident", [True, False], ids=["resident", "told"])
def test_the_way_a_batch_is_cut_does_not_change_the_weights(
    tiny_model, teacher, is_resident: bool, objective: Taught
):
    batches = plain() if is_resident else partly_heard(teacher, plain())
    asked = teacher if is_resident else None
    whole = taught_learner(tiny_model, objective, teacher=asked)
    start = tensors(whole)
    expected = steps(whole, batches)
    assert largest_gap(tensors(whole), start) > 100 * SAME
    for cut in CUTS:
        learner = taught_learner(tiny_model, objective, teacher=asked, **cut)
        measured = steps(learner, batches)
        assert largest_gap(tensors(learner), tensors(whole)) < SAME, cut
        for ours, theirs in zip(measured, expected, strict=True):
            for name in theirs.keys() - {"seconds"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


def test_the_same_steps_give_the_same_bits(tiny_model, teacher):
    for asked, batches in ((teacher, plain()), (None, partly_heard(teacher, plain()))):
        first, second = (taught_learner(tiny_model, WITH_TRAIN, teacher=asked) for _ in range(2))
        steps(first, batches)
        steps(second, batches)
        assert first.weights().digests == second.weights().digests


# --- the teacher is asked, rows are valued ---------------------------------------------------


def test_logprobs_of_the_teacher_are_its_own_and_do_not_change(tiny_model, teacher):
    learner = taught_learner(tiny_model, FORWARD, teacher=teacher, packing=True)
    sequences, first = [[5, 9, 7, 30], [8, 8, 40, 41, 42, 3]], [1, 4]
    model = frozen(teacher, dtype="float32")

    def asked() -> list[list[list[float]]]:
        return [
            learner.logprobs(sequences, first, temperature=temperature, of="teacher")
            for temperature in (1.0, 0.5)
        ]

    before = asked()
    for temperature, scored in zip((1.0, 0.5), before, strict=True):
        for ids, start, ours in zip(sequences, first, scored, strict=True):
            full = torch.log_softmax(model(torch.tensor([ids])).logits[0] / temperature, -1)
            theirs = [float(full[t - 1, ids[t]]) for t in range(start, len(ids))]
            assert ours == pytest.approx(theirs, abs=1e-5)
    policy = learner.logprobs(sequences, first)
    alone = make_learner(tiny_model, packing=True).logprobs(sequences, first)
    for ours, theirs, others in zip(policy, alone, before[0], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)
        assert ours != pytest.approx(others, abs=0.1)
    steps(learner, plain())
    assert asked() == before


@pytest.mark.parametrize(
    "settings", [{}, {"lora": LORA}, {"packing": True, "gradient_checkpointing": True}], ids=str
)
def test_values_of_rows_are_autograds_and_the_next_steps_stay_the_same_bits(tiny_model, settings):
    learner, untouched = (taught_learner(tiny_model, "sft", **settings) for _ in range(2))
    steps(learner, plain(1))
    steps(untouched, plain(1))
    batch = random_batch(5)
    optimizer = copy.deepcopy(learner._optimizer.state_dict())

    values = learner.row_values(batch)

    assert all(p.grad is None for p in learner._parameters.values())
    torch.testing.assert_close(learner._optimizer.state_dict(), optimizer, atol=0, rtol=0)
    assert learner.weights().digests == untouched.weights().digests
    logprobs = full_logprobs(learner._model, batch)
    for row, value in enumerate(values):
        own = logprobs[row][batch.mask[row]]
        loss = -own.gather(-1, batch.token_ids[row][batch.mask[row], None]).mean()
        found = torch.autograd.grad(loss, list(learner._parameters.values()), retain_graph=True)
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in found))
        assert value.gradient_norm == pytest.approx(norm, rel=1e-4)
        entropy = -(own.exp() * own).sum(-1).mean()
        assert value.entropy == pytest.approx(float(entropy.detach()), rel=1e-5)
    steps(learner, plain(2))
    steps(untouched, plain(2))
    assert learner.weights().digests == untouched.weights().digests


# --- checkpoints and adapters ----------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"lora": LORA}], ids=["full", "lora"])
@pytest.mark.parametrize("is_resident", [True, False], ids=["resident", "told"])
def test_a_resumed_run_ends_in_the_same_bits(
    tiny_model, teacher, tmp_path, is_resident: bool, settings
):
    batches = plain(4) if is_resident else partly_heard(teacher, plain(4))
    asked = teacher if is_resident else None
    uninterrupted = taught_learner(tiny_model, WITH_TRAIN, teacher=asked, **settings)
    steps(uninterrupted, batches[:2])
    uninterrupted.save(tmp_path)
    steps(uninterrupted, batches[2:])

    resumed = taught_learner(tiny_model, WITH_TRAIN, teacher=asked, **settings)
    steps(resumed, batches[3:])
    resumed.load(tmp_path)
    steps(resumed, batches[2:])

    assert resumed.policy_version() == uninterrupted.policy_version() == 4
    assert resumed.weights().digests == uninterrupted.weights().digests


def test_a_checkpoint_holds_the_student_and_nothing_of_its_teacher(tiny_model, teacher, tmp_path):
    under, alone = (
        taught_learner(tiny_model, objective, teacher=asked)
        for objective, asked in ((FORWARD, teacher), ("sft", None))
    )
    under.save(tmp_path / "under")
    alone.save(tmp_path / "alone")
    ours, theirs = (
        load_file(tmp_path / name / "model" / "model.safetensors") for name in ("under", "alone")
    )
    assert largest_gap(ours, theirs) == 0.0
    alone.load(tmp_path / "under")
    assert alone.weights().digests == under.weights().digests


@pytest.mark.parametrize("objective", [FORWARD, WITH_TRAIN], ids=["alone", "with_train"])
def test_with_adapters_only_they_move(tiny_model, teacher, objective):
    learner = taught_learner(tiny_model, objective, teacher=teacher, lora=LORA)
    # Layers of q, k, v, o, gate, up, down: A and B of each of two layers.
    assert len(learner._parameters) == 2 * 7 * 2
    assert all("lora_" in name for name in learner._parameters)
    before = {name: value.clone() for name, value in learner._model.state_dict().items()}
    measured = steps(learner, [random_batch(0)] * 3)
    moved = {
        name
        for name, value in learner._model.state_dict().items()
        if not torch.equal(value, before[name])
    }
    assert moved == learner._parameters.keys()
    assert measured[-1]["loss"] < measured[0]["loss"]


# --- a mixture of experts --------------------------------------------------------------------


def test_experts_are_counted_and_balanced_as_without_a_teacher(tmp_path):
    # The teacher has routers too; they are none of the student's.
    sizes = UNGROUPED.model_copy(update={"layers": 2})
    for seed, name in enumerate(("student", "teacher")):
        create_model(sizes, tmp_path / name, alphabet=ALPHABET, seed=seed)
    batch = random_batch(0, vocab=24)
    found = []
    for objective, asked in (("sft", None), (FORWARD, tmp_path / "teacher")):
        learner = taught_learner(
            tmp_path / "student",
            objective,
            teacher=asked,
            expert_bias_rate=0.1,
            micro_batch_tokens=50,
            gradient_checkpointing=True,
        )
        stats = learner.step(batch)
        gates = {
            name: value
            for name, value in learner._model.state_dict().items()
            if name.endswith("e_score_correction_bias")
        }
        found.append((stats["experts/max_violation"], stats["experts/idle_frac"], gates))
    (*sft, sft_biases), (*taught, taught_biases) = found
    assert taught == sft
    assert largest_gap(taught_biases, sft_biases) == 0.0
    assert any(value.any() for value in taught_biases.values())

"""Tests for grpo/precision.py: schedules, loss scales, and learners in each arithmetic."""

from pathlib import Path

import pytest
import torch
from random_batches import KL, make_learner, random_batch, tensors, train_config

from cotree.grpo import config
from cotree.grpo.config_learner import Float16, ScheduledPrecision
from cotree.grpo.fp8_layers import Fp8Layers
from cotree.grpo.learner import Learner
from cotree.grpo.precision import Arithmetic, LossScale

BLOCK = {"type": "fp8_block"}


def learner_in(tiny_model: Path, precision: dict[str, object], **settings: object) -> Learner:
    return make_learner(tiny_model, precision=precision, **settings)


def moved(learner: Learner, steps: range = range(1)) -> dict[str, torch.Tensor]:
    for seed in steps:
        learner.step(random_batch(seed))
    return tensors(learner)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- the scale of a loss ---------------------------------------------------------------------


def test_a_scale_halves_at_an_overflow_and_doubles_after_enough_good_updates():
    scale = LossScale(Float16(initial_scale=8.0, growth_interval=2))
    assert scale.shrink()
    assert scale.value == 4.0
    for value in (4.0, 8.0, 8.0, 16.0):  # doubles with every second one
        scale.passed()
        assert scale.value == value


def test_an_overflow_starts_the_count_again():
    scale = LossScale(Float16(initial_scale=8.0, growth_interval=2))
    scale.passed()
    scale.shrink()
    scale.passed()
    assert scale.value == 4.0


def test_a_scale_of_one_cannot_be_the_cause():
    scale = LossScale(Float16(initial_scale=1.5))
    assert scale.shrink()
    assert scale.value == 1.0
    assert not scale.shrink()


def test_a_scale_goes_on_where_it_was():
    one, other = (LossScale(Float16(initial_scale=8.0, growth_interval=3)) for _ in range(2))
    one.shrink()
    one.passed()
    one.passed()
    other.restore(one.state())
    one.passed()
    other.passed()
    assert one.state() == other.state() == (8.0, 0)


def test_the_phase_of_an_update_is_the_last_that_has_begun():
    phases = [
        {"first_update": 0, "precision": {"type": "float32"}},
        {"first_update": 3, "precision": {"type": "bfloat16"}},
        {"first_update": 5, "precision": BLOCK},
    ]
    schedule = ScheduledPrecision.model_validate({"phases": phases})
    arithmetic = Arithmetic(schedule, Fp8Layers({}, {}), torch.device("cpu"), total_updates=100)
    found = [arithmetic.phase(update).precision.type for update in (0, 2, 3, 4, 5, 99)]
    assert found == ["float32", "float32", "bfloat16", "bfloat16", "fp8_block", "fp8_block"]


# --- learners --------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [BLOCK, {"type": "float16"}], ids=["fp8", "float16"])
def test_a_step_in_low_precision_repeats_to_the_bit_and_is_near_float32s(
    tiny_model: Path, precision: dict[str, object]
):
    exact = learner_in(tiny_model, {"type": "float32"}).step(random_batch(0))
    one, other = (learner_in(tiny_model, precision) for _ in range(2))
    stats = one.step(random_batch(0))
    other.step(random_batch(0))
    assert same(tensors(one), tensors(other))
    # Per-token log-probabilities of e4m3 products are off by a few per cent of a nat here.
    assert stats["loss"] == pytest.approx(exact["loss"], abs=0.05)
    assert stats["grad_norm"] == pytest.approx(exact["grad_norm"], rel=0.1)
    assert stats["loss"] != exact["loss"]


def test_float16_gradients_are_those_of_float32_whatever_the_scale(tiny_model: Path):
    norms = {
        scale: learner_in(tiny_model, {"type": "float16", "initial_scale": scale}).step(
            random_batch(0)
        )["grad_norm"]
        for scale in (1.0, 1024.0)
    }
    exact = learner_in(tiny_model, {"type": "float32"}).step(random_batch(0))["grad_norm"]
    # float16 has 11 significant bits: products are off by 2^-11 each.
    assert all(norm == pytest.approx(exact, rel=0.01) for norm in norms.values())


def test_an_overflow_skips_the_update_and_the_next_one_counts(tiny_model: Path):
    # 2^24 times a gradient of about 1 is past float16's largest number, 65504.
    learner = learner_in(tiny_model, {"type": "float16", "initial_scale": 2.0**24})
    before = tensors(learner)
    stats = learner.step(random_batch(0))
    assert stats["precision/skipped"] == 1.0
    assert "grad_norm" not in stats
    assert stats["precision/loss_scale"] == 2.0**24
    assert same(before, tensors(learner))
    assert learner.policy_version() == 1
    seen = [learner.step(random_batch(1)) for _ in range(20)]
    assert [s["precision/loss_scale"] for s in seen[:2]] == [2.0**23, 2.0**22]
    assert seen[-1]["precision/skipped"] == 0.0
    assert not same(before, tensors(learner))


@pytest.mark.parametrize(
    "precision", [BLOCK, {"type": "float16", "growth_interval": 2}], ids=["fp8", "float16"]
)
def test_a_resumed_run_goes_on_to_the_bit(
    tiny_model: Path, tmp_path: Path, precision: dict[str, object]
):
    whole = learner_in(tiny_model, precision)
    moved(whole, range(3))
    whole.save(tmp_path)
    resumed = learner_in(tiny_model, precision)
    resumed.load(tmp_path)
    assert same(moved(whole, range(3, 5)), moved(resumed, range(3, 5)))


def test_a_schedule_computes_each_phase_as_the_precision_alone_would(
    tiny_model: Path, tmp_path: Path
):
    phases = [
        {"first_update": 0, "precision": {"type": "float32"}},
        {"first_update": 1, "precision": BLOCK},
    ]
    scheduled = learner_in(tiny_model, {"type": "schedule", "phases": phases})
    plain = learner_in(tiny_model, {"type": "float32"})
    assert same(moved(scheduled), moved(plain))
    plain.save(tmp_path)
    block = learner_in(tiny_model, BLOCK)
    block.load(tmp_path)
    assert same(moved(scheduled, range(1, 2)), moved(block, range(1, 2)))


def test_a_phase_that_would_never_begin_is_an_error(tiny_model: Path):
    phases = [
        {"first_update": 0, "precision": {"type": "float32"}},
        {"first_update": 10, "precision": BLOCK},  # of 10
    ]
    with pytest.raises(ValueError, match="a phase from update 10 on, but this stage ends after 10"):
        learner_in(tiny_model, {"type": "schedule", "phases": phases})


@pytest.mark.parametrize("precision", [{"type": "bfloat16"}, BLOCK], ids=["bfloat16", "fp8"])
def test_a_reference_computes_as_the_policy_so_that_they_part_from_zero(
    tiny_model: Path, precision: dict[str, object]
):
    learner = learner_in(tiny_model, precision, train=train_config(kl=KL))
    assert learner.step(random_batch(0))["kl_ref_nats"] == pytest.approx(0.0, abs=1e-9)
    assert learner.step(random_batch(0))["kl_ref_nats"] > 1e-6


def test_recomputed_layers_follow_the_recipe_of_the_first_time(tiny_model: Path):
    # The backward pass computes them again, when no context of the forward is left.
    stored = moved(learner_in(tiny_model, BLOCK))
    recomputed = moved(learner_in(tiny_model, BLOCK, gradient_checkpointing=True))
    assert same(stored, recomputed)


def test_adapters_train_beside_frozen_layers_in_fp8(tiny_model: Path):
    learner = learner_in(tiny_model, BLOCK, lora=config.Lora(rank=4))
    before = tensors(learner)
    stats = learner.step(random_batch(0))
    after = tensors(learner)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all("proj" in name for name in changed)
    assert stats["grad_norm"] > 0


def test_fp8_scores_of_a_token_do_not_depend_on_its_batch(tiny_model: Path):
    # Activations are scaled token by token.
    learner = learner_in(tiny_model, BLOCK)
    ids = [3, 9, 27, 14, 5, 40]
    alone = learner.logprobs([ids], [1])[0]
    longer = learner.logprobs([[*ids, 7, 8]], [1])[0]
    assert longer[: len(alone)] == pytest.approx(alone, abs=1e-6)

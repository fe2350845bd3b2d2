"""Tests for grpo/learner.py: one process, a real tiny model. Two processes: test_sharding.py."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from random_batches import KL, largest_gap, make_learner, random_batch, tensors, train_config
from safetensors.torch import load_file

from cotree.grpo import config
from cotree.grpo.collate import shard
from cotree.grpo.learner import Learner, NonFiniteError
from cotree.grpo.models import load_model
from cotree.grpo.policy import policy_logprobs

# float32 sums in another order: about 1e-6 after two steps; 1 % of one step of 1e-2 is 1e-4.
SAME = 2e-5
LORA = config.Lora(rank=4, alpha=8.0)


def _steps(learner: Learner, seeds: range) -> Learner:
    for seed in seeds:
        learner.step(random_batch(seed))
    return learner


@pytest.fixture(scope="module")
def two_steps(tiny_model: Path) -> dict[str, torch.Tensor]:
    """Weights after two steps, each batch in one piece."""
    return tensors(_steps(make_learner(tiny_model), range(2)))


@pytest.mark.parametrize(
    "cut",
    [
        {"micro_batch_tokens": 50},
        {"micro_batch_tokens": 1},  # every row alone
        {"packing": True},
        {"packing": True, "micro_batch_tokens": 60},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_the_way_a_batch_is_cut_does_not_change_the_weights(tiny_model, two_steps, cut):
    assert largest_gap(tensors(_steps(make_learner(tiny_model, **cut), range(2))), two_steps) < SAME


def test_the_same_steps_give_the_same_bits(tiny_model, two_steps):
    assert largest_gap(tensors(_steps(make_learner(tiny_model), range(2))), two_steps) == 0.0


def test_two_steps_move_the_weights_far_more_than_the_tolerance(tiny_model, two_steps):
    assert largest_gap(tensors(make_learner(tiny_model)), two_steps) > 100 * SAME


def test_one_step_is_adamw_on_the_exact_gradient(tiny_model):
    # Reference: autograd through transformers' own full logits in float64, then AdamW's first
    # update by hand: m = (1-b1) g, v = (1-b2) g^2, both bias-corrected to g and g^2, so
    # w' = w (1 - lr wd) - lr g / (|g| + eps), after clipping g to norm 1.
    learner = make_learner(tiny_model, train=train_config(correction={"type": "none"}))
    batch = random_batch(0)
    model = load_model(str(tiny_model), dtype="float64")
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(batch.lengths.tolist()):
        logits = model(batch.token_ids[row : row + 1, :length]).logits[0]
        for t in range(4, length):
            logprob = torch.log_softmax(logits[t - 1], -1)[batch.token_ids[row, t]]
            # On-policy ratio 1, no clip: the surrogate's gradient is -A dlogprob.
            total = total - batch.advantages[row, t].double() * logprob / batch.num_tokens
    total.backward()
    parameters = dict(model.named_parameters())
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in parameters.values()))
    rate = 0.01 * 1 / 2  # first of two warm-up updates

    stats = learner.step(batch)

    assert stats["grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert stats["learning_rate"] == pytest.approx(rate)
    after = tensors(learner)
    for name, parameter in parameters.items():
        gradient = parameter.grad / max(1.0, norm)
        decay = 0.01 if parameter.ndim >= 2 else 0.0
        expected = parameter.detach() * (1 - rate * decay) - rate * gradient / (
            gradient.abs() + 1e-3
        )
        torch.testing.assert_close(after[name].double(), expected, atol=2e-6, rtol=0)


def test_statistics_of_a_step_have_their_names_and_follow_from_the_batch(tiny_model):
    learner = make_learner(tiny_model, train=train_config(kl=KL), micro_batch_tokens=50)
    batch = random_batch(0)
    model = load_model(str(tiny_model), dtype="float32")
    with torch.no_grad():
        logprobs, entropy = policy_logprobs(model, batch, temperature=1.0, packing=False)
    mismatch = (logprobs - batch.behavior_logprobs)[batch.mask].double()

    stats = learner.step(batch)

    expected = {
        "tokens": batch.num_tokens,
        "entropy_nats": float(entropy.sum()) / batch.num_tokens,
        "mismatch/mean_abs_nats": float(mismatch.abs().mean()),
        "mismatch/max_abs_nats": float(mismatch.abs().max()),
        "mismatch/kl_nats": -float(mismatch.mean()),
        "mismatch/kl_k3_nats": float((mismatch.exp() - 1 - mismatch).mean()),
        "correction/mean_weight": float(mismatch.exp().clamp(max=2.0).mean()),
        "ratio_max": 1.0,  # one update per step: old is the present policy
        "clip_frac": 0.0,
        "kl_ref_nats": 0.0,  # the first step starts at the reference
    }
    for name, value in expected.items():
        assert stats[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert {"loss", "grad_norm", "learning_rate", "seconds"} <= stats.keys()
    assert learner.step(batch)["kl_ref_nats"] > 1e-4


def test_several_updates_per_step_are_one_version_and_their_ratios_leave_one(tiny_model):
    learner = make_learner(tiny_model, train=train_config(updates_per_step=3))
    stats = learner.step(random_batch(0))
    assert learner.policy_version() == 1
    assert stats["learning_rate"] == pytest.approx(0.01)  # the third update; warm-up took two
    assert stats["ratio_max"] > 1.001
    assert stats["tokens"] == random_batch(0).num_tokens


def test_the_penalty_pulls_towards_the_reference(tiny_model):
    start = tensors(make_learner(tiny_model))
    distance = {}
    for name, kl in {"free": None, "held": {"coef": 50.0}}.items():
        learner = make_learner(tiny_model, train=train_config(kl=kl))
        _steps(learner, range(6))
        distance[name] = sum(
            float(((now - start[key]) ** 2).sum()) for key, now in tensors(learner).items()
        )
    assert distance["held"] < distance["free"]


def test_sft_loss_is_the_mean_cross_entropy_and_falls(tiny_model):
    spec = replace(make_learner(tiny_model)._spec, objective="sft")
    learner, batch = Learner(spec), random_batch(0)
    with torch.no_grad():
        logprobs, _ = policy_logprobs(
            load_model(str(tiny_model), dtype="float32"), batch, temperature=1.0, packing=False
        )
    losses = [learner.step(batch)["loss"] for _ in range(5)]
    assert losses[0] == pytest.approx(-float(logprobs.sum()) / batch.num_tokens, rel=1e-5)
    assert losses[-1] < losses[0] - 0.1


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_a_loss_that_is_not_finite_raises_and_leaves_the_weights_untouched(tiny_model, value):
    learner = _steps(make_learner(tiny_model), range(1))
    before, batch = tensors(learner), random_batch(1)
    batch.advantages[0, 5] = value
    with pytest.raises(NonFiniteError, match="the optimizer did not move"):
        learner.step(batch)
    assert learner.policy_version() == 1
    assert largest_gap(tensors(learner), before) == 0.0
    # The failed gradient is gone as well: the next step is the one it would have been.
    expected = tensors(_steps(make_learner(tiny_model), range(2)))
    assert largest_gap(tensors(_steps(learner, range(1, 2))), expected) == 0.0


def test_an_empty_batch_is_refused(tiny_model):
    with pytest.raises(ValueError, match="no rows"):
        make_learner(tiny_model).step(shard(random_batch(0, rows=1), rank=1, world_size=2))


def test_bfloat16_is_close_to_float32_and_keeps_float32_weights(tiny_model):
    learner = _steps(make_learner(tiny_model, dtype="bfloat16"), range(2))
    assert all(p.dtype == torch.float32 for p in learner._parameters.values())
    ids = random_batch(0).token_ids[0].tolist()
    exact = make_learner(tiny_model).logprobs([ids], [1])[0]
    rounded = make_learner(tiny_model, dtype="bfloat16").logprobs([ids], [1])[0]
    gaps = [abs(a - b) for a, b in zip(exact, rounded, strict=True)]
    assert 0 < max(gaps) < 0.2


def test_logprobs_of_sequences_are_those_of_the_model(tiny_model):
    learner = make_learner(tiny_model, packing=True)
    sequences, first = [[5, 9, 7, 30], [8, 8, 40, 41, 42, 3]], [1, 4]
    model = load_model(str(tiny_model), dtype="float32")
    for temperature in (1.0, 0.5):
        scored = learner.logprobs(sequences, first, temperature=temperature)
        for ids, start, ours in zip(sequences, first, scored, strict=True):
            with torch.no_grad():
                full = torch.log_softmax(model(torch.tensor([ids])).logits[0] / temperature, -1)
            theirs = [float(full[t - 1, ids[t]]) for t in range(start, len(ids))]
            assert ours == pytest.approx(theirs, abs=1e-5)


# --- checkpoints -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings", [{}, {"dtype": "bfloat16"}, {"lora": LORA}], ids=["full", "bfloat16", "lora"]
)
def test_a_resumed_run_ends_in_the_same_bits(tiny_model, tmp_path, settings):
    train = train_config(kl=KL, updates_per_step=2)
    uninterrupted = make_learner(tiny_model, train=train, **settings)
    _steps(uninterrupted, range(2)).save(tmp_path)
    _steps(uninterrupted, range(2, 4))

    resumed = _steps(make_learner(tiny_model, train=train, **settings), range(7, 8))
    resumed.load(tmp_path)
    assert resumed.policy_version() == 2
    _steps(resumed, range(2, 4))

    assert resumed.policy_version() == uninterrupted.policy_version() == 4
    assert resumed.weights().digests == uninterrupted.weights().digests


def test_a_checkpoint_taken_before_the_first_step_restores_the_start(tiny_model, tmp_path):
    learner = make_learner(tiny_model)
    learner.save(tmp_path)
    moved = _steps(make_learner(tiny_model), range(1))
    moved.load(tmp_path)
    assert largest_gap(tensors(_steps(moved, range(2))), tensors(_steps(learner, range(2)))) == 0.0


def test_a_saved_model_loads_with_transformers_and_is_the_policy(tiny_model, tmp_path):
    learner = _steps(make_learner(tiny_model), range(2))
    learner.save(tmp_path)
    batch = random_batch(9)
    with torch.no_grad():
        logprobs, _ = policy_logprobs(
            load_model(str(tmp_path / "model"), dtype="float32"),
            batch,
            temperature=1.0,
            packing=False,
        )
    ids = batch.token_ids[0].tolist()
    assert learner.logprobs([ids], [4])[0] == pytest.approx(logprobs[0, 4:].tolist(), abs=1e-6)
    assert (tmp_path / "model" / "tokenizer.json").is_file()


def test_a_checkpoint_of_another_setting_is_refused(tiny_model, tmp_path):
    make_learner(tiny_model).save(tmp_path / "full")
    with pytest.raises(ValueError, match="another model or LoRA setting"):
        make_learner(tiny_model, lora=LORA).load(tmp_path / "full")
    with pytest.raises(FileNotFoundError, match="not a checkpoint"):
        make_learner(tiny_model).load(tmp_path)


# --- adapters --------------------------------------------------------------------------------


def test_adapters_train_and_their_merged_weights_are_the_policy(tiny_model, tmp_path):
    learner = make_learner(tiny_model, lora=LORA, train=train_config(kl=KL))
    start = tensors(make_learner(tiny_model))
    assert largest_gap(tensors(learner), start) == 0.0  # B starts at zero
    _steps(learner, range(2))
    learner.save(tmp_path)

    merged = load_file(tmp_path / "model" / "model.safetensors")
    assert merged.keys() == start.keys()
    changed = {name for name in start if not torch.equal(merged[name], start[name])}
    # 2 layers of q, k, v, o, gate, up, down; embeddings and norms are frozen.
    assert len(changed) == 14
    assert all(name.endswith("_proj.weight") for name in changed)
    ids = random_batch(9).token_ids[0].tolist()
    engine = make_learner(tmp_path / "model")
    assert engine.logprobs([ids], [1])[0] == pytest.approx(
        learner.logprobs([ids], [1])[0], abs=2e-5
    )
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tiny_model)


def test_with_adapters_the_reference_is_the_model_without_them(tiny_model):
    learner = make_learner(tiny_model, lora=LORA, train=train_config(kl=KL))
    batch = random_batch(0)
    assert learner.step(batch)["kl_ref_nats"] == pytest.approx(0.0, abs=1e-6)
    assert learner.step(batch)["kl_ref_nats"] > 1e-6
    # Two copies of the seed give the same adapters.
    again = make_learner(tiny_model, lora=LORA, train=train_config(kl=KL))
    for _ in range(2):
        again.step(batch)
    assert largest_gap(tensors(again), tensors(learner)) == 0.0

"""Tests of a learner with a multi-token prediction module: what it trains, saves and resumes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from random_batches import OPTIMIZER, make_learner, make_spec, random_batch
from safetensors.torch import load_file

from cotree.grpo.learner import Learner

BATCHES = [random_batch(seed, vocab=32) for seed in range(4)]
PREFIX = "model.layers.3."


def _saved(mtp_model: Path) -> dict[str, torch.Tensor]:
    return load_file(mtp_model / "model.safetensors")


def tensors(learner: Learner) -> dict[str, torch.Tensor]:
    """All that it would save, the module's weights with it; `weights()` leaves those out."""
    return learner._files.checkpoint_weights()


def _unclipped(mtp_model: Path, **learner: object) -> Learner:
    """Gradients are clipped by their joint norm, through which a module would reach the policy."""
    AcceleratorState._reset_state(reset_partial_state=True)
    loose = OPTIMIZER.model_copy(update={"max_grad_norm": 1e9})
    return Learner(replace(make_spec(mtp_model, **learner), optimizer=loose))


def test_a_detached_module_is_trained_and_the_policy_is_as_without(mtp_model: Path):
    ours, plain = _unclipped(mtp_model, mtp={}), _unclipped(mtp_model)
    for learner in (ours, plain):
        for batch in BATCHES:
            learner.step(batch)
    found, expected = tensors(ours), tensors(plain)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    before = _saved(mtp_model)
    own = found.keys() - expected.keys()
    assert own
    assert all(name.startswith(PREFIX) for name in own)
    assert not torch.equal(found[PREFIX + "eh_proj.weight"], before[PREFIX + "eh_proj.weight"])


@pytest.mark.parametrize("packing", [False, True])
def test_a_resumed_learner_takes_the_same_steps(mtp_model: Path, tmp_path: Path, packing: bool):
    through = make_learner(mtp_model, mtp={"detached": False}, packing=packing)
    for batch in BATCHES[:2]:
        through.step(batch)
    through.save(tmp_path / "c")
    resumed = make_learner(mtp_model, mtp={"detached": False}, packing=packing)
    resumed.load(tmp_path / "c")
    for batch in BATCHES[2:]:
        through.step(batch)
        resumed.step(batch)
    ours, theirs = tensors(through), tensors(resumed)
    assert PREFIX + "shared_head.norm.weight" in ours
    assert all(torch.equal(theirs[name], value) for name, value in ours.items())


def test_a_detached_module_is_clipped_apart_from_the_policy(mtp_model: Path):
    # At the usual limit of 1, which the policy's gradient alone is over.
    ours, plain = make_learner(mtp_model, mtp={"weight": 50.0}), make_learner(mtp_model)
    stats = [learner.step(BATCHES[0]) for learner in (ours, plain)]
    assert stats[0]["grad_norm"] == stats[1]["grad_norm"] > 1.0
    found, expected = tensors(ours), tensors(plain)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_the_module_is_measured_and_gets_better(mtp_model: Path):
    learner = make_learner(mtp_model, mtp={})
    first, *_, last = [learner.step(BATCHES[0]) for _ in range(8)]
    assert last["mtp/nats"] < first["mtp/nats"]
    assert 0 <= first["mtp/top1_frac"] <= 1
    assert "mtp/nats" not in make_learner(mtp_model).step(BATCHES[0])


def test_engines_get_the_module_exactly_where_they_draft_with_it(mtp_model: Path):
    AcceleratorState._reset_state(reset_partial_state=True)
    spec = make_spec(mtp_model)
    without = Learner(spec).weights()
    with_stored = Learner(replace(spec, drafts=True)).weights()
    trained = Learner(replace(make_spec(mtp_model, mtp={}), drafts=True)).weights()
    assert not any(name.startswith(PREFIX) for name in without.tensors)
    for update in (with_stored, trained):
        own = {name for name in update.tensors if name.startswith(PREFIX)}
        assert PREFIX + "eh_proj.weight" in own
        assert update.tensors.keys() - own == without.tensors.keys()
    assert with_stored.digests == trained.digests


def test_a_learner_without_the_setting_saves_the_module_as_it_was(mtp_model: Path, tmp_path: Path):
    learner = make_learner(mtp_model)
    learner.step(BATCHES[0])
    learner.save_model(tmp_path)
    before, after = _saved(mtp_model), _saved(tmp_path)
    assert before.keys() == after.keys()
    copies = {
        PREFIX + "embed_tokens.weight": "model.embed_tokens.weight",
        PREFIX + "shared_head.head.weight": "lm_head.weight",
    }
    for name in (name for name in before if name.startswith(PREFIX)):
        kept = after[copies[name]] if name in copies else before[name]
        assert torch.equal(after[name], kept), name
    assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"])
    saved = json.loads((tmp_path / "config.json").read_text())
    assert (saved["num_hidden_layers"], saved["num_nextn_predict_layers"]) == (3, 1)
    assert not any(name.startswith(PREFIX) for name in tensors(learner))  # engines do not need it

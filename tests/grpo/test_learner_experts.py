"""Tests for grpo/learner.py on mixtures of experts: routes, balance, FP8, loads on disk."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from random_batches import KL, make_learner, make_spec, random_batch, tensors, train_config
from tiny_experts import write_deepseek_v3, write_qwen3_moe
from tiny_models import write_character_tokenizer

from cotree.grpo.config_algorithm import Optimizer
from cotree.grpo.learner import Learner

WRITERS = {"qwen3_moe": write_qwen3_moe, "deepseek_v3": write_deepseek_v3}
LAYERS = {"qwen3_moe": 2, "deepseek_v3": 1}  # with experts
EXPERTS = {"qwen3_moe": 4, "deepseek_v3": 8}


@pytest.fixture(scope="module", params=WRITERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / request.param
    WRITERS[request.param](folder)
    write_character_tokenizer(folder)
    return folder


def routed(model: Path, *, seed: int = 0):
    """A batch whose tokens all go to the first two experts of their layer."""
    batch = random_batch(seed)
    routes = torch.zeros((*batch.token_ids.shape, LAYERS[model.name], 2), dtype=torch.int16)
    routes[..., 1] = 1
    return replace(batch, routes=routes)


def test_a_step_follows_the_recorded_routes_and_counts_them(model: Path):
    learner = make_learner(model)
    stats = learner.step(routed(model))
    # Two of E experts got all tokens: the busiest has E / 2 times an even share, the rest none.
    num = EXPERTS[model.name]
    assert stats["experts/max_violation"] == pytest.approx(num / 2 - 1)
    assert stats["experts/idle_frac"] == pytest.approx((num - 2) / num)
    free = make_learner(model).step(random_batch(0))
    assert free["experts/idle_frac"] == 0.0
    assert free["loss"] != stats["loss"]


def test_the_divergence_from_the_starting_model_begins_at_zero(model: Path):
    # The reference goes the way of the policy, whether routes were recorded or not.
    for batch in (random_batch(0), routed(model)):
        learner = make_learner(model, train=train_config(kl=KL))
        assert learner.step(batch)["kl_ref_nats"] == pytest.approx(0.0, abs=1e-9)


def test_old_log_probabilities_follow_the_routes_too(model: Path):
    # Of two updates that move nothing, so that every ratio is 1, on the same routes alone.
    spec = make_spec(model, train=train_config(updates_per_step=2))
    AcceleratorState._reset_state(reset_partial_state=True)
    learner = Learner(replace(spec, optimizer=Optimizer(learning_rate=1e-12)))
    assert learner.step(routed(model))["ratio_max"] == pytest.approx(1.0, abs=1e-5)


def test_a_balance_loss_moves_the_weights_and_not_by_the_cut_of_the_batch(model: Path):
    plain, balanced, pieces = (
        make_learner(model, sequence_balance_coef=coef, micro_batch_tokens=tokens)
        for coef, tokens in ((0.0, 8192), (1.0, 8192), (1.0, 24))
    )
    for learner in (plain, balanced, pieces):
        learner.step(random_batch(0))
    one, two, three = map(tensors, (plain, balanced, pieces))
    assert max(float((one[name] - two[name]).abs().max()) for name in one) > 1e-4
    assert max(float((two[name] - three[name]).abs().max()) for name in one) < 2e-5


def test_experts_compute_in_fp8_as_told(model: Path):
    settings = {"precision": {"type": "fp8_block"}}
    low = make_learner(model, **settings).step(random_batch(0))
    again = make_learner(model, **settings).step(random_batch(0))
    skip = {"precision": {"type": "fp8_block", "skip": ["experts"]}}
    without = make_learner(model, **skip).step(random_batch(0))
    exact = make_learner(model).step(random_batch(0))
    assert low == again | {"seconds": low["seconds"]}
    assert len({found["loss"] for found in (low, without, exact)}) == 3
    assert low["loss"] == pytest.approx(exact["loss"], abs=0.1)


def test_a_saved_model_tells_how_busy_its_experts_were(model: Path, tmp_path: Path):
    learner = make_learner(model)
    for seed in range(2):
        learner.step(random_batch(seed))
    learner.save_model(tmp_path)
    found = json.loads((tmp_path / "expert_loads.json").read_text())
    assert len(found) == LAYERS[model.name]
    trained = [random_batch(seed) for seed in range(2)]
    # Every real token of a row with something to train goes to two experts.
    tokens = sum(int((b.lengths * b.mask.any(1)).sum()) for b in trained)
    assert {sum(loads) for loads in found.values()} == {2 * tokens}


def test_loads_are_those_of_the_whole_run_whatever_stopped_it(model: Path, tmp_path: Path):
    whole, resumed = make_learner(model), make_learner(model)
    for seed in range(2):
        whole.step(random_batch(seed))
    whole.save(tmp_path / "checkpoint")
    resumed.load(tmp_path / "checkpoint")
    for name, learner in (("whole", whole), ("resumed", resumed)):
        learner.step(random_batch(2))
        learner.save_model(tmp_path / name)
    saved = [(tmp_path / name / "expert_loads.json").read_bytes() for name in ("whole", "resumed")]
    assert saved[0] == saved[1]


def test_routes_for_a_model_without_experts_are_an_error(tiny_model: Path):
    batch = random_batch(0)
    routes = torch.zeros((*batch.token_ids.shape, 1, 2), dtype=torch.int16)
    with pytest.raises(ValueError, match="replay_routes has no effect: the model has no routers"):
        make_learner(tiny_model).step(replace(batch, routes=routes))

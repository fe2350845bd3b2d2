"""Tests for grpo/learner_files.py: what is written, what is taken up again, and what is refused.

That a resumed learner ends in the same bits is tested in test_learner.py and its neighbours.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
from random_batches import largest_gap, make_learner, random_batch, tensors
from safetensors.torch import load_file, save_file
from tiny_experts import write_deepseek_v3
from tiny_models import write_character_tokenizer, write_tiny_model

from cotree.grpo import config
from cotree.grpo.learner import Learner

LORA = config.Lora(rank=4, alpha=8.0)
PREFIX = "model.layers.3."


@pytest.fixture(scope="module")
def checkpoint(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a learner after one step; do not write to it."""
    folder = tmp_path_factory.mktemp("checkpoint")
    learner = make_learner(tiny_model)
    learner.step(random_batch(0))
    learner.save(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_refused_and_untouched(learner: Learner, folder: Path, error: type, message: str) -> None:
    before = tensors(learner)
    with pytest.raises(error, match=message):
        learner.load(folder)
    assert largest_gap(tensors(learner), before) == 0.0
    assert learner.policy_version() == 0


# --- what is refused -------------------------------------------------------------------------


def test_a_folder_without_a_training_state_is_no_checkpoint(
    tiny_model: Path, checkpoint: Path, tmp_path: Path
):
    for folder in (tmp_path, tmp_path / "nothing", checkpoint / "model"):
        assert_refused_and_untouched(
            make_learner(tiny_model), folder, FileNotFoundError, "it is not a checkpoint"
        )


def test_a_checkpoint_with_other_layers_is_refused_by_the_first_that_differs(
    checkpoint: Path, mtp_model: Path
):
    says = r"another model or LoRA setting: \d+ parameters differ, the first is 'lm_head.weight'"
    assert_refused_and_untouched(make_learner(mtp_model), checkpoint, ValueError, says)


def test_a_checkpoint_of_a_wider_vocabulary_is_refused(
    tiny_model: Path, checkpoint: Path, tmp_path: Path
):
    # Every name is the same; only a shape tells them apart.
    wider = tmp_path / "wider"
    wider.mkdir()
    write_tiny_model(wider, seed=0, vocab_size=160)
    write_character_tokenizer(wider)
    says = r"\(128, 64\).*\(160, 64\)"
    assert_refused_and_untouched(make_learner(wider), checkpoint, ValueError, says)


def test_a_trained_module_is_not_resumed_without_one_nor_the_other_way(
    mtp_model: Path, tmp_path: Path
):
    says = rf"the first is '{PREFIX}"
    make_learner(mtp_model, mtp={}).save(tmp_path / "with")
    make_learner(mtp_model).save(tmp_path / "without")
    for learner, other in (
        (make_learner(mtp_model), "with"),
        (make_learner(mtp_model, mtp={}), "without"),
    ):
        with pytest.raises(ValueError, match=says):
            learner.load(tmp_path / other)


def test_adapters_of_another_rank_are_refused(tiny_model: Path, tmp_path: Path):
    make_learner(tiny_model, lora=LORA).save(tmp_path)
    other = make_learner(tiny_model, lora=config.Lora(rank=8, alpha=8.0))
    with pytest.raises(ValueError, match=r"\(4, \d+\).*\(8, \d+\)"):
        other.load(tmp_path)


# --- what is written -------------------------------------------------------------------------


def test_a_checkpoint_has_its_files_and_no_adapters_without_lora(
    tiny_model: Path, checkpoint: Path, tmp_path: Path
):
    assert {path.name for path in checkpoint.iterdir()} == {"model", "training_state.pt"}
    saved = {path.name for path in (checkpoint / "model").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} < saved
    assert "expert_loads.json" not in saved  # it has none
    assert {value.dtype for value in weights(checkpoint / "model").values()} == {torch.float32}
    make_learner(tiny_model, lora=LORA).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model", "adapter", "training_state.pt"}


def test_adapters_are_what_a_checkpoint_of_them_is_resumed_from(tiny_model: Path, tmp_path: Path):
    learner = make_learner(tiny_model, lora=LORA)
    learner.step(random_batch(0))
    learner.save(tmp_path)
    # The merged model beside them is for engines.
    shutil.rmtree(tmp_path / "model")
    resumed = make_learner(tiny_model, lora=LORA)
    resumed.load(tmp_path)
    assert largest_gap(tensors(resumed), tensors(learner)) == 0.0
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors").keys()
    assert len(names) == 2 * 14  # A and B of 2 layers of q, k, v, o, gate, up, down
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)


def test_counters_come_back_as_they_were(tiny_model: Path, checkpoint: Path):
    learner = make_learner(tiny_model)
    counters = learner._files.load(checkpoint)
    assert {name: counters[name] for name in ("updates", "policy_version")} == {
        "updates": 1,
        "policy_version": 1,
    }
    assert "optimizer" not in counters


# --- loss scales -----------------------------------------------------------------------------


def test_a_loss_scale_continues_where_it_stood(tiny_model: Path, tmp_path: Path):
    # It doubles after every second update: 16, 16, 32, 32, 64. Saved after the third, in the
    # middle of two, so that both the scale and the count of good updates matter.
    precision = {"type": "float16", "initial_scale": 16.0, "growth_interval": 2}
    through = make_learner(tiny_model, precision=precision)

    def scales(learner: Learner, seeds: range) -> list[float]:
        return [learner.step(random_batch(seed))["precision/loss_scale"] for seed in seeds]

    assert scales(through, range(3)) == [16.0, 16.0, 32.0]
    through.save(tmp_path)
    resumed = make_learner(tiny_model, precision=precision)
    resumed.load(tmp_path)
    assert scales(resumed, range(3, 5)) == scales(through, range(3, 5)) == [32.0, 64.0]
    assert largest_gap(tensors(resumed), tensors(through)) == 0.0


def test_a_schedule_is_resumed_in_its_phase(tiny_model: Path, tmp_path: Path):
    phases = [
        {"first_update": 0, "precision": {"type": "float32"}},
        {"first_update": 2, "precision": {"type": "fp8_block"}},
        {"first_update": 3, "precision": {"type": "float16", "initial_scale": 8.0}},
    ]
    precision = {"type": "schedule", "phases": phases}
    through = make_learner(tiny_model, precision=precision)
    for seed in range(2):
        through.step(random_batch(seed))
    through.save(tmp_path)
    resumed = make_learner(tiny_model, precision=precision)
    resumed.load(tmp_path)
    for seed in range(2, 4):
        stats = [learner.step(random_batch(seed)) for learner in (through, resumed)]
        assert stats[0]["loss"] == stats[1]["loss"]
    assert stats[1]["precision/loss_scale"] == 8.0
    assert largest_gap(tensors(resumed), tensors(through)) == 0.0
    # The third step was in FP8: in float32 it would have had another loss.
    plain = make_learner(tiny_model)
    plain.load(tmp_path)
    other = make_learner(tiny_model, precision=precision)
    other.load(tmp_path)
    batch = random_batch(2)
    assert plain.step(batch)["loss"] != other.step(batch)["loss"]


# --- prediction modules ----------------------------------------------------------------------


def module_of(folder: Path) -> dict[str, torch.Tensor]:
    copies = ("embed_tokens.weight", "shared_head.head.weight")  # of the trained embedding and head
    named = weights(folder)
    return {n: v for n, v in named.items() if n.startswith(PREFIX) and not n.endswith(copies)}


def test_an_untrained_module_goes_from_checkpoint_to_checkpoint(mtp_model: Path, tmp_path: Path):
    learner = make_learner(mtp_model)
    learner.step(random_batch(0, vocab=22))
    learner.save(tmp_path / "first")
    resumed = make_learner(mtp_model)
    resumed.load(tmp_path / "first")
    resumed.step(random_batch(1, vocab=22))
    resumed.save(tmp_path / "second")
    # A stage starts from what the stage before it left.
    next_stage = make_learner(tmp_path / "second" / "model")
    next_stage.step(random_batch(2, vocab=22))
    next_stage.save_model(tmp_path / "third")
    before = module_of(mtp_model)
    for folder in ("first/model", "second/model", "third"):
        after = module_of(tmp_path / folder)
        assert after.keys() == before.keys()
        assert all(torch.equal(after[name], value) for name, value in before.items())


def test_adapters_leave_an_untrained_module_in_the_merged_model(mtp_model: Path, tmp_path: Path):
    targets = ("q_proj", "o_proj", "kv_b_proj")
    learner = make_learner(mtp_model, lora={"rank": 2, "alpha": 4.0, "targets": targets})
    learner.step(random_batch(0, vocab=22))
    learner.save_model(tmp_path)
    before, after = module_of(mtp_model), module_of(tmp_path)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert json.loads((tmp_path / "config.json").read_text())["num_nextn_predict_layers"] == 1


def test_a_model_without_a_module_does_not_promise_one_to_engines(tmp_path: Path):
    # transformers' own default is one module, and what it saves has no weights of it.
    folder = tmp_path / "deepseek"
    write_deepseek_v3(folder)
    write_character_tokenizer(folder)
    settings = json.loads((folder / "config.json").read_text())
    assert settings.get("num_nextn_predict_layers", settings.get("num_mtp_layers")) == 1
    make_learner(folder).save_model(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    promised = [saved[n] for n in ("num_nextn_predict_layers", "num_mtp_layers") if n in saved]
    assert set(promised) == {0}
    assert not any(name.startswith("model.layers.2.") for name in weights(tmp_path / "saved"))


# --- loads of experts ------------------------------------------------------------------------


def test_loads_of_experts_are_those_of_the_whole_run(tmp_path: Path):
    folder = tmp_path / "deepseek"
    write_deepseek_v3(folder)
    write_character_tokenizer(folder)
    learner = make_learner(folder)
    learner.save_model(tmp_path / "start")
    learner.step(random_batch(0))
    learner.save(tmp_path / "checkpoint")
    learner.save_model(tmp_path / "first")

    resumed = make_learner(folder)
    resumed.load(tmp_path / "checkpoint")
    resumed.step(random_batch(1))
    resumed.save_model(tmp_path / "second")

    def tokens(path: Path) -> int:
        file = path / "expert_loads.json"
        if not file.is_file():
            return 0
        (loads,) = json.loads(file.read_text()).values()  # one layer has experts
        assert len(loads) == 8
        return sum(loads)

    # Each real token goes to two experts. The last of a row is routed too.
    sizes = [2 * int(random_batch(seed).lengths.sum()) for seed in range(2)]
    assert tokens(tmp_path / "start") == 0
    assert tokens(tmp_path / "first") == sizes[0]
    assert tokens(tmp_path / "second") == sum(sizes)


def test_a_checkpoint_whose_weights_were_changed_is_taken_as_it_is(
    tiny_model: Path, checkpoint: Path, tmp_path: Path
):
    # Weights are read from the model that engines load: there is no second copy to disagree with.
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint, changed)
    named = weights(changed / "model")
    name = "model.layers.0.self_attn.q_proj.weight"
    named[name] = named[name] + 1.0
    save_file(named, changed / "model" / "model.safetensors", metadata={"format": "pt"})
    learner = make_learner(tiny_model)
    learner.load(changed)
    assert torch.equal(tensors(learner)[name], named[name])

"""Tests for grpo/stages.py: which model a stage starts from, and which one is measured."""

from pathlib import Path

import pytest

from cotree.grpo.run_folder import ConfigError, RunFolder, load_pipeline
from cotree.grpo.stages import evaluation_of, newest_model, starting_model

TEXT = """
task = { type = "arithmetic" }
[model]
type = "pretrained"
path = "owner/name"
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
"""
DISTILL = """
[distill]
type = "traces"
num_steps = 3
corpus = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
"""


def finish(stage: Path) -> str:
    """As a stage that has written its model."""
    (stage / "model").mkdir(parents=True)
    (stage / "model" / "config.json").write_text("{}")
    return str(stage / "model")


def test_the_newest_model_is_that_of_the_last_stage_that_has_one(tmp_path: Path):
    (tmp_path / "c.toml").write_text(TEXT + DISTILL)
    pipeline = load_pipeline(tmp_path / "c.toml", [f"output_dir={tmp_path / 'run'}"])
    folder = RunFolder.of(pipeline)
    with pytest.raises(ConfigError, match="distillation has not been run"):
        newest_model(pipeline, folder)
    for stage in (folder.sft, folder.distill, folder.root):  # in the order in which they run
        made = finish(stage)
        assert newest_model(pipeline, folder) == made


def test_training_never_starts_from_a_stage_before_one_that_is_missing(tmp_path: Path):
    (tmp_path / "c.toml").write_text(TEXT + DISTILL)
    pipeline = load_pipeline(tmp_path / "c.toml", [f"output_dir={tmp_path / 'run'}"])
    folder = RunFolder.of(pipeline)
    finish(folder.sft)
    with pytest.raises(ConfigError, match="cotree distill"):
        starting_model(pipeline, folder)
    made = finish(folder.distill)
    assert starting_model(pipeline, folder) == made


def test_a_model_of_a_stage_that_is_no_longer_there_is_not_taken(tmp_path: Path):
    (tmp_path / "c.toml").write_text(TEXT)
    pipeline = load_pipeline(tmp_path / "c.toml", [f"output_dir={tmp_path / 'run'}"])
    folder = RunFolder.of(pipeline)
    finish(folder.distill)
    made = finish(folder.sft)
    assert newest_model(pipeline, folder) == made


TRAINED = """
output_dir = "unused"
[model]
type = "pretrained"
path = "owner/name"
[task]
type = "arithmetic"
num_test = 4
[generator]
dtype = "float32"
kv_cache_bytes = 33554432
[train]
num_steps = 1
rollout = { replay_routes = true }
optimizer = { learning_rate = 1e-3 }
[evaluate]
num_problems = 4
max_tokens = 8
"""


@pytest.mark.slow
def test_an_evaluation_records_no_experts_for_a_training_that_does(
    tmp_path: Path, tiny_model: Path
):
    (tmp_path / "c.toml").write_text(TRAINED)
    pipeline = load_pipeline(tmp_path / "c.toml", [])
    # An engine that records refuses a model without experts, and any model on a GPU.
    assert len(evaluation_of(pipeline, str(tiny_model)).groups) == 4

"""Tests for grpo/run_folder.py: nobody's run is overwritten, and a resume is the same run."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cotree.grpo.config import Pipeline
from cotree.grpo.run_folder import ConfigError, RunFolder, load_pipeline

TEXT = """
model = { type = "new" }
task = { type = "arithmetic" }
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
[train]
num_steps = 3
optimizer = { learning_rate = 1e-4 }
"""


def pipeline_in(folder: Path, *overrides: str) -> Pipeline:
    path = folder / "tiny.toml"
    path.write_text(TEXT)
    return load_pipeline(path, [f"output_dir={folder / 'run'}", *overrides])


def begin(folder: Path, *overrides: str, stage: str = "train") -> RunFolder:
    """A run that was prepared and took a step."""
    pipeline = pipeline_in(folder, *overrides)
    run = RunFolder.of(pipeline)
    run.prepare(pipeline, stage=stage, resume=False)
    run.stage(stage).metrics.write_text('{"step": 1}\n')
    return run


def test_the_configuration_and_the_start_are_kept(tmp_path: Path):
    run = begin(tmp_path)
    assert load_pipeline(run.config, []) == pipeline_in(tmp_path)
    (start,) = [json.loads(line) for line in run.starts.read_text().splitlines()]
    assert start["stage"] == "train"
    assert start["code"]["version"]
    assert Path(start["code"]["path"]).name == "grpo"
    assert start["machine"]["cores"] >= 1


def test_an_existing_run_is_not_overwritten_and_both_ways_out_are_named(tmp_path: Path):
    run = begin(tmp_path)
    pipeline = pipeline_in(tmp_path)
    with pytest.raises(ConfigError, match=r"--resume.*output_dir"):
        run.prepare(pipeline, stage="train", resume=False)
    run.prepare(pipeline, stage="train", resume=True)
    assert len(run.starts.read_text().splitlines()) == 2


def test_a_folder_that_never_took_a_step_can_be_started_again(tmp_path: Path):
    pipeline = pipeline_in(tmp_path)
    run = RunFolder.of(pipeline)
    run.prepare(pipeline, stage="train", resume=False)
    run.prepare(pipeline, stage="train", resume=False)


def test_resume_without_an_earlier_run_starts_one(tmp_path: Path):
    pipeline = pipeline_in(tmp_path)
    RunFolder.of(pipeline).prepare(pipeline, stage="train", resume=True)


def test_a_resume_lists_the_keys_that_differ(tmp_path: Path):
    run = begin(tmp_path)
    changed = pipeline_in(tmp_path, "seed=4", "train.prompts_per_step=16")
    with pytest.raises(ConfigError) as caught:
        run.prepare(changed, stage="train", resume=True)
    assert "seed: 0 there, 4 now" in str(caught.value)
    assert "train.prompts_per_step: 32 there, 16 now" in str(caught.value)
    assert load_pipeline(run.config, []).seed == 0  # the refused configuration was not saved


def test_a_resume_may_run_longer_and_save_more_often(tmp_path: Path):
    run = begin(tmp_path)
    keys = ("num_steps=9", "save_every=1", "keep_checkpoints=5", "evaluate_every=2")
    longer = pipeline_in(tmp_path, *(f"train.{key}" for key in keys), "trackers=[]")
    run.prepare(longer, stage="train", resume=True)
    assert load_pipeline(run.config, []) == longer


def test_a_run_that_was_moved_can_be_resumed(tmp_path: Path):
    run = begin(tmp_path)
    moved = run.root.rename(tmp_path / "moved")
    pipeline = pipeline_in(tmp_path, f"output_dir={moved}")
    RunFolder.of(pipeline).prepare(pipeline, stage="train", resume=True)


def test_training_follows_the_cold_start_in_the_same_folder(tmp_path: Path):
    run = begin(tmp_path, stage="sft")
    assert run.sft.joinpath("resolved_config.toml").exists()
    # The algorithm may change after the cold start; what the model was taught may not.
    run.prepare(pipeline_in(tmp_path, "train.num_steps=4"), stage="train", resume=False)
    changed = pipeline_in(tmp_path, "task.largest=30")
    with pytest.raises(ConfigError, match=r"cold start(.|\n)*task\.largest: 20 there, 30 now"):
        run.prepare(changed, stage="train", resume=False)


def test_a_cold_start_can_be_resumed_with_another_algorithm_configured(tmp_path: Path):
    run = begin(tmp_path, stage="sft")
    run.prepare(pipeline_in(tmp_path, "train.prompts_per_step=4"), stage="sft", resume=True)
    with pytest.raises(ConfigError, match=r"sft\.sequences_per_step"):
        run.prepare(pipeline_in(tmp_path, "sft.sequences_per_step=4"), stage="sft", resume=True)


def test_reading_a_configuration_loads_neither_torch_nor_ray_nor_vllm():
    code = (
        "import sys, cotree.grpo.run_folder\n"
        "print([name for name in ('torch', 'ray', 'vllm') if name in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


def test_a_ray_job_does_not_write_a_run_where_it_would_be_deleted(tmp_path: Path, monkeypatch):
    pipeline = pipeline_in(tmp_path)
    relative = pipeline.model_copy(update={"output_dir": "runs/tiny"})
    assert RunFolder.of(relative).root == Path("runs/tiny")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")  # Ray sets it for a job's entrypoint
    with pytest.raises(ConfigError, match=r"output_dir=\$PWD/runs/tiny"):
        RunFolder.of(relative)
    assert RunFolder.of(pipeline).root.is_absolute()


# --- distillation ----------------------------------------------------------------------------

DISTILL = """
[distill]
type = "logits"
num_steps = 4
corpus = { type = "generated" }
teacher = { type = "server", url = "http://localhost:8000" }
optimizer = { learning_rate = 1e-3 }
"""


def distilling_in(folder: Path, *overrides: str) -> Pipeline:
    path = folder / "distill.toml"
    path.write_text(TEXT + DISTILL)
    return load_pipeline(path, [f"output_dir={folder / 'run'}", *overrides])


def begin_distilling(folder: Path, *overrides: str) -> RunFolder:
    """A distillation that was prepared and wrote its texts."""
    pipeline = distilling_in(folder, *overrides)
    run = RunFolder.of(pipeline)
    run.prepare(pipeline, stage="distill", resume=False)
    (run.distill / "corpus").mkdir()
    return run


def test_a_distillation_has_its_own_folder_inside_the_runs(tmp_path: Path):
    run = begin_distilling(tmp_path)
    own = run.stage("distill")
    assert own.root == run.distill == run.root / "distill"
    assert load_pipeline(own.config, []) == distilling_in(tmp_path)
    assert not run.config.exists()
    (start,) = [json.loads(line) for line in run.starts.read_text().splitlines()]
    assert start["stage"] == "distill"
    # The other stages of the pipeline may still begin.
    for stage in ("sft", "train"):
        run.prepare(distilling_in(tmp_path), stage=stage, resume=False)


@pytest.mark.parametrize("begun", ["corpus", "checkpoints", "metrics.jsonl"])
def test_what_a_distillation_has_made_is_not_overwritten(tmp_path: Path, begun: str):
    pipeline = distilling_in(tmp_path)
    run = RunFolder.of(pipeline)
    run.prepare(pipeline, stage="distill", resume=False)
    run.prepare(pipeline, stage="distill", resume=False)  # nothing was made yet
    if begun == "metrics.jsonl":
        run.stage("distill").metrics.write_text("{}\n")
    else:
        (run.distill / begun).mkdir()
    with pytest.raises(ConfigError, match=r"a run of the distill stage.*--resume.*output_dir"):
        run.prepare(pipeline, stage="distill", resume=False)
    run.prepare(pipeline, stage="distill", resume=True)
    assert [json.loads(line)["resume"] for line in run.starts.read_text().splitlines()] == [
        False,
        False,
        True,
    ]


def test_a_corpus_of_another_stage_is_none_of_a_distillation(tmp_path: Path):
    pipeline = distilling_in(tmp_path)
    run = RunFolder.of(pipeline)
    (run.root / "corpus").mkdir(parents=True)
    run.prepare(pipeline, stage="distill", resume=False)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("distill.keep.most=4", r"distill\.keep\.most"),
        ("distill.teacher.url=http://other:1", r"distill\.teacher\.url"),
        ("distill.cross_entropy_coef=0.5", r"distill\.cross_entropy_coef: 0.0 there, 0.5 now"),
        ("distill.divergence.kind=jsd", r"distill\.divergence\.kind"),
        ("distill.optimizer.learning_rate=1.0", r"distill\.optimizer\.learning_rate"),
        ("sft.num_steps=5", None),
        ("sft.sequences_per_step=4", r"sft\.sequences_per_step"),
        ("task.largest=30", r"task\.largest: 20 there, 30 now"),
        ("seed=3", "seed: 0 there, 3 now"),
        ("learner.precision.type=float32", r"learner\.precision\.type"),
        ("rewards.0.weight=2.0", "rewards"),
        ("train.prompts_per_step=4", None),
        ("evaluate.num_problems=7", None),
        ("distill.num_steps=9", None),
        ("distill.save_every=1", None),
        ("distill.threads=2", None),
    ],
)
def test_a_resumed_distillation_is_the_same_but_for_its_length(
    tmp_path: Path, override: str, says: str | None
):
    run = begin_distilling(tmp_path)
    if override.startswith("rewards"):
        name = tmp_path / "distill.toml"
        name.write_text('rewards = [{ name = "answer", weight = 2.0 }]\n' + TEXT + DISTILL)
        changed = load_pipeline(name, [f"output_dir={run.root}"])
    else:
        changed = distilling_in(tmp_path, override)
    if says is None:
        run.prepare(changed, stage="distill", resume=True)
        assert load_pipeline(run.stage("distill").config, []) == changed
        return
    with pytest.raises(ConfigError, match=r"--resume would continue the distill run") as caught:
        run.prepare(changed, stage="distill", resume=True)
    assert re.search(says, str(caught.value))
    assert load_pipeline(run.stage("distill").config, []) == distilling_in(tmp_path)


def test_a_distillation_follows_the_cold_start_that_it_was_made_for(tmp_path: Path):
    pipeline = distilling_in(tmp_path)
    run = RunFolder.of(pipeline)
    run.prepare(pipeline, stage="sft", resume=False)
    run.prepare(distilling_in(tmp_path, "distill.num_steps=5"), stage="distill", resume=False)
    changed = distilling_in(tmp_path, "prompt.template=Q: {question}")
    with pytest.raises(ConfigError, match=r"distill would start from the cold start(.|\n)*prompt"):
        run.prepare(changed, stage="distill", resume=False)


def test_rejection_may_be_loosened_until_a_step_was_taken(tmp_path: Path):
    sampled = 'distill.corpus={type="teacher"}'
    run = begin_distilling(tmp_path, sampled)
    loose = distilling_in(tmp_path, sampled, "distill.corpus.keep.right=false")
    run.prepare(loose, stage="distill", resume=True)
    with pytest.raises(ConfigError, match=r"distill\.corpus\.samples"):
        run.prepare(
            distilling_in(tmp_path, 'distill.corpus={type="teacher",samples=2}'),
            stage="distill",
            resume=True,
        )
    (run.distill / "checkpoints").mkdir()
    with pytest.raises(ConfigError, match=r"distill\.corpus\.keep\.right: false there, true now"):
        run.prepare(distilling_in(tmp_path, sampled), stage="distill", resume=True)

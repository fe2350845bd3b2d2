"""Tests for grpo/distilling/stage.py: what the student starts from. Whole runs: the end-to-end."""

import json
from pathlib import Path

import pytest

from cotree.grpo.config import Pipeline
from cotree.grpo.config_file import ConfigError
from cotree.grpo.distilling.stage import distill_stage, student_start, with_share_kept
from cotree.grpo.run_folder import RunFolder

SFT = {"num_steps": 1, "traces": {"type": "generated"}, "optimizer": {"learning_rate": 1e-3}}
DISTILL = {
    "type": "traces",
    "corpus": {"type": "generated"},
    "num_steps": 1,
    "optimizer": {"learning_rate": 1e-3},
}


def pipeline_of(folder: Path, **sections: object) -> Pipeline:
    return Pipeline.model_validate(
        {
            "output_dir": str(folder),
            "model": {"type": "pretrained", "path": "big/model", "revision": "abc"},
            "task": {"type": "arithmetic"},
            **sections,
        }
    )


def test_a_configuration_without_the_section_has_nothing_to_do(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no \[distill\] section"):
        distill_stage(pipeline_of(tmp_path / "run"), resume=False, json_lines=True)
    assert not (tmp_path / "run").exists()


def test_a_student_starts_from_its_model(tmp_path: Path):
    pipeline = pipeline_of(tmp_path, distill=DISTILL)
    assert student_start(pipeline, RunFolder(tmp_path)) == ("big/model", "abc")


def test_a_new_student_is_made_once(tmp_path: Path):
    new = {"type": "new", "layers": 1, "width": 32, "heads": 1, "kv_heads": 1, "mlp_width": 32}
    pipeline = pipeline_of(tmp_path, model=new, distill=DISTILL)
    assert student_start(pipeline, RunFolder(tmp_path)) == (str(tmp_path / "base"), None)
    made = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    student_start(pipeline, RunFolder(tmp_path))
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == made


def test_a_student_with_a_cold_start_waits_for_it(tmp_path: Path):
    pipeline = pipeline_of(tmp_path / "run", sft=SFT, distill=DISTILL)
    with pytest.raises(ConfigError, match="Run `cotree sft` with the same configuration first"):
        distill_stage(pipeline, resume=False, json_lines=True)
    assert not (tmp_path / "run").exists()
    model = tmp_path / "run" / "sft" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    assert student_start(pipeline, RunFolder(tmp_path / "run")) == (str(model), None)


@pytest.mark.parametrize(
    ("result", "kept"),
    [
        ({"accuracy_teacher": {"value": 0.8}, "accuracy_after": {"value": 0.6}}, 0.75),
        ({"accuracy_teacher": {"value": 0.8}, "accuracy_after": {"value": 0.0}}, 0.0),
        ({"accuracy_teacher": {"value": 0.0}, "accuracy_after": {"value": 0.6}}, None),
        ({"accuracy_after": {"value": 0.6}}, None),
        ({"accuracy_teacher": {"value": 0.8}}, None),
        ({}, None),
    ],
)
def test_the_share_of_the_teachers_accuracy_needs_both(
    tmp_path: Path, result: dict[str, dict[str, float]], kept: float | None
):
    folder = RunFolder(tmp_path)
    folder.result.write_text(json.dumps(result))
    found = with_share_kept(folder)
    assert found.get("kept") == (None if kept is None else pytest.approx(kept))
    assert found == json.loads(folder.result.read_text())
    assert {key: found[key] for key in result} == result

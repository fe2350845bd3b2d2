"""Tests for grpo/distilling/on_policy_setup.py: what the learner is told of a teacher."""

from pathlib import Path

import pytest
from readers import SUMS, byte_level_bpe
from tiny_models import write_tiny_model

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import OnPolicyDistill
from cotree.grpo.distilling.on_policy_setup import OnPolicySetup
from cotree.grpo.objective import Taught
from cotree.grpo.trainer import Teaching, learner_spec


@pytest.fixture(scope="module")
def bpe_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bpe")
    byte_level_bpe(SUMS).save_pretrained(folder)
    write_tiny_model(folder, seed=1, vocab_size=320)
    return folder


def pipeline_of(student: Path, teacher: Path, kind: str) -> Pipeline:
    train = {
        "num_steps": 3,
        "rollout": {"max_tokens": 40},
        "optimizer": {"learning_rate": 1e-3},
    }
    return Pipeline.model_validate(
        {
            "output_dir": "unused",
            "model": {"type": "pretrained", "path": str(student)},
            "task": {"type": "arithmetic", "operands": [2, 3], "num_train": 80, "num_test": 8},
            "train": train,
            "distill": {
                "type": "on_policy",
                "teacher": {"type": kind, "path": str(teacher)},
                "signal": {"type": "divergence"},
                "train": train,
            },
        }
    )


def spec_of(student: Path, teacher: Path, kind: str = "engine"):
    pipeline = pipeline_of(student, teacher, kind)
    settings = pipeline.distill
    assert isinstance(settings, OnPolicyDistill)
    setup = OnPolicySetup(pipeline, settings, (str(student), None))
    objective = Taught(settings.signal.divergence, train=settings.train)
    teaching = Teaching(setup, objective)
    spec = learner_spec(pipeline, str(student), revision="main", teaching=teaching)
    return spec, setup


def test_the_learner_reads_outcomes_in_the_order_that_the_view_writes_them(
    tiny_model: Path, bpe_model: Path
):
    spec, setup = spec_of(bpe_model, tiny_model)
    assert spec.vocabulary_order == setup.view.order
    assert spec.vocabulary_order is not None
    # Every row of the student once, and by bytes, so not in the order of the ids.
    assert sorted(spec.vocabulary_order) == list(range(320))
    assert list(spec.vocabulary_order) != list(range(320))


def test_a_shared_tokenizer_needs_no_order(tiny_model: Path):
    spec, _ = spec_of(tiny_model, tiny_model)
    assert spec.vocabulary_order is None
    assert spec.teacher is None


def test_a_resident_teacher_and_the_revision_reach_the_learner(tiny_model: Path):
    spec, setup = spec_of(tiny_model, tiny_model, "resident")
    assert spec.teacher == setup.resident
    assert spec.teacher is not None
    assert spec.revision == "main"
    assert isinstance(spec.objective, Taught)


def test_without_a_teacher_the_objective_is_the_policy_gradient(tiny_model: Path):
    pipeline = pipeline_of(tiny_model, tiny_model, "engine")
    spec = learner_spec(pipeline, str(tiny_model), revision=None, teaching=None)
    assert spec.objective == pipeline.train
    assert (spec.teacher, spec.vocabulary_order, spec.total_updates) == (None, None, 3)

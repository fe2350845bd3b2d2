"""Tests for grpo/evaluation/engine_setup.py: what is known before an engine starts."""

from pathlib import Path

import pytest

from cotree.grpo.config_evaluation import Benchmarks, Engines
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.engine_setup import prepare_engines
from cotree.grpo.evaluation.measure import Prepared


def prepared(model: Path, **settings: object) -> Prepared:
    asked = {"names": ("arithmetic",), "limit": 5, "max_tokens": 32} | settings
    return prepare_engines(str(model), settings=Benchmarks(**asked), engines=Engines())


def test_a_model_and_its_benchmarks_are_ready_without_an_engine(tiny_model: Path):
    ready = prepared(tiny_model)
    assert [job.name for job in ready.jobs] == ["arithmetic"]
    assert len(ready.jobs[0].asks) == 5
    parts = ready.parts["arithmetic"]
    assert parts["engine"]["dtype"] == "bfloat16"
    assert parts["template"] is None
    assert ready.identity["model"] == str(tiny_model.resolve())


def test_completions_beyond_the_models_positions_are_refused(tiny_model: Path):
    # The tiny model has 512 positions.
    with pytest.raises(ConfigError, match=r"exceeds the 512 positions of the model\. Set --max-"):
        prepared(tiny_model, max_tokens=600)


def test_a_prompt_that_the_tokenizer_lacks_is_refused_by_the_problems_id(tiny_model: Path):
    with pytest.raises(ConfigError, match=r"problem arithmetic/\d+ cannot be put to this model"):
        prepared(tiny_model, prompt="Ünder: {question}")


def test_a_missing_model_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="cannot load a model from"):
        prepared(tmp_path / "nothing")

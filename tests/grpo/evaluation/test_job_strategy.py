"""Tests for grpo/evaluation/job.py: the strategy of a job, and when it is refused."""

import json
from pathlib import Path

import pytest

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.fingerprint import differing_parts
from cotree.grpo.evaluation.job import Job, make_job

UNJUDGED = """
from cotree.grpo.evaluation.benchmarks import Gsm8k

class Unjudged(Gsm8k):
    name = "gsm8k"
    step_reward = None

class Misjudged(Gsm8k):
    name = "gsm8k"
    step_reward = "arithmetic_step"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "gsm8k.jsonl").write_text(json.dumps({"question": "1 + 1?", "answer": "#### 2"}))
    (tmp_path / "mine.py").write_text(UNJUDGED)
    return tmp_path


def made(data: Path, name: str = "gsm8k", **changes: object) -> Job:
    fields = {"names": (name,), "data": str(data), "temperature": 1.0} | changes
    return make_job(name, Benchmarks(**fields), has_template=False)


def test_the_strategy_is_part_of_what_is_measured(data: Path):
    plain, voted = made(data), made(data, strategy="majority:4")
    assert plain.strategy is None
    assert voted.strategy is not None
    assert voted.strategy.size == 4
    differing = differing_parts(plain.parts, voted.parts)
    assert differing["sampler.strategy"] == (None, "majority:4")
    assert set(differing) == {"sampler.strategy", "sampler.strategy_sources"}


def test_a_strategy_that_is_not_there_is_refused(data: Path):
    with pytest.raises(ConfigError, match="no strategy is named 'vote'; there are first"):
        made(data, strategy="vote:4")


def test_greedy_completions_are_no_choice(data: Path):
    with pytest.raises(ConfigError, match=r"majority:4: at temperature 0 .* all the same"):
        made(data, temperature=0.0, strategy="majority:4")
    assert made(data, temperature=0.0, strategy="first").strategy is not None


def test_a_strategy_that_needs_verdicts_needs_a_step_reward(data: Path):
    where = f"{data}/mine.py:Unjudged"
    with pytest.raises(ConfigError, match="gsm8k names no step_reward that could refute"):
        made(data, where, strategy="resample:4")
    assert made(data, where, strategy="majority:4").strategy is not None


def test_a_step_reward_that_is_not_there_is_found_before_anything_starts(data: Path):
    with pytest.raises(ConfigError, match=r"step_reward: .*'arithmetic_step'"):
        made(data, f"{data}/mine.py:Misjudged")

"""Tests for grpo/reward_terms.py."""

import json
from pathlib import Path

import pytest

from cotree.grpo.config import Pipeline
from cotree.grpo.config_file import ConfigError
from cotree.grpo.problems import load_problems
from cotree.grpo.reward_terms import bound_rewards, refuse_unfit, reward_terms
from cotree.rewards.registry import Term

PLUGIN = """
from cotree.rewards.types import checked_by

def check(problem):
    if not problem.reference.isdigit():
        raise ValueError("not a number")

@checked_by(check)
def digits(completion, reference): return float(completion == reference)

def tested(completion, tests, *, scale=1.0): return scale * len(tests)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pipeline(*rewards: dict[str, object], rows: list[dict[str, object]] | None = None) -> Pipeline:
    task: dict[str, object] = {"type": "arithmetic", "num_train": 5, "num_test": 5}
    if rows is not None:
        Path("rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        task = {"type": "rows", "train": "rows.jsonl", "test": "rows.jsonl"}
    return Pipeline.model_validate(
        {
            "output_dir": "unused",
            "model": {"type": "pretrained", "path": "unused"},
            "task": task,
            "rewards": rewards,
        }
    )


def row(answer: str, **columns: object) -> dict[str, object]:
    return {"question": "q", "answer": answer, **columns}


def unfit(settings: Pipeline) -> None:
    refuse_unfit(settings, load_problems(settings, "test", str))


def test_terms_have_every_setting_and_the_text_of_their_file(folder: Path):
    settings: dict[str, object] = {
        "weight": 0.5,
        "options": {"scale": 2.0},
        "timeout_seconds": 3.0,
        "executor": "ray",
        "on_error": "value",
        "error_value": -1.0,
    }
    found, plain = reward_terms(
        pipeline({"name": "mine.py:tested", **settings}, {"name": "answer"}).rewards
    )
    assert {key: getattr(found, key) for key in settings} == settings
    assert found.name == "mine.py:tested"
    assert found.source is not None
    assert (found.source.path, found.source.text) == (str(folder / "mine.py"), PLUGIN)
    assert plain == Term("answer")


@pytest.mark.parametrize(
    ("reward", "says"),
    [
        ({"name": "answre"}, r"rewards.1 \(answre\): no installed reward.*did you mean 'answer'"),
        ({"name": "mine.py:tests"}, r"rewards.1 \(mine.py:tests\): .*did you mean 'tested'"),
        ({"name": "mine.py:tested", "options": {"scle": 1}}, "no option 'scle'"),
        ({"name": "none.py:f"}, "no reward file"),
    ],
)
def test_a_reward_that_cannot_be_called_is_named(folder: Path, reward, says: str):
    with pytest.raises(ConfigError, match=says):
        bound_rewards(pipeline({"name": "answer"}, reward))


def test_columns_are_looked_for_before_the_run(folder: Path):
    rewards = {"name": "mine.py:tested"}
    unfit(pipeline(rewards, rows=[row("1", tests=[])]))
    with pytest.raises(ConfigError, match=r"needs 'tests'.*1 of 2 problems.*rows/test/1"):
        unfit(pipeline(rewards, rows=[row("1", tests=[]), row("2", test=[])]))
    hiding = {**rewards, "options": {"scale": 2.0}}
    with pytest.raises(ConfigError, match="option 'scale' hides"):
        unfit(pipeline(hiding, rows=[row("1", tests=[], scale=3)]))
    with pytest.raises(ConfigError, match="Columns of the data set: none"):
        unfit(pipeline(rewards))  # generated tasks have none
    unfit(pipeline({**rewards, "options": {"tests": "x"}}))


def test_references_that_cannot_be_graded_are_named_before_the_run(folder: Path):
    rewards = {"name": "mine.py:digits"}
    unfit(pipeline(rewards, rows=[row("1"), row("2")]))
    with pytest.raises(ConfigError) as caught:
        unfit(pipeline(rewards, rows=[row("1"), *[row("x")] * 7]))
    message = str(caught.value)
    assert message.startswith("7 of 8 problems cannot be graded:\n  rows/test/1, reference 'x': ")
    assert "mine.py:digits: not a number\n" in message
    assert message.count("\n  rows/test/") == 5
    assert "and 2 more\nCorrect or remove these rows" in message

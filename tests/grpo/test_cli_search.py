"""Tests for grpo/cli_search.py: what cannot be searched is refused before an engine starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import write_character_tokenizer, write_tiny_model

from cotree.grpo.cli import main

GIVEN = ("--task", "arithmetic", "--budget-tokens", "64", "--max-tokens", "24", "--limit", "3")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    size = write_character_tokenizer(folder)
    write_tiny_model(folder, seed=0, vocab_size=-(-size // 32) * 32)
    return str(folder)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--strategy", "mcts"), "puct"),  # the names that there are
        (("--strategy", "puct:kapa=1"), "kappa"),
        (("--strategy", "majority", "--temperature", "0"), "temperature 0"),
        (("--strategy", "majority", "--steps", "words"), "line, paragraph, sentence"),
        (("--strategy", "majority", "--budget-tokens", "0"), "budget_tokens"),
        (("--strategy", "majority", "--task", "nothing"), "nothing"),
        (("--strategy", "majority", "--set", "search.breadth=2"), "search.breadth"),
        (("--strategy", "majority", "--set", "benchmarks.strategy='first'"), "search.strategy"),
        (("--strategy", "majority", "--max-tokens", "5000"), "positions of the model"),
        (("--strategy", "majority", "--prompt", "few-shot"), "another prompt style"),
        (("--strategy", "gumbel"), "set it"),
    ],
)
def test_the_message_says_what_to_change(
    model: str, arguments: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["search", model, *GIVEN, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path.cwd().rglob("events_*"))


PLAIN = """
from cotree.grpo.evaluation.benchmark import Benchmark, Row
from cotree.rewards.types import Problem


class Plain(Benchmark):
    name = "plain"
    prompt = "bare"

    def rows(self):
        return [{"q": "1+1", "a": "2"}]

    def problem(self, row: Row, place: str, index: int) -> Problem:
        return self.posed(index, str(row["q"]), str(row["a"]))
"""


def test_a_strategy_that_needs_verdicts_needs_somebody_who_gives_them(
    model: str, capsys: pytest.CaptureFixture[str]
):
    Path("plain.py").write_text(PLAIN)
    own = ("--task", "plain.py:Plain", "--budget-tokens", "64", "--max-tokens", "24")
    assert main(["search", model, *own, "--strategy", "dfs"]) == 2
    assert "names no step_reward" in capsys.readouterr().err


def test_the_strategies_are_listed_with_their_settings(capsys: pytest.CaptureFixture[str]):
    assert main(["strategies"]) == 0
    told = capsys.readouterr().out
    for word in ("puct", "kappa", "dfs", "tries", "monte-carlo", "verdicts"):
        assert word in told

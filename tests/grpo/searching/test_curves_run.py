"""Tests for grpo/searching/curves_run.py: what the judge is worth is told apart from the search."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_search import ModelSearch, Search
from cotree.grpo.evaluation.benchmark import benchmark_named
from cotree.grpo.searching.curves_run import compare_runs, judge_quality
from cotree.grpo.searching.finished import FinishedRun
from cotree.rewards.types import Problem, Verdict
from cotree.search.export import GradedSearch
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_json import Choice, SearchRecord
from cotree.search.types import Step


def leaf(tree: Tree, token: int, *, answer: str, refuted: bool = False) -> int:
    verdict = Verdict.REFUTED if refuted else Verdict.VERIFIED
    text = f"<think>\n</think>\n\\boxed{{{answer}}}"
    end = tree.add(ROOT, Step((token,), (-1.0,), text, "stop", verdict), (token, 0))
    tree[end].answer, tree[end].score = answer, 1.0 - refuted
    return end


def run(root: Path, strategy: str = "majority", **changes: object) -> FinishedRun:
    """One problem of value 14: two right completions, one of them refuted, and a wrong one."""
    tree = Tree()
    good = leaf(tree, 7, answer="14")
    leaf(tree, 7, answer="14")  # the same tokens again: drawn twice
    leaf(tree, 8, answer="14", refuted=True)
    leaf(tree, 9, answer="20", refuted=True)
    counts = {"budget": 64, "spent": 4, "lost": 0, "prompt_tokens": 9, "cached_tokens": 0}
    record = SearchRecord(0, "p", "2+3*4", 0, strategy, tree, good, (Choice(1, good),), counts)
    problem = Problem("p", "2+3*4\n", "14", "arithmetic", "2+3*4")
    settings = ModelSearch(
        benchmarks=Benchmarks(names=("arithmetic",), **({"temperature": 1.0} | changes)),
        search=Search(strategy=strategy, budget_tokens=64),
    )
    benchmark = benchmark_named("arithmetic")
    return FinishedRun(root, "model", settings, benchmark, {"p": problem}, [record], False, None)


def test_recall_and_false_alarm_count_every_draw(tmp_path: Path):
    one = run(tmp_path)
    with one.scorer() as scorer:
        searches = one.graded(scorer)
    found = judge_quality(one, searches)
    assert found is not None
    # Right: two draws of one completion that is clean, one refuted. Wrong: one, refuted.
    assert found.false_alarm.value == pytest.approx(1 / 3)
    assert found.recall.value == 1.0
    assert found.measured_on == "1 wrong and 3 right completions of majority"
    assert found.name == "rewriting_steps"


def test_without_wrong_or_right_completions_nothing_is_said(tmp_path: Path):
    one = run(tmp_path)
    search = GradedSearch(one.records[0], {1: True, 2: True, 3: None})
    assert judge_quality(one, [search]) is None


def test_runs_that_differ_in_more_than_the_strategy_are_refused(tmp_path: Path):
    runs = [run(tmp_path / "a"), run(tmp_path / "b", "puct", temperature=0.6)]
    with pytest.raises(ConfigError, match=r"a differ in temperature"):
        compare_runs(runs, baseline=0, target=tmp_path / "c.html", seed=0)


def test_two_runs_of_one_strategy_are_told_apart_by_their_folders(tmp_path: Path):
    runs = [run(tmp_path / "a"), run(tmp_path / "b"), run(tmp_path / "c", "puct")]
    found = compare_runs(runs, baseline=0, target=tmp_path / "c.html", seed=0)
    assert [one.name for one in found.runs] == ["a: majority", "b: majority", "puct"]
    assert "completions of majority" in (tmp_path / "c.html").read_text()

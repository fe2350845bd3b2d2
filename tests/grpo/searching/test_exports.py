"""Tests for grpo/searching/exports.py: files that the cold start reads, and whole ones."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotree.grpo.config import Pipeline
from cotree.grpo.evaluation.benchmarks import Gsm8k
from cotree.grpo.evaluation.scoring import Scorer
from cotree.grpo.searching.exports import (
    export_labels,
    export_pairs,
    export_traces,
    graded_leaves,
)
from cotree.grpo.supervised import load_examples
from cotree.grpo.tokens import load_tokenizer
from cotree.rewards.types import Problem, Verdict
from cotree.search.export import GradedSearch, PairRule
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_json import SearchRecord
from cotree.search.types import Step, StepEnd

EOS = 1
PROBLEM = Problem("gsm8k/0", "", "42", "gsm8k", "6 x 7?")
ORIGIN = {"problem_id", "search", "seed", "strategy", "digest", "policy"}


def step(text: str, end: StepEnd = "boundary", verdict: Verdict = Verdict.UNCHECKED) -> Step:
    ids = tuple(map(ord, text))
    return Step(ids, (-0.5,) * len(ids), text, end, verdict)


def record(tree: Tree, strategy: str = "monte-carlo:8") -> SearchRecord:
    return SearchRecord(3, PROBLEM.id, PROBLEM.question, 7, strategy, tree, None, (), {})


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


@pytest.fixture
def graded() -> GradedSearch:
    """Two first steps, from one of which all four completions are right, from the other none."""
    tree, correct = Tree(), dict[int, bool | None]()
    for text, outcome in (("It is 6 * 7.\n", True), ("It is 6 + 7.\n", False)):
        for number in range(4):
            node = tree.add(ROOT, step(text), (number, 0))
            end = tree.add(node, step(rf"“{number}” \boxed{{42}}", "stop"), (number, 1))
            correct[end] = outcome
    return GradedSearch(record(tree), correct)


# --- traces ------------------------------------------------------------------------------------


def test_a_cold_start_trains_on_the_tokens_that_were_sampled(tiny_model: Path, tmp_path: Path):
    tokenizer = load_tokenizer(str(tiny_model), revision=None)
    texts = ["6 x 7 is 42,\n", r" so \boxed{42}."]
    ids = [tuple(tokenizer.encode(text)) for text in texts]
    tree = Tree()
    first = tree.add(ROOT, Step(ids[0], (-1.0,) * len(ids[0]), texts[0], "boundary"), (0, 0))
    last = (*ids[1], EOS)  # the token that ends the completion has no text
    end = tree.add(first, Step(last, (-1.0,) * len(last), texts[1], "stop"), (0, 1))
    path = tmp_path / "traces.jsonl"
    searches = [GradedSearch(record(tree), {end: True})]
    exported = export_traces(searches, path, policy="tiny", per_problem=2, rank="score")
    assert (exported.path, exported.num_items, exported.left_out) == (path, 1, {})
    pipeline = Pipeline.model_validate(
        {
            "output_dir": str(tmp_path),
            "model": {"type": "pretrained", "path": str(tiny_model)},
            "task": {"type": "arithmetic"},
            "sft": {
                "traces": {"type": "rows", "path": str(path)},
                "num_steps": 1,
                "optimizer": {"learning_rate": 1e-3},
            },
        }
    )
    (example,) = load_examples(pipeline, str(tiny_model), revision=None)
    assert example.completion_ids == tree.token_ids(end)
    assert tokenizer.decode(example.prompt_ids) == "6 x 7?\n"


def test_a_trace_says_where_it_comes_from(graded: GradedSearch, tmp_path: Path):
    path = tmp_path / "new" / "traces.jsonl"
    exported = export_traces([graded], path, policy="qwen", per_problem=3, rank="score")
    assert exported.left_out == {"wrong": 4, "others are better": 1}
    found = rows(path)
    tree = graded.record.tree
    assert len(found) == exported.num_items == 3
    for row in found:
        node = row["node"]
        assert isinstance(node, int)
        assert row["id"] == f"gsm8k/0/3/{node}"
        assert (row["question"], row["solution"]) == (PROBLEM.question, tree.text(node))
        assert row["token_ids"] == list(tree.token_ids(node))
        assert row["num_tokens"] == len(tree.token_ids(node))
        assert {key: row[key] for key in ORIGIN} == {
            "problem_id": "gsm8k/0",
            "search": 3,
            "seed": 7,
            "strategy": "monte-carlo:8",
            "digest": graded.record.digest,
            "policy": "qwen",
        }
        assert set(row) - ORIGIN == {
            "id", "question", "solution", "token_ids", "num_tokens", "quality", "node"
        }  # fmt: skip


# --- pairs and labels --------------------------------------------------------------------------


def test_a_pair_has_one_prefix_two_steps_and_their_values(graded: GradedSearch, tmp_path: Path):
    exported = export_pairs([graded], tmp_path / "pairs.jsonl", policy="qwen", rule=PairRule())
    (row,) = rows(tmp_path / "pairs.jsonl")
    assert exported.num_items == 1
    # The four ends after each step are siblings too: 2 * 4 * 3 / 2 pairs, one outcome each.
    assert exported.left_out == {"too few outcomes": 12}
    assert row["prefix"] == ""
    assert (row["chosen"], row["rejected"]) == ("It is 6 * 7.\n", "It is 6 + 7.\n")
    assert row["chosen_ids"] == list(map(ord, "It is 6 * 7.\n"))
    assert row["by"] == "outcomes"
    values = ({"soft": 1.0, "hard": True, "n": 4}, {"soft": 0.0, "hard": False, "n": 4})
    for side, value in zip(("chosen", "rejected"), values, strict=True):
        assert row[f"{side}_value"] == value | {"standard_error": 0.0}
    assert set(row) >= ORIGIN


def test_a_step_refuted_before_its_end_has_no_value(graded: GradedSearch, tmp_path: Path):
    graded.record.tree.add(ROOT, step("It is 6.\n", verdict=Verdict.REFUTED), (9, 0))
    path = tmp_path / "pairs.jsonl"
    export_pairs([graded], path, policy="qwen", rule=PairRule(use_verdicts=True))
    refuted = [row for row in rows(path) if row["by"] == "verdict"]
    assert [(row["chosen"], row["rejected"]) for row in refuted] == [
        ("It is 6 * 7.\n", "It is 6.\n")
    ]
    assert refuted[0]["rejected_value"] is None


def test_labels_have_their_steps_and_both_estimates(graded: GradedSearch, tmp_path: Path):
    path = tmp_path / "labels.jsonl"
    exported = export_labels([graded], path, policy="qwen", min_outcomes=4)
    assert (exported.num_items, exported.left_out) == (10, {})
    first = rows(path)[0]
    assert first["steps"] == ["It is 6 * 7.\n"]
    assert (first["soft"], first["hard"], first["n"]) == (1.0, True, 4)
    assert set(first) - ORIGIN == {
        "question", "steps", "soft", "hard", "n", "standard_error", "is_end", "node"
    }  # fmt: skip
    assert set(first) >= ORIGIN


def test_a_refused_export_leaves_the_old_file(graded: GradedSearch, tmp_path: Path):
    path = tmp_path / "labels.jsonl"
    export_labels([graded], path, policy="qwen", min_outcomes=4)
    before = path.read_bytes()
    searched = GradedSearch(record(graded.record.tree, "puct:8"), graded.correct)
    with pytest.raises(ValueError, match="`monte-carlo`"):
        export_labels([graded, searched], path, policy="qwen", min_outcomes=4)
    assert path.read_bytes() == before
    assert [one.name for one in tmp_path.iterdir()] == ["labels.jsonl"]


def test_an_export_replaces_the_file(graded: GradedSearch, tmp_path: Path):
    path = tmp_path / "traces.jsonl"
    path.write_text("something else\n")
    export_traces([], path, policy="qwen", per_problem=1, rank="mean-q")
    assert path.read_bytes() == b""
    export_traces([graded], path, policy="qwen", per_problem=1, rank="mean-q")
    assert len(rows(path)) == 1
    assert [one.name for one in tmp_path.iterdir()] == ["traces.jsonl"]


# --- grading -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    limits = {"workers": 1, "timeout_seconds": 5.0, "max_failed_frac": 0.2}
    with Scorer(Gsm8k(), strict_rule=None, **limits) as running:
        yield running


def test_leaves_are_graded_by_the_benchmark(scorer: Scorer):
    tree = Tree()
    first = tree.add(ROOT, step("6 x 7\n"), (0, 0))
    right = tree.add(first, step(r"is \boxed{42}", "stop"), (0, 1))
    wrong = tree.add(first, step(r"is \boxed{13}", "stop"), (1, 1))
    cut = tree.add(first, step("is $42$ or", "length"), (2, 1))
    tree.add(first, step("is, let us see,"), (3, 1))  # not an end
    revised = tree.add(wrong, step(r"Rather \boxed{42}", "stop"), (4, 0), restarts=True)
    found = graded_leaves(record(tree), PROBLEM, scorer, prompt_opens_thinking=False)
    assert found == {right: True, wrong: False, cut: False, revised: True}
    thinking = graded_leaves(record(tree), PROBLEM, scorer, prompt_opens_thinking=True)
    assert not any(thinking.values())  # no thought was ended


def test_another_problem_cannot_grade_a_search(scorer: Scorer):
    other = Problem("gsm8k/1", "", "42", "gsm8k", "6 x 7?")
    with pytest.raises(ValueError, match="is of problem 'gsm8k/0', not of 'gsm8k/1'"):
        graded_leaves(record(Tree()), other, scorer, prompt_opens_thinking=False)

"""Tests for grpo/searching/first_errors.py: labels of toy searches, killed and repeated."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import ANSWER_TOKENS, BAD, END, STEP_TOKENS, ToyWorld, decode, play

from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_search import ModelSearch
from cotree.grpo.evaluation.engine_sampler import PromptEncoder
from cotree.grpo.evaluation.fingerprint import model_identity
from cotree.grpo.evaluation.job import all_parts, make_jobs
from cotree.grpo.searching.finished import FinishedRun
from cotree.grpo.searching.first_errors import (
    Labelled,
    LabelPlan,
    WrongCompletion,
    label_first_errors,
    labelled,
    wrong_completions,
)
from cotree.grpo.tokens import load_tokenizer
from cotree.search.event_log import EventLog
from cotree.search.export import GradedSearch
from cotree.search.monte_carlo import MonteCarlo, MonteCarloSettings
from cotree.search.step_rule import STEP_RULES
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_json import SearchRecord
from cotree.search.types import Continuation, Request, Step, StepEnd

WORLD = ToyWorld(depth=3)
MOST = STEP_TOKENS * WORLD.depth + ANSWER_TOKENS
ORIGIN = {"problem_id", "search", "seed", "strategy", "digest", "policy"}
PLAN = LabelPlan(
    per_problem=1,
    limit=None,
    samples=4,
    budget_tokens=None,
    max_tokens=MOST,
    rule=STEP_RULES["line"],
    slots=8,
    seed=5,
    model={"model": "toy"},
)


def searched(number: int, *, seed: int = 0) -> GradedSearch:
    """A search of a toy problem, graded."""
    strategy = MonteCarlo(MonteCarloSettings(chains=4, samples=1))
    play(WORLD, strategy, number=number, budget=10**6, seed=seed)
    tree, question = strategy.tree, WORLD.question(number)
    record = SearchRecord(
        number, question.id, question.text, seed, "monte-carlo", tree, None, (), {}
    )
    return GradedSearch(record, {end.id: end.answer == "right" for end in tree.leaves()})


SEARCHES = [searched(number) for number in range(6)]


class Engines:
    """Of the toy world, for searches that have the numbers of a plan."""

    def __init__(self, plan: LabelPlan, wrong: Sequence[WrongCompletion]) -> None:
        self.requests: list[Request] = []
        self._by_number = {plan.number_of(one): (one, plan.seed_of(one)) for one in wrong}

    def exchange(self, requests: Sequence[Request]) -> list[Continuation]:
        self.requests += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Continuation:
        one, seed = self._by_number[request.search]
        question = WORLD.question(one.record.search)
        ids = WORLD.tokens_after(question, request.prefix, request.key, seed, one=False)
        assert len(ids) <= request.max_tokens
        assert ids[-1] == END
        return Continuation(request.name, ids, (-0.5,) * len(ids), "stop")


def is_right(problem_id: str, text: str) -> bool:
    assert problem_id.startswith("toy/")
    return text.endswith("right")


def labels(
    plan: LabelPlan, path: Path, *, searches: Sequence[GradedSearch] = SEARCHES
) -> tuple[Labelled, Engines]:
    """Labels with a log in `path`."""
    wrong = wrong_completions(searches, plan)
    engines = Engines(plan, wrong)
    with EventLog(path) as log:
        found = labelled(
            wrong, engines, plan, is_right=is_right, decode=decode, policy="toy", log=log
        )
    return found, engines


# --- rows --------------------------------------------------------------------------------------


def test_rows_have_the_first_bad_steps(tmp_path: Path):
    # V(question) >= 0.5^3, and 100 rollouts miss it with probability 0.000002.
    plan = replace(PLAN, samples=100, per_problem=3)
    found, _ = labels(plan, tmp_path / "log")
    wrong = wrong_completions(SEARCHES, plan)
    assert len(found.rows) == len(wrong) == found.endings["found"] > 6
    for row, one in zip(found.rows, wrong, strict=True):
        record = one.record
        bad = [BAD in step.token_ids for step in one.steps]
        assert row["first_error"] == bad.index(True)
        assert row["steps"] == [step.text for step in one.steps]
        assert row["question"] == record.question
        assert row["node"] == one.node
        assert {key: row[key] for key in ORIGIN} == {
            "problem_id": record.problem_id,
            "search": record.search,
            "seed": record.seed,
            "strategy": "monte-carlo",
            "digest": record.digest,
            "policy": "toy",
        }
        assert set(row) - ORIGIN == {"question", "steps", "first_error", "values", "node"}
        values = row["values"]
        assert isinstance(values, list)
        assert [value["steps"] for value in values] == sorted(value["steps"] for value in values)
        for value in values:
            assert set(value) == {"steps", "soft", "hard", "n", "standard_error"}
            assert value["n"] == 100
            # A prefix with the bad step in it is hopeless, one without is not.
            assert value["hard"] == (value["steps"] <= bad.index(True))
        json.dumps(row, allow_nan=False)


def test_hopeless_questions_have_a_row_without_an_error(tmp_path: Path):
    wrong = wrong_completions(SEARCHES, PLAN)
    with EventLog(tmp_path / "log") as log:
        found = labelled(
            wrong,
            Engines(PLAN, wrong),
            PLAN,
            is_right=lambda *_: False,
            decode=decode,
            policy="toy",
            log=log,
        )
    assert found.endings == {"hopeless": len(wrong)}
    assert [row["first_error"] for row in found.rows] == [None] * len(wrong)
    assert all(len(row["values"]) == 1 for row in found.rows)
    # 4 rollouts each, of whole completions.
    assert found.num_tokens == 4 * MOST * len(wrong)


def test_what_was_not_finished_is_counted_and_not_written(tmp_path: Path):
    wrong = wrong_completions(SEARCHES, PLAN)
    # Four rollouts of the question, and not one more of a prefix of one or two steps.
    tight = replace(PLAN, budget_tokens=4 * MOST + STEP_TOKENS)
    found, engines = labels(tight, tmp_path / "log")
    assert found.endings["out of budget"] > 0
    assert found.endings["hopeless"] + found.endings["out of budget"] == len(wrong)
    assert len(found.rows) == found.endings["hopeless"]
    assert len(engines.requests) == 4 * len(wrong)
    with EventLog(tmp_path / "other") as log:
        ungraded = labelled(
            wrong,
            Engines(PLAN, wrong),
            PLAN,
            is_right=lambda *_: None,
            decode=decode,
            policy="toy",
            log=log,
        )
    assert ungraded.endings == {"not graded": len(wrong)}
    assert ungraded.rows == []


# --- the log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", [0, 1, 9, 30])
def test_a_kill_costs_no_token_that_was_returned(tmp_path: Path, kept: int):
    whole, all_engines = labels(PLAN, tmp_path / "whole")
    path = tmp_path / "log"
    lines = (tmp_path / "whole").read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:kept]) + lines[kept][:20])
    resumed, engines = labels(PLAN, path)
    assert resumed == whole
    assert len(engines.requests) == len(all_engines.requests) - kept
    again, engines = labels(PLAN, path)
    assert again == whole
    assert engines.requests == []


def test_more_to_label_generates_only_what_is_new(tmp_path: Path):
    _, first = labels(replace(PLAN, limit=3), tmp_path / "log")
    more, second = labels(replace(PLAN, per_problem=2), tmp_path / "log")
    fresh, engines = labels(replace(PLAN, per_problem=2), tmp_path / "fresh")
    assert more == fresh
    assert {r.name for r in first.requests}.isdisjoint(r.name for r in second.requests)
    assert len(first.requests) + len(second.requests) == len(engines.requests)


def test_a_larger_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path):
    _, first = labels(replace(PLAN, budget_tokens=4 * MOST + STEP_TOKENS), tmp_path / "log")
    more, second = labels(PLAN, tmp_path / "log")
    fresh, engines = labels(PLAN, tmp_path / "fresh")
    assert more == fresh
    assert len(first.requests) + len(second.requests) == len(engines.requests)


@pytest.mark.parametrize("change", [{"samples": 5}, {"seed": 6}, {"model": {"model": "other"}}])
def test_a_log_never_answers_for_another_plan(tmp_path: Path, change: Mapping[str, object]):
    labels(PLAN, tmp_path / "log")
    other = replace(PLAN, **change)
    found, engines = labels(other, tmp_path / "log")
    fresh, fresh_engines = labels(other, tmp_path / "fresh")
    assert found == fresh
    assert engines.requests == fresh_engines.requests


def test_a_log_never_answers_for_another_tree(tmp_path: Path):
    labels(PLAN, tmp_path / "log")
    # The same search run again with other sampling: its completions end in the same places.
    others = [
        GradedSearch(replace(one.record, seed=0), one.correct)
        for one in (searched(number, seed=1) for number in range(6))
    ]
    found, engines = labels(PLAN, tmp_path / "log", searches=others)
    fresh, fresh_engines = labels(PLAN, tmp_path / "fresh", searches=others)
    assert found == fresh
    assert engines.requests == fresh_engines.requests


def test_completions_have_seeds_of_their_own():
    plan = replace(PLAN, per_problem=9)
    other = [searched(number, seed=1) for number in range(6)]
    wrong = wrong_completions([*SEARCHES, *other], plan)
    seeds = [plan.seed_of(one) for one in wrong]
    assert len(set(seeds)) == len(seeds) > 12
    assert set(seeds).isdisjoint(plan.number_of(one) for one in wrong)
    assert set(seeds).isdisjoint(one.record.seed for one in wrong)


# --- what is labelled --------------------------------------------------------------------------


def step(text: str, end: StepEnd = "boundary") -> Step:
    ids = tuple(map(ord, text))
    return Step(ids, (-0.5,) * len(ids), text, end)


def test_distinct_wrong_completions_that_ended_are_labelled():
    tree = Tree()
    first = tree.add(ROOT, step("a\n"), (0, 0))
    wrong = tree.add(first, step("b", "stop"), (0, 1))
    right = tree.add(first, step("c", "stop"), (1, 1))
    cut = tree.add(first, step("d", "length"), (2, 1))
    ungraded = tree.add(first, step("e", "stop"), (3, 1))
    same = tree.add(first, step("b ", "stop"), (4, 1))
    revised = tree.add(cut, step("f\n"), (5, 0), restarts=True)
    revision = tree.add(revised, step("g", "stop"), (5, 1))
    last = tree.add(ROOT, step("h", "stop"), (6, 0))
    tree.add(first, step("open\n"), (7, 1))
    correct = {
        wrong: False,
        right: True,
        cut: False,
        ungraded: None,
        same: False,
        revision: False,
        last: False,
    }
    record = SearchRecord(0, "toy/0", "problem 0", 0, "puct", tree, None, (), {})
    graded = GradedSearch(record, correct)
    plan = replace(PLAN, per_problem=9)
    assert [one.node for one in wrong_completions([graded], plan)] == [wrong, last]
    # Another search of the problem: its completions are the same ones.
    assert len(wrong_completions([graded, graded], plan)) == 2
    assert [one.node for one in wrong_completions([graded], PLAN)] == [wrong]
    assert [step.text for step in wrong_completions([graded], PLAN)[0].steps] == ["a\n", "b"]


@given(st.integers(1, 6), st.integers(1, 7))
@settings(max_examples=20)
def test_limits_count_problems_and_completions_of_each(per_problem: int, limit: int):
    everything = wrong_completions(SEARCHES, replace(PLAN, per_problem=99))
    found = wrong_completions(SEARCHES, replace(PLAN, per_problem=per_problem, limit=limit))
    ids = list(dict.fromkeys(one.record.problem_id for one in everything))[:limit]
    expected = [
        [one for one in everything if one.record.problem_id == id_][:per_problem] for id_ in ids
    ]
    assert found == [one for some in expected for one in some]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "--samples 0"),
        ({"per_problem": 0}, "--per-problem 0"),
        ({"limit": 0}, "--limit 0"),
        ({"budget_tokens": MOST - 1}, f"--budget-tokens {MOST - 1} .* up to {MOST} tokens"),
    ],
)
def test_numbers_that_label_nothing_are_refused(change: Mapping[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        replace(PLAN, **change)


# --- a run -------------------------------------------------------------------------------------


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> FinishedRun:
    """A run in which nothing wrong was found."""
    sections = {
        "benchmarks": {
            "names": ["arithmetic"],
            "limit": 2,
            "max_tokens": 8,
            "temperature": 1.0,
            "grading_workers": 1,
        },
        "search": {"strategy": "majority:2", "budget_tokens": 16},
    }
    searched_with = ModelSearch.model_validate(sections)
    template = PromptEncoder(load_tokenizer(str(tiny_model), revision=None)).template
    (job,) = make_jobs(searched_with.benchmarks, has_template=template is not None)
    plan = {
        "model": model_identity(str(tiny_model), None),
        "benchmarks": {"arithmetic": all_parts(job, engine={"v": 1}, template=template)},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    return FinishedRun(
        root=tmp_path,
        model=str(tiny_model),
        settings=searched_with,
        benchmark=job.benchmark,
        problems={problem.id: problem for problem in job.data.problems},
        records=[],
        prompt_opens_thinking=False,
        wall_seconds=None,
    )


def test_nothing_to_label_starts_no_engine_and_leaves_an_empty_file(run: FinishedRun):
    path = run.root / "new" / "labels.jsonl"
    found = label_first_errors(run, path, samples=2, per_problem=1, budget_tokens=None, limit=None)
    assert (list(found.rows), found.num_tokens) == ([], 0)
    assert path.read_bytes() == b""
    assert [one.name for one in path.parent.iterdir()] == ["labels.jsonl"]


@pytest.mark.parametrize("part", ["model", "prompt", "data"])
def test_another_policy_than_was_searched_with_is_refused(run: FinishedRun, part: str):
    plan_file = run.root / "plan.json"
    plan = json.loads(plan_file.read_text())
    changed = plan["model"] if part == "model" else plan["benchmarks"]["arithmetic"][part]
    changed["was"] = "another"
    plan_file.write_text(json.dumps(plan))
    with pytest.raises(ConfigError, match=rf"{part}.was: 'another' then, None now"):
        label_first_errors(
            run, run.root / "l.jsonl", samples=2, per_problem=1, budget_tokens=None, limit=None
        )
    assert not (run.root / "l.jsonl").exists()


def test_a_relative_file_in_a_ray_job_is_refused(run: FinishedRun, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(ConfigError, match=r"\$PWD/l\.jsonl"):
        label_first_errors(
            run, Path("l.jsonl"), samples=2, per_problem=1, budget_tokens=None, limit=None
        )

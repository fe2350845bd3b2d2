"""Tests for search/driver.py with running.py and event_log.py, on engines of a toy world."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import ANSWER_TOKENS, STEP_TOKENS, ToyBackend, ToyWorld, decode

from cotree.search.driver import drive
from cotree.search.event_log import EventLog, EventLogError
from cotree.search.ledger import Limits
from cotree.search.running import RunningSearch
from cotree.search.step_rule import STEP_RULES, StepRule
from cotree.search.tree import ROOT
from cotree.search.tree_json import tree_digest
from cotree.search.tree_strategy import Growing
from cotree.search.types import Continuation, Job, Judgement, Reply, Request, State

WORLD = ToyWorld(depth=4, num_nonces=3)
MOST = STEP_TOKENS * WORLD.depth + ANSWER_TOKENS


class Wanderer(Growing):
    """Asks for random kinds of jobs at random nodes: whatever a strategy may do."""

    def __init__(self, seed: int, *, most: int = 10_000, kinds: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._seed, self._most = seed, most
        self._kinds = kinds or ("step", "rollout", "watched", "revise")

    def _next(self) -> Job | None:
        if self._num_asked >= self._most:
            return None
        rng = random.Random(f"{self._seed} {self._num_asked}")
        kind = rng.choice(self._kinds)
        if kind == "revise":
            ends = [node.id for node in self.tree.leaves()]
            return self._job(rng.choice(ends), "revise") if ends else self._job(ROOT, "rollout")
        nodes = [node.id for node in self.tree.nodes if node.is_open and not node.is_refuted]
        node = rng.choice(nodes)
        if kind == "watched":
            return self._job(node, "rollout", stops_when_refuted=True)
        return self._job(node, "step" if kind == "step" else "rollout")

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        for node in [*self.tree.path(job.node), *grown]:
            self.tree[node].visits += 1

    def best(self) -> int | None:
        ends = [node.id for node in self.tree.leaves() if node.answer is not None]
        return max(ends, default=None)


class Recording:
    """A judge that notes what it is shown."""

    def __init__(self) -> None:
        self.seen: list[State] = []

    def judge(self, states: Sequence[State]) -> list[Judgement]:
        self.seen += states
        return WORLD.judge(states)


def searched(
    backend: ToyBackend,
    numbers: list[int],
    *,
    budget: int = 80,
    width: int = 3,
    concurrency: int = 4,
    log: EventLog | None = None,
    rule: StepRule = STEP_RULES["line"],
    kinds: tuple[str, ...] = (),
    most: int = 10_000,
) -> dict[int, RunningSearch]:
    searches = (
        RunningSearch(
            number,
            WORLD.question(number),
            Wanderer(number, kinds=kinds, most=most),
            limits=Limits(budget, MOST, width),
            rule=rule,
            decode=decode,
        )
        for number in numbers
    )
    stream = drive(searches, backend, WORLD, concurrency=concurrency, log=log)
    return {search.number: search for search in stream}


def backend(count: int = 8) -> ToyBackend:
    return ToyBackend(WORLD, [WORLD.question(n) for n in range(count)], [5] * count)


def trees(searches: dict[int, RunningSearch]) -> dict[int, str]:
    return {number: tree_digest(one.strategy.tree) for number, one in searches.items()}


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 8), st.sampled_from([17, 60, 81]))
@settings(max_examples=12)
def test_the_budget_is_hard_and_every_token_is_accounted_for(
    order: int, at_once: int, width: int, budget: int
):
    engines = backend().shuffled(order, at_once)
    found = searched(engines, list(range(8)), budget=budget, width=width)
    assert sum(one.ledger.spent for one in found.values()) == engines.num_tokens
    for one in found.values():
        assert one.ledger.spent == one.strategy.tree.num_tokens + one.ledger.lost
        assert one.ledger.spent <= budget
        assert one.ledger.reserved == 0
        # Nothing but the budget ends a wanderer, and it takes one token at least.
        assert one.ledger.free == 0


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 8))
@settings(max_examples=12)
def test_trees_do_not_depend_on_arrival_or_on_what_else_runs(
    order: int, at_once: int, concurrency: int
):
    alone = searched(backend(), [3], concurrency=1)
    together = searched(backend().shuffled(order, at_once), list(range(8)), concurrency=concurrency)
    assert trees(together)[3] == trees(alone)[3]
    assert together[3].history == alone[3].history
    assert together[3].ledger.counts() == alone[3].ledger.counts()


def test_other_seeds_give_other_trees():
    other = ToyBackend(WORLD, [WORLD.question(n) for n in range(8)], [6] * 8)
    assert trees(searched(backend(), [3])) != trees(searched(other, [3]))


@pytest.mark.parametrize("kept", [0, 1, 7, 40, 10**9])
@pytest.mark.parametrize("torn", [False, True])
def test_a_killed_search_resumes_without_paying_twice(tmp_path: Path, kept: int, torn: bool):
    path = tmp_path / "events.jsonl"
    engines = backend().shuffled(1, 5)
    with EventLog(path) as log:
        whole = searched(engines, list(range(8)), log=log)
    lines = path.read_text().splitlines(keepends=True)
    left = lines[: min(kept, len(lines))]
    path.write_text("".join(left) + (lines[0][:25] if torn else ""))
    again = backend().shuffled(2, 3)
    with EventLog(path) as log:
        assert log.num_read == len(left)
        resumed = searched(again, list(range(8)), log=log)
    assert trees(resumed) == trees(whole)
    assert {n: one.history for n, one in resumed.items()} == {
        n: one.history for n, one in whole.items()
    }
    # Exactly the requests that were not in the log were generated, and none twice.
    assert len(again.requests) == len(lines) - len(left)
    assert len(path.read_text().splitlines()) == len(lines)


def test_a_replay_needs_no_engine_at_all(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        whole = searched(backend(), list(range(8)), log=log)

    class NoEngine(ToyBackend):
        def exchange(self, requests: Sequence[Request]) -> list[Continuation]:
            raise AssertionError(f"asked for {len(requests)} requests")

    nothing = NoEngine(WORLD, [], [])
    with EventLog(path) as log:
        assert trees(searched(nothing, list(range(8)), log=log)) == trees(whole)


def test_a_log_of_other_settings_is_refused(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        searched(backend(), [0], log=log)
    with EventLog(path) as log, pytest.raises(EventLogError, match="other settings"):
        searched(backend(), [0], log=log, kinds=("step",))


@pytest.mark.parametrize("line", ["{}", "[]", "nonsense", '{"name": [0, 0, 0]}'])
def test_a_line_that_is_no_event_is_named(tmp_path: Path, line: str):
    path = tmp_path / "events.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(EventLogError, match="line 1"):
        EventLog(path)


def test_step_jobs_and_rollouts_cut_the_same_steps():
    steps = searched(backend(), [0, 1], kinds=("step",))
    rollouts = searched(backend(), [0, 1], kinds=("rollout",))
    for found in (steps, rollouts):
        for one in found.values():
            for node in one.strategy.tree.nodes[1:]:
                assert node.step is not None
                if node.step.end == "boundary":
                    assert len(node.step.token_ids) == STEP_TOKENS
                    assert node.step.text == decode(node.step.token_ids)


def test_a_watched_rollout_ends_with_its_first_refuted_step():
    found = searched(backend(), list(range(8)), kinds=("watched",))
    refuted = [
        node
        for one in found.values()
        for node in one.strategy.tree.nodes
        if node.step is not None and node.step.verdict == "refuted"
    ]
    assert len(refuted) > 20
    assert all(not node.children for node in refuted)


def test_an_unwatched_rollout_is_one_request():
    engines = backend()
    found = searched(engines, [0], kinds=("rollout",))
    assert len(engines.requests) == found[0].ledger.jobs


def test_what_the_budget_cuts_answers_nothing():
    found = searched(backend(), list(range(8)), budget=MOST - 1, kinds=("rollout",), width=1)
    for one in found.values():
        cut = [node for node in one.strategy.tree.leaves() if not node.is_finished]
        assert [(node.answer, node.score) for node in cut] == [(None, 0.0)]


def test_tokens_end_steps_too():
    found = searched(backend(), [0], kinds=("step",), rule=StepRule("tokens:2", (), 2))
    sizes = {node.num_tokens for node in found[0].strategy.tree.nodes[1:] if node.is_open}
    assert sizes == {2}


def test_a_strategy_that_ends_by_its_own_rule_keeps_the_rest_of_the_budget():
    found = searched(backend(), [0], most=2, budget=10_000)
    assert found[0].ledger.jobs == 2
    assert found[0].ledger.free > 0


def test_revisions_begin_anew_and_see_the_draft():
    engines = backend()
    found = searched(engines, [0], kinds=("revise",))
    drafts = [request.draft for request in engines.requests if request.draft is not None]
    assert drafts
    assert all(draft.endswith(("right", "wrong")) or "\n" in draft for draft in drafts)
    tree = found[0].strategy.tree
    revised = [node.id for node in tree.nodes if node.restarts]
    assert revised
    for node in revised:
        assert tree.completion(node)[0] is tree[node].step


def test_judges_are_shown_questions_and_texts_only():
    judge = Recording()
    search = RunningSearch(
        0,
        WORLD.question(0),
        Wanderer(0),
        limits=Limits(100, MOST, 1),
        rule=STEP_RULES["line"],
        decode=decode,
    )
    list(drive([search], backend(), judge, concurrency=1))
    assert judge.seen
    assert {state.question for state in judge.seen} == {WORLD.question(0)}
    assert all(state.is_finished == state.text.endswith(("right", "wrong")) for state in judge.seen)

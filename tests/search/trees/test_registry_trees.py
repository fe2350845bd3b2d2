"""Tests for search/trees/registry.py: names, and what all named strategies have in common."""

import random
from collections.abc import Callable
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import ToyWorld, play, reply_to

from cotree.search.tree import Tree
from cotree.search.tree_strategy import TreeStrategy
from cotree.search.trees.registry import TREE_STRATEGIES, tree_strategy_named
from cotree.search.types import Job, Judgement, Reply, Request, State, Step

DISTINCT = ToyWorld(depth=3, recall=0.6, num_nonces=10**9)
REPEATING = ToyWorld(depth=3, recall=0.6, num_nonces=2)

# Small enough that several rounds fit into the budgets here.
NAMES = {
    "sample": "sample",
    "majority": "majority",
    "best-of": "best-of",
    "weighted-majority": "weighted-majority",
    "vetoed-majority": "vetoed-majority:stops_when_refuted=true",
    "resample-whole": "resample-whole",
    "dfs": "dfs:votes=none",
    "beam": "beam:width=4,expansions=2",
    "dvts": "dvts:width=4,expansions=2",
    "particles": "particles:4",
    "refine": "refine",
    "puct": "puct",
    "uct": "uct",
    "gumbel": "gumbel:12",
    "monte-carlo": "monte-carlo:chains=2,samples=2",
}


def test_every_strategy_is_tested_here():
    assert list(NAMES) == list(TREE_STRATEGIES)


every_strategy = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


def contents(tree: Tree) -> list[tuple[object, ...]]:
    """All that is known of a tree, whatever the numbers of its nodes."""
    return sorted(
        (
            tuple(tree[at].step.token_ids if tree[at].step else () for at in tree.path(node.id)),
            node.key,
            node.count,
            node.draws,
            node.visits,
            round(node.value_sum, 9),
        )
        for node in tree.nodes
    )


def in_random_order(seed: int) -> Callable[[list[Job]], list[Job]]:
    shuffled = random.Random(seed)
    return lambda jobs: shuffled.sample(jobs, len(jobs))


def run_in_order(
    name: str, world: ToyWorld, seed: int, order: Callable[[list[Job]], list[Job]]
) -> tuple[list[tuple[object, ...]], object]:
    """The tree that a search grows, and the key of what it prefers."""
    search = tree_strategy_named(name).build(seed)
    play(world, search, number=seed, budget=250, batch=4, seed=seed, order=order)
    best = search.best()
    return contents(search.tree), None if best is None else search.tree[best].key


@every_strategy
@settings(max_examples=8)
@given(st.integers(0, 10**6))
def test_the_order_within_a_batch_changes_nothing(name: str, seed: int):
    shuffled = run_in_order(name, DISTINCT, seed, in_random_order(seed))
    assert shuffled == run_in_order(name, DISTINCT, seed, lambda jobs: jobs)


@pytest.mark.parametrize("name", [NAMES[name] for name in ("beam", "dvts", "particles")])
@settings(max_examples=8)
@given(st.integers(0, 10**6))
def test_the_order_within_a_round_changes_nothing_where_steps_repeat(name: str, seed: int):
    shuffled = run_in_order(name, REPEATING, seed, in_random_order(seed))
    assert shuffled == run_in_order(name, REPEATING, seed, lambda jobs: jobs)


@every_strategy
@pytest.mark.parametrize("world", [DISTINCT, REPEATING], ids=["distinct", "repeating"])
def test_every_generated_token_is_in_the_tree_once_and_nothing_stays_in_flight(
    name: str, world: ToyWorld
):
    for number in range(5):
        search = tree_strategy_named(name).build(number)
        spent = play(world, search, number=number, budget=300, batch=3, seed=number)
        assert search.tree.num_tokens == spent  # a repeated step counts as often as it was drawn
        assert {node.inflight for node in search.tree.nodes} == {0}


@every_strategy
def test_what_it_prefers_is_finished_and_has_an_answer(name: str):
    for number in range(10):
        search = tree_strategy_named(name).build(number)
        for budget in (40, 80, 160):
            play(DISTINCT, search, number=number, budget=budget, batch=2)
            best = search.best()
            if best is not None:
                assert search.tree[best].is_finished
                assert search.tree[best].answer in ("right", "wrong")


@every_strategy
def test_replies_told_twice_or_after_a_drop_change_nothing(name: str):
    search = tree_strategy_named(name).build(0)
    question = DISTINCT.question(0)
    for turn in range(12):
        jobs = search.ask(3)
        for job in jobs:
            reply = reply_to(DISTINCT, question, search, job, seed=0)
            if (job.number + turn) % 3 == 0:
                search.drop(job.number)
            else:
                search.tell(reply)
            before = contents(search.tree)
            search.tell(reply)
            search.drop(job.number)
            assert contents(search.tree) == before
    assert {node.inflight for node in search.tree.nodes} == {0}
    if not search.is_done:
        assert search.ask(1)  # it goes on


@every_strategy
def test_a_finished_completion_is_counted_as_often_as_it_was_drawn(name: str):
    search, finished = tree_strategy_named(name).build(1), 0
    for _ in range(20):
        jobs = search.ask(2)
        for job in jobs:
            reply = reply_to(REPEATING, REPEATING.question(1), search, job, seed=1)
            finished += reply.steps[-1].end == "stop"
            search.tell(reply)
    assert sum(leaf.count for leaf in search.tree.leaves()) == finished


@every_strategy
def test_the_same_seed_is_the_same_search(name: str):
    def run(seed: int) -> list[tuple[object, ...]]:
        search = tree_strategy_named(name).build(seed)
        play(DISTINCT, search, number=3, budget=300, batch=2)
        return contents(search.tree)

    assert run(5) == run(5)


@every_strategy
def test_it_asks_for_the_kinds_of_jobs_that_its_name_promises(name: str):
    named = tree_strategy_named(name)
    asked: set[str] = set()

    def watched(jobs: list[Job]) -> list[Job]:
        asked.update(job.kind for job in jobs)
        return jobs

    play(DISTINCT, named.build(0), number=0, budget=300, order=watched)
    assert asked == named.kinds


def test_nothing_that_a_tree_strategy_or_a_judge_sees_has_a_reference():
    for seen in (Job, Reply, Step, State, Judgement, Request):
        names = {field.name for field in fields(seen)}
        assert not names & {"reference", "gold", "problem", "correct"}, seen


def test_what_does_not_look_at_scores_needs_no_judge():
    free = {name for name, kind in TREE_STRATEGIES.items() if not kind.needs_verdicts}
    assert free == {"sample", "majority", "monte-carlo"}


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sample", "sample"),
        ("majority", "majority:completions=none"),
        ("majority:8", "majority:completions=8"),
        ("best-of:8", "best-of:completions=8,stops_when_refuted=false"),
        ("dfs", "dfs:tries=4,votes=1,accepted_score=1.0"),
        ("dfs:6", "dfs:tries=6,votes=1,accepted_score=1.0"),
        ("dfs:accepted_score=1,votes=none", "dfs:tries=4,votes=none,accepted_score=1.0"),
        ("beam", "beam:width=16,expansions=4,rounds=40,repeats=true"),
        ("beam:8", "beam:width=8,expansions=4,rounds=40,repeats=true"),
        ("dvts:repeats=false", "dvts:width=16,expansions=4,rounds=40,repeats=false"),
        (
            "particles:potential=score",
            "particles:particles=8,temperature=1.0,potential=score,rounds=40,repeats=true",
        ),
        ("refine:5", "refine:completions=5,max_children=3,exploration=1.4"),
    ],
)
def test_a_name_spells_every_setting_and_names_itself(text: str, name: str):
    named = tree_strategy_named(text)
    assert named.name == name
    assert tree_strategy_named(name) == named


@every_strategy
def test_canonical_names_are_names(name: str):
    named = tree_strategy_named(name)
    assert tree_strategy_named(named.name) == named


def test_each_search_has_a_strategy_of_its_own():
    named = tree_strategy_named("beam")
    one, other = named.build(0), named.build(0)
    assert one is not other
    assert one.tree is not other.tree


def test_a_number_alone_is_the_setting_that_matters_most():
    def first_ask(text: str) -> int:
        strategy: TreeStrategy = tree_strategy_named(text).build(0)
        return len(strategy.ask(100))

    assert first_ask("majority:8") == 8
    assert first_ask("beam:12") == 12
    assert first_ask("particles:5") == 5
    assert first_ask("puct:7") == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mcts", "no tree strategy is named 'mcts'; there are sample, majority, best-of"),
        ("", "no tree strategy is named ''"),
        ("sample:1", r"'sample:1': it takes no number, '1' was given. Settings of sample: none"),
        ("beam:width=x", "width = 'x' must be a whole number. Settings of beam: width, expansions"),
        ("beam:width=1.5", "width = '1.5' must be a whole number"),
        ("beam:width=", "width = '' must be a whole number"),
        ("beam:", "width = '' must be a whole number"),
        ("beam:breadth=4", "'breadth=4' is no setting; write key=value. Settings of beam: width"),
        ("beam:diverse=true", "'diverse=true' is no setting"),
        ("beam:width=8,4", "'4' is no setting"),
        ("beam:width=8,width=4", "width is set twice"),
        ("beam:width=6", "'beam:width=6': width = 6 must be a multiple of expansions = 4"),
        ("beam:repeats=yes", "repeats = 'yes' must be true or false"),
        ("majority:0", "completions = 0 must be 1 or more, or none"),
        ("majority:many", "completions = 'many' must be a whole number or none"),
        ("majority:stops_when_refuted=true", "is no setting"),
        ("particles:temperature=nan", "temperature = 'nan' must be a number"),
        ("particles:potential=odds", "potential = 'odds' must be logit or score"),
        ("puct:rule=uct", "'rule=uct' is no setting"),
        ("gumbel", "'gumbel': rule 'gumbel' divides a known number of simulations; set it"),
    ],
)
def test_names_that_mean_nothing_are_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        tree_strategy_named(text)

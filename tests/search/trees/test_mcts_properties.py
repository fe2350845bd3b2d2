"""Tests of what must hold of search/trees/mcts.py whatever is asked and told, and in which order.

Worlds are computed: `ToyWorld`, and trees of fixed arms whose best first step is known.
"""

import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import ToyWorld, is_solved, play, reply_to

from cotree.search.strategy import Question
from cotree.search.tree import ROOT
from cotree.search.tree_strategy import Growing
from cotree.search.trees.mcts import Mcts, MctsSettings
from cotree.search.types import Job, Reply, Step

VARIANTS: list[dict[str, Any]] = [
    {"rule": "puct"},
    {"rule": "puct", "parallel": "virtual_loss", "backup": "max"},
    {"rule": "puct", "parallel": "none", "kappa": 2.0},
    {"rule": "uct", "parallel": "wu", "select": "visits"},
    {"rule": "uct", "parallel": "virtual_loss", "simulations": 9},
    {"rule": "gumbel", "simulations": 20, "select": "value"},
    {"rule": "gumbel", "simulations": 20, "parallel": "virtual_loss", "considered": 3},
]


def mcts(**variant: Any) -> Mcts:
    return Mcts(MctsSettings(**variant), seed=0)


# --- conservation --------------------------------------------------------------------------------


class Ledger:
    """Counts for itself at which nodes rollouts ended, and checks a tree against that."""

    def __init__(self, strategy: Mcts, world: ToyWorld) -> None:
        self.strategy, self.world = strategy, world
        self.under_way: list[Job] = []
        self.over: list[Reply] = []
        self.ends = Counter[int]()
        self.sums = Counter[int]()

    def ask(self, most: int) -> None:
        jobs = self.strategy.ask(most)
        assert len(jobs) <= most
        self.under_way += jobs

    def reply(self, job: Job) -> Reply:
        return reply_to(self.world, Question("toy/1", ""), self.strategy, job, seed=3)

    def tell(self, job: Job) -> None:
        self.under_way.remove(job)
        reply = self.reply(job)
        self.strategy.tell(reply)
        self.over.append(reply)
        end = job.node
        for step in reply.steps:
            tokens = step.token_ids
            (end,) = (
                child.id
                for child in self.strategy.tree.children(end)
                if child.step is not None and child.step.token_ids == tokens
            )
        self.ends[end] += 1
        self.sums[end] += 0 if self.strategy.tree[end].is_refuted else int(reply.score)

    def drop(self, job: Job) -> None:
        self.under_way.remove(job)
        self.over.append(self.reply(job))
        self.strategy.drop(job.number)

    def check(self) -> None:
        tree = self.strategy.tree
        for node in tree.nodes:
            children = list(tree.children(node.id))
            own, total = self.ends[node.id], self.sums[node.id]
            here = sum(job.node == node.id for job in self.under_way)
            assert node.visits == own + sum(child.visits for child in children)
            assert node.value_sum == total + sum(child.value_sum for child in children)
            assert node.inflight == here + sum(child.inflight for child in children)
            assert not (node.is_refuted and (node.value_sum or node.draws))
            assert node.is_open or not node.draws
            assert node.id == ROOT or 0 < node.count <= node.visits
            if children:
                k = sum(child.count for child in children)
                assert [child.prior for child in children] == [c.count / k for c in children]
        assert tree[ROOT].visits == self.ends.total()


@settings(max_examples=60)
@given(st.data(), st.sampled_from(VARIANTS), st.booleans(), st.sampled_from([2, 1000]))
def test_visits_values_and_jobs_in_flight_are_conserved_under_any_interleaving(
    data: st.DataObject, variant: dict[str, Any], stops: bool, num_nonces: int
):
    # Two nonces make samples merge into nodes that are there; half of the steps are bad.
    world = ToyWorld(depth=3, recall=0.5, num_nonces=num_nonces)
    strategy = mcts(stops_when_refuted=stops, **variant)
    ledger = Ledger(strategy, world)
    for _ in range(data.draw(st.integers(1, 25))):
        act = data.draw(st.sampled_from(["ask", "tell", "tell", "drop", "again", "best"]))
        if act == "ask":
            ledger.ask(data.draw(st.integers(0, 6)))
        elif act in ("tell", "drop") and ledger.under_way:
            job = data.draw(st.sampled_from(ledger.under_way))
            (ledger.tell if act == "tell" else ledger.drop)(job)
        elif act == "again" and ledger.over:
            strategy.tell(data.draw(st.sampled_from(ledger.over)))
            strategy.drop(data.draw(st.sampled_from([-1, 10_000])))
        elif act == "best":
            best = strategy.best()
            assert best is None or strategy.tree[best].is_finished
        ledger.check()
    while ledger.under_way:
        ledger.tell(ledger.under_way[0])
    ledger.check()
    assert not any(node.inflight for node in strategy.tree.nodes)


def shape(strategy: Mcts) -> list[tuple[object, ...]]:
    return [(n.parent, n.key, n.count, n.visits, n.value_sum, n.prior) for n in strategy.tree.nodes]


@pytest.mark.parametrize("rule", ["puct", "uct"])
def test_one_job_at_a_time_is_the_same_whatever_counts_in_parallel(rule: str):
    shapes: list[list[tuple[object, ...]]] = []
    for parallel in ("wu", "virtual_loss", "none"):
        strategy = mcts(rule=rule, parallel=parallel)
        play(ToyWorld(recall=0.4), strategy, number=2, budget=1200)
        shapes.append(shape(strategy))
    assert len(shapes[0]) > 200
    # Rounding in sqrt(2) of WU-UCT cannot tell children of equal bounds apart in another way here.
    assert shapes[0] == shapes[1] == shapes[2]


@pytest.mark.parametrize("variant", VARIANTS)
def test_equal_seeds_give_equal_searches(variant: dict[str, Any]):
    one, other = mcts(**variant), mcts(**variant)
    for strategy in (one, other):
        play(ToyWorld(), strategy, number=5, budget=600, batch=4)
    assert shape(one) == shape(other)


@pytest.mark.parametrize("rule", ["puct", "uct", "gumbel"])
def test_replies_to_a_batch_may_come_in_any_order(rule: str):
    # As long as no two replies bring the same step, only the order of the nodes differs.
    variant = {"rule": rule, "simulations": 100}
    searches: list[set[tuple[object, ...]]] = []
    for seed in range(3):
        strategy = mcts(**variant)
        order = random.Random(seed)
        play(
            ToyWorld(recall=0.4),
            strategy,
            number=7,
            budget=2600,
            batch=5,
            order=lambda jobs, order=order: order.sample(jobs, len(jobs)),
        )
        searches.append({(n.key, n.visits, n.value_sum, n.prior) for n in strategy.tree.nodes})
    assert searches[0] == searches[1] == searches[2]


# --- parallelism ---------------------------------------------------------------------------------


def distinct_nodes(parallel: str) -> float:
    """Share of a batch of 8 that is not spent at a node where others are, over 8 searches."""
    shares: list[float] = []
    for number in range(8):
        strategy = mcts(parallel=parallel)
        batches: list[list[Job]] = []
        world = ToyWorld(recall=0.4)
        play(
            world,
            strategy,
            number=number,
            budget=1000,
            batch=8,
            order=lambda jobs, batches=batches: batches.append(jobs) or jobs,
        )
        # The first batch has nothing but the root.
        shares += [len({job.node for job in jobs}) / 8 for jobs in batches[1:]]
    return sum(shares) / len(shares)


def test_jobs_in_flight_spread_a_batch_over_the_tree():
    naive = distinct_nodes("none")
    assert naive == 1 / 8
    assert distinct_nodes("wu") > 3 * naive
    assert distinct_nodes("virtual_loss") > 3 * naive


# --- known optimum -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arms:
    """Two steps of three choices each, drawn evenly, then an end.

    A pair of choices succeeds with a probability of its own, so V* of a first step is the largest
    of its three.
    """

    number: int

    def __post_init__(self) -> None:
        assert self.gap() > 0

    def chance(self, first: int, second: int) -> float:
        return random.Random(f"{self.number} {first} {second}").random()

    def value(self, first: int) -> float:
        return max(self.chance(first, second) for second in range(3))

    def gap(self) -> float:
        values = sorted(map(self.value, range(3)))
        return values[2] - values[1]

    def best(self) -> int:
        return max(range(3), key=self.value)

    def reply(self, strategy: Growing, job: Job) -> Reply:
        rng = random.Random(repr((self.number, job.node, job.draw)))
        tokens = [*strategy.tree.token_ids(job.node)]
        steps: list[Step] = []
        while len(tokens) < 2:
            tokens.append(rng.randrange(3))
            steps.append(Step((tokens[-1],), (0.0,), f"{tokens[-1]} ", "boundary"))
        steps.append(Step((9,), (0.0,), "end", "stop"))
        score = float(rng.random() < self.chance(*tokens))
        return Reply(job.number, tuple(steps), "x", score)


def searched(world: Arms, num: int, **variant: Any) -> Mcts:
    strategy = mcts(simulations=num, **variant)
    while jobs := strategy.ask(1):
        strategy.tell(world.reply(strategy, jobs[0]))
    return strategy


def picked(strategy: Mcts) -> tuple[int, float]:
    """The first step with most visits, and its value.

    Halving gives its last two as many, but for the 8 draws that found them: of those it is the one
    of the higher value.
    """
    children = list(strategy.tree.children(ROOT))
    most = max(child.visits for child in children)
    best = max(
        (child for child in children if child.visits >= most - 8),
        key=lambda child: child.value_sum / child.visits,
    )
    assert best.step is not None
    assert best.value is not None
    return best.step.token_ids[0], best.value


def worlds(num: int) -> list[Arms]:
    """Those whose best first step is better than the next by 0.15 or more."""
    return [world for world in map(Arms, range(4 * num)) if world.gap() >= 0.15][:num]


EVEN = {"kappa": 6.0, "alpha": 0.0}
"""Six draws a node: all three choices in 9 of 10 cases; the rest is selection."""
RULES = [
    {"rule": "uct", "exploration": 0.7, **EVEN},
    {"rule": "puct", **EVEN},
    {"rule": "gumbel", "considered": 8, **EVEN},
]


def agreement(num_worlds: int, num: int, variant: dict[str, Any]) -> tuple[float, float]:
    """How often the best first step is picked where it was drawn, and the mean |Q - V*| of it."""
    hits, errors = list[bool](), list[float]()
    for world in worlds(num_worlds):
        strategy = searched(world, num, **variant)
        first = {child.step.token_ids[0] for child in strategy.tree.children(ROOT) if child.step}
        if world.best() in first:
            choice, value = picked(strategy)
            hits.append(choice == world.best())
            errors.append(abs(value - world.value(choice)))
    return sum(hits) / len(hits), sum(errors) / len(errors)


@pytest.mark.parametrize("variant", RULES, ids=lambda variant: variant["rule"])
def test_the_best_first_step_is_found(variant: dict[str, Any]):
    few, error_of_few = agreement(20, 30, variant)
    many, error_of_many = agreement(20, 600, variant)
    assert many >= 0.95
    assert many >= few
    assert error_of_many < error_of_few


@pytest.mark.slow
@pytest.mark.parametrize("variant", RULES, ids=lambda variant: variant["rule"])
def test_the_best_first_step_of_many_trees_is_found(variant: dict[str, Any]):
    hits, error = agreement(60, 2000, variant)
    assert hits >= 0.95
    assert error < 0.03


# --- against plain sampling at equal tokens ------------------------------------------------------


class Sampled(Growing):
    """Independent completions from the root; answers win by the sum of their scores."""

    def __init__(self) -> None:
        super().__init__()
        self.sums = dict[str, float]()

    def _next(self) -> Job | None:
        return self._job(ROOT, "rollout")

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        end = self.tree[grown[-1]]
        assert end.answer is not None
        score = 0.0 if end.is_refuted else reply.score
        self.sums[end.answer] = self.sums.get(end.answer, 1e-9) + score

    def best(self) -> int | None:
        if not self.sums:
            return None
        answer = max(self.sums, key=lambda answer: self.sums[answer])
        return next(leaf.id for leaf in self.tree.leaves() if leaf.answer == answer)


def rate(world: ToyWorld, steps: int, *, num: int, sampled: bool = False, **variant: Any) -> float:
    """Share of `num` problems solved with the tokens of so many steps.

    A difference of two of them has a standard error of sqrt(0.5 / num) at most: 0.07 for 100,
    0.058 for 150, and about half where the same problems are hard for both.
    """
    solved = 0
    for number in range(num):
        strategy = Sampled() if sampled else mcts(**variant)
        play(world, strategy, number=number, budget=3 * steps + 30)
        solved += is_solved(strategy)
    return solved / num


def solve_rates(depth: int, steps: int, num: int) -> list[float]:
    """Of plain sampling, then of a search with a checker of recall 0, 0.4 and 0.95."""
    plain = rate(ToyWorld(depth=depth), steps, num=num, sampled=True)
    searches = [
        rate(ToyWorld(depth=depth, recall=recall), steps, num=num, stops_when_refuted=True)
        for recall in (0.0, 0.4, 0.95)
    ]
    return [plain, *searches]


def test_a_blind_checker_does_no_harm_and_a_seeing_one_helps_with_its_recall():
    plain, blind, fair, good = solve_rates(depth=5, steps=35, num=120)
    assert abs(blind - plain) < 0.1
    assert fair > plain + 0.05
    assert good > fair + 0.1


def test_false_alarms_cost_something():
    false_alarms = [
        rate(ToyWorld(4, 0.6, alarm), 24, num=120, stops_when_refuted=True) for alarm in (0.0, 0.4)
    ]
    assert false_alarms[0] > false_alarms[1] + 0.05


@pytest.mark.slow
def test_a_fair_checker_wins_ten_points_and_a_good_one_twenty():
    plain, blind, fair, good = solve_rates(depth=8, steps=256, num=150)
    assert abs(blind - plain) < 0.08
    assert fair > plain + 0.1
    assert good > plain + 0.2


@pytest.mark.parametrize(("recall", "is_verified"), [(0.4, True), (0.4, False), (0.8, False)])
def test_more_tokens_do_not_make_the_selected_answer_worse(recall: float, is_verified: bool):
    # Where the answer cannot be checked and most mistakes are not seen, wrong answers outvote the
    # right one on most problems, however many tokens there are: then it may not fall.
    world = ToyWorld(4, recall, terminal_is_verified=is_verified)
    rates = [rate(world, steps, num=100, stops_when_refuted=True) for steps in (8, 20, 44)]
    assert rates[1] >= rates[0] - 0.07
    assert rates[2] >= max(rates[:2]) - 0.07
    assert rates[2] > rates[0] or (recall, is_verified) == (0.4, False)

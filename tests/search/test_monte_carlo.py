"""Tests for search/monte_carlo.py: values without bias, errors that do not vanish, first errors."""

import math
from itertools import product
from statistics import fmean, stdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import BAD, END_OF_LINE, FIRST_NONCE, GOOD, RIGHT, ToyWorld, play, reply_to

from cotree.search.monte_carlo import (
    FirstErrorSearch,
    MonteCarlo,
    MonteCarloSettings,
    StepValue,
    continuation_values,
    difference_in_errors,
    step_value,
    subtree_outcomes,
)
from cotree.search.tree import ROOT, Tree
from cotree.search.types import Job, Reply, Step, StepEnd

BUDGET = 10**9


def step(*token_ids: int, end: StepEnd = "boundary") -> Step:
    return Step(token_ids, (-0.5,) * len(token_ids), " ".join(map(str, token_ids)), end)


def strategy_of(chains: int, samples: int, *, every: int = 1) -> MonteCarlo:
    return MonteCarlo(MonteCarloSettings(chains=chains, samples=samples, every=every))


def outcomes_of(tree: Tree) -> dict[int, bool | None]:
    """As a grader of the toy world would find them."""
    return {leaf.id: leaf.answer == "right" for leaf in tree.leaves()}


# --- values ------------------------------------------------------------------------------------


def test_a_value_is_the_share_of_right_completions():
    value = step_value([True, True, False, True])
    assert (value.soft, value.hard, value.n) == (0.75, True, 4)
    assert value.standard_error == pytest.approx(math.sqrt(0.75 * 0.25 / 4))
    assert step_value([False]).hard is False
    with pytest.raises(ValueError, match="at least one outcome"):
        step_value([])


@settings(max_examples=100)
@given(st.integers(1, 64), st.booleans())
def test_outcomes_that_agree_leave_an_error(n: int, outcome: bool):
    value = step_value([outcome] * n)
    assert value.standard_error == 0.0
    center, error = value.adjusted
    # One outcome of each kind added: p = 1 / (n + 2) or (n + 1) / (n + 2).
    assert center == pytest.approx(((n if outcome else 0) + 1) / (n + 2))
    assert error == pytest.approx(math.sqrt((n + 1) / (n + 2) ** 3))


def test_differences_in_errors_by_hand():
    # 8 of 8 is 0.9 with error sqrt(0.09 / 10), 0 of 8 is 0.1: 0.8 / sqrt(0.018).
    assert difference_in_errors(StepValue(1.0, 8), StepValue(0.0, 8)) == pytest.approx(
        0.8 / math.sqrt(0.018)
    )
    # 5 of 8 is 0.6 with error sqrt(0.24 / 10), 3 of 8 is 0.4: 0.2 / sqrt(0.048).
    assert difference_in_errors(StepValue(5 / 8, 8), StepValue(3 / 8, 8)) == pytest.approx(
        0.2 / math.sqrt(0.048)
    )
    # One outcome each says next to nothing.
    assert difference_in_errors(StepValue(1.0, 1), StepValue(0.0, 1)) < 1.0


counts = st.integers(1, 40).flatmap(
    lambda n: st.integers(0, n).map(lambda right: StepValue(right / n, n))
)


@settings(max_examples=100)
@given(counts, counts)
def test_a_difference_has_the_other_sign_the_other_way(one: StepValue, other: StepValue):
    errors = difference_in_errors(one, other)
    assert errors == pytest.approx(-difference_in_errors(other, one))
    assert math.isfinite(errors)
    assert errors * (one.soft - other.soft) >= 0.0
    if one.soft == other.soft:
        assert errors == 0.0


@pytest.mark.parametrize("n", [1, 2, 3, 4, 8, 16, 24])
def test_equal_values_are_rarely_two_errors_apart(n: int):
    # Exact: both counts are binomial with the same p.
    apart = [
        (i, j)
        for i, j in product(range(n + 1), repeat=2)
        if abs(difference_in_errors(StepValue(i / n, n), StepValue(j / n, n))) > 2.0
    ]
    for p in (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5):
        chance = [math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n + 1)]
        assert sum(chance[i] * chance[j] for i, j in apart) <= 0.071


# --- values of a tree --------------------------------------------------------------------------


def test_completions_below_a_node_count_as_often_as_they_were_drawn():
    tree = Tree()
    a = tree.add(ROOT, step(1), (0,))
    right = tree.add(a, step(2, end="stop"), (1,))
    tree.add(a, step(2, end="stop"), (2,))  # drawn again
    cut = tree.add(a, step(3, end="length"), (3,))
    ungraded = tree.add(a, step(4, end="stop"), (4,))
    tree.add(a, step(5), (5,))  # did not end
    revised = tree.add(right, step(6, end="stop"), (6,), restarts=True)
    correct = {right: True, cut: False, ungraded: None, revised: False}
    assert subtree_outcomes(tree, a, correct) == (2, 3)
    assert subtree_outcomes(tree, right, correct) == (2, 2)
    assert subtree_outcomes(tree, ungraded, correct) == (0, 0)
    assert subtree_outcomes(tree, revised, correct) == (0, 1)


def test_a_step_that_was_sampled_from_weighs_no_more_than_its_draws():
    tree = Tree()
    a = tree.add(ROOT, step(1), (0,))
    b = tree.add(ROOT, step(2, end="stop"), (1,))
    ends = [tree.add(a, step(10 + i, end="stop"), (2, i)) for i in range(4)]
    correct = {b: True} | {end: i == 0 for i, end in enumerate(ends)}
    values = continuation_values(tree, correct)
    assert values[a] == StepValue(0.25, 4)
    assert values[ROOT] == StepValue((0.25 + 1.0) / 2, 2)  # not 2 of 5
    assert values[b] == StepValue(1.0, 1)


def test_an_ungraded_completion_is_no_outcome():
    tree = Tree()
    a = tree.add(ROOT, step(1, end="stop"), (0,))
    b = tree.add(ROOT, step(2, end="stop"), (1,))
    assert continuation_values(tree, {a: True, b: None}) == {
        a: StepValue(1.0, 1),
        ROOT: StepValue(1.0, 1),
    }


def test_where_a_completion_was_given_up_there_is_no_value():
    tree = Tree()
    a = tree.add(ROOT, step(1), (0,))
    right = tree.add(a, step(2, end="stop"), (1,))
    assert continuation_values(tree, {right: True})[a] == StepValue(1.0, 1)
    tree.add(ROOT, step(1), (2,))  # drawn again, and nothing after it
    assert continuation_values(tree, {right: True}) == {right: StepValue(1.0, 1)}


# --- drawing -----------------------------------------------------------------------------------


def test_chains_come_first_and_then_every_prefix_in_turn():
    world, strategy = ToyWorld(depth=4), strategy_of(2, 3, every=2)
    question = world.question(0)
    chains = strategy.ask(99)
    assert [(job.node, job.kind) for job in chains] == [(ROOT, "rollout")] * 2
    assert strategy.ask(99) == []
    strategy.tell(reply_to(world, question, strategy, chains[0], seed=0))
    assert strategy.ask(99) == []  # the other chain is under way
    strategy.tell(reply_to(world, question, strategy, chains[1], seed=0))
    jobs = strategy.ask(99)
    # Two prefixes of two and of four steps for each chain; the ends cannot be continued.
    assert sorted(strategy.tree[node].depth for node in strategy.measured) == [2, 2, 4, 4]
    assert [job.node for job in jobs] == [*strategy.measured] * 3
    assert not strategy.is_done
    for job in jobs:
        strategy.drop(job.number)
    assert strategy.ask(1) == []
    assert strategy.is_done


@pytest.mark.parametrize("numbers", [(0, 1, 1), (1, 0, 1), (1, 1, 0)])
def test_numbers_below_one_are_refused(numbers: tuple[int, int, int]):
    with pytest.raises(ValueError, match="must be 1 or more"):
        strategy_of(numbers[0], numbers[1], every=numbers[2])


def test_a_search_without_chains_ends():
    strategy = strategy_of(1, 4)
    assert strategy.best() is None
    (job,) = strategy.ask(9)
    strategy.drop(job.number)
    assert strategy.ask(9) == []
    assert strategy.is_done


def test_neither_scores_nor_verdicts_change_what_is_drawn():
    drawn: list[list[tuple[int, ...]]] = []
    for recall, verified in ((0.0, True), (0.95, True), (0.0, False)):
        world = ToyWorld(depth=4, recall=recall, terminal_is_verified=verified)
        strategy = strategy_of(3, 2)
        play(world, strategy, number=1, budget=BUDGET, batch=4)
        assert strategy.is_done
        tree = strategy.tree
        drawn.append([tree.token_ids(leaf.id) for leaf in tree.leaves() for _ in range(leaf.count)])
    assert drawn[0] == drawn[1] == drawn[2]
    assert len(drawn[0]) == 3 + 3 * 4 * 2


@pytest.mark.parametrize("num_nonces", [1, 10_000])
def test_values_are_unbiased_at_every_depth(num_nonces: int):
    # With one nonce, equal steps are drawn again and again.
    world = ToyWorld(depth=4, num_nonces=num_nonces)
    errors: dict[int, list[float]] = {}
    for number in range(150):
        strategy = strategy_of(2, 3)
        play(world, strategy, number=number, budget=BUDGET, batch=8)
        tree, question = strategy.tree, world.question(number)
        values = continuation_values(tree, outcomes_of(tree))
        found: dict[int, list[float]] = {}
        for node in [ROOT, *strategy.measured]:
            error = values[node].soft - world.value(question, tree.token_ids(node))
            found.setdefault(tree[node].depth, []).append(error)
        for depth, some in found.items():
            errors.setdefault(depth, []).append(fmean(some))  # problems are independent
    assert sorted(errors) == [0, 1, 2, 3, 4]
    for some in errors.values():
        assert abs(fmean(some)) <= 3 * stdev(some) / math.sqrt(len(some)) + 1e-12


def test_the_share_of_right_ends_is_biased_where_wrong_completions_are_longer():
    # Half of all completions are short and right, half are long and wrong; V(root) = 1/2. With two
    # chains the four cases are equally likely, and a mixed tree has 1 + 4 right ends and
    # 1 + 3 * 4 wrong ones: the share of ends is 5 / 18 there.
    shares: list[float] = []
    values: list[float] = []
    for kinds in product((True, False), repeat=2):
        strategy = strategy_of(2, 4)
        for number, is_short in enumerate(kinds):
            (job,) = strategy.ask(1)
            strategy.tell(_chain(job, is_short=is_short, nonce=number))
        while jobs := strategy.ask(1):
            tree = strategy.tree
            rest = _chain(jobs[0], is_short=tree.token_ids(jobs[0].node)[0] == GOOD, nonce=9)
            steps = rest.steps[tree[jobs[0].node].depth :]
            strategy.tell(Reply(rest.number, steps, rest.answer, rest.score))
        tree = strategy.tree
        right, num = subtree_outcomes(tree, ROOT, outcomes_of(tree))
        shares.append(right / num)
        values.append(continuation_values(tree, outcomes_of(tree))[ROOT].soft)
    assert fmean(values) == 0.5
    assert fmean(shares) == pytest.approx((1 + 5 / 18 + 5 / 18 + 0) / 4)


def _chain(job: Job, *, is_short: bool, nonce: int) -> Reply:
    """One step and an end that is right, or three steps and one that is wrong."""
    kind, length = (GOOD, 1) if is_short else (BAD, 3)
    steps = [step(kind, FIRST_NONCE + nonce, place) for place in range(length)]
    answer = "right" if is_short else "wrong"
    return Reply(job.number, (*steps, step(job.number, end="stop")), answer, 1.0)


def test_it_prefers_the_answer_that_most_completions_have():
    strategy = strategy_of(3, 1)
    jobs = strategy.ask(3)
    for job, answer in zip(jobs, ("3", "4", "4"), strict=True):
        strategy.tell(Reply(job.number, (step(job.number, end="stop"),), answer, 1.0))
    best = strategy.best()
    assert best is not None
    assert strategy.tree[best].answer == "4"
    assert strategy.tree[ROOT].visits == 3


# --- first errors ------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n - 1))))
def test_the_first_bad_step_is_found_in_logarithmically_many_prefixes(sizes: tuple[int, int]):
    num_steps, first_bad = sizes
    world = ToyWorld(depth=num_steps)
    question = world.question(0)
    kinds = [BAD if number == first_bad else GOOD for number in range(num_steps)]
    steps = [step(kind, FIRST_NONCE, END_OF_LINE) for kind in kinds]
    search, asked = FirstErrorSearch(steps), list[int]()
    while (prefix := search.ask()) is not None:
        assert search.first_error is None
        assert prefix.token_ids == tuple(t for s in steps[: prefix.num_steps] for t in s.token_ids)
        asked.append(prefix.num_steps)
        search.tell([world.value(question, prefix.token_ids) > 0.0])
    assert search.is_done
    assert search.first_error == first_bad
    assert len(set(asked)) == len(asked) <= 1 + math.ceil(math.log2(num_steps))
    assert set(search.values) == set(asked)


def test_the_first_bad_step_is_found_from_sampled_outcomes():
    world = ToyWorld(depth=4)
    for number in range(10):
        question = world.question(number)
        steps = [step(kind, FIRST_NONCE, END_OF_LINE) for kind in (GOOD, GOOD, BAD, GOOD)]
        search = FirstErrorSearch(steps)
        while (prefix := search.ask()) is not None:
            # The lowest value is 0.5^4, and 200 completions miss it with probability 0.000003.
            ends = [
                world.tokens_after(question, prefix.token_ids, (draw,), number, one=False)
                for draw in range(200)
            ]
            search.tell([RIGHT in end for end in ends])
        assert search.first_error == 2


def test_no_step_of_a_hopeless_question_is_blamed():
    search = FirstErrorSearch([step(1), step(2), step(3, end="stop")])
    search.tell([False] * 8)
    assert search.is_done
    assert search.first_error is None


def test_first_errors_refuse_what_they_cannot_use():
    with pytest.raises(ValueError, match="without steps"):
        FirstErrorSearch([])
    search = FirstErrorSearch([step(1, end="stop")])
    with pytest.raises(ValueError, match="at least one outcome"):
        search.tell([])
    search.tell([True])
    assert search.first_error == 0  # the only step there is
    with pytest.raises(ValueError, match="found already"):
        search.tell([True])

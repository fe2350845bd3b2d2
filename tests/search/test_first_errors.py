"""Tests for search/first_errors.py: the first bad step of toy completions, which is known."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import ANSWER_TOKENS, BAD, END_OF_LINE, STEP_TOKENS, ToyBackend, ToyWorld, decode

from cotree.search.driver import drive
from cotree.search.first_errors import FirstErrors, most_rollouts
from cotree.search.ledger import Limits
from cotree.search.monte_carlo import FirstErrorSearch
from cotree.search.running import RunningSearch
from cotree.search.step_rule import STEP_RULES
from cotree.search.tree import ROOT
from cotree.search.tree_json import tree_digest
from cotree.search.trees.registry import TREE_STRATEGIES, tree_strategy_named
from cotree.search.types import Reply, Step, StepEnd

WORLD = ToyWorld(depth=4)


def most_tokens(world: ToyWorld) -> int:
    return STEP_TOKENS * world.depth + ANSWER_TOKENS


def wrong_steps(world: ToyWorld, number: int) -> list[Step]:
    """The first wrong completion of a problem, with a seed that no rollout has."""
    draws = (
        world.tokens_after(world.question(number), (), (draw,), -1, one=False)
        for draw in range(1_000)
    )
    tokens = next(found for found in draws if BAD in found)
    sizes = [STEP_TOKENS] * world.depth + [ANSWER_TOKENS]
    steps: list[Step] = []
    for size in sizes:
        ids, tokens = tokens[:size], tokens[size:]
        end = "boundary" if ids[-1] == END_OF_LINE else "stop"
        steps.append(Step(ids, (-0.5,) * size, decode(ids), end))
    return steps


def first_bad(steps: list[Step]) -> int:
    return next(number for number, step in enumerate(steps) if BAD in step.token_ids)


def is_right(text: str) -> bool:
    return text.endswith("right")


def labelled(
    world: ToyWorld,
    numbers: list[int],
    backend: ToyBackend,
    *,
    samples: int,
    width: int = 3,
    budget: int = 10**9,
) -> list[RunningSearch]:
    searches = (
        RunningSearch(
            number,
            world.question(number),
            FirstErrors(wrong_steps(world, number), samples=samples, is_right=is_right),
            limits=Limits(budget, most_tokens(world), width),
            rule=STEP_RULES["line"],
            decode=decode,
        )
        for number in numbers
    )
    over = drive(searches, backend, world, concurrency=4)
    return sorted(over, key=lambda search: search.number)


def engines(world: ToyWorld, count: int) -> ToyBackend:
    return ToyBackend(world, [world.question(n) for n in range(count)], [0] * count)


def labeller(search: RunningSearch) -> FirstErrors:
    assert isinstance(search.strategy, FirstErrors)
    return search.strategy


# --- what is found -----------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [1, 4, 16])
def test_first_errors_are_found_as_often_as_sampling_allows(samples: int):
    count = 300
    found = labelled(WORLD, list(range(count)), engines(WORLD, count), samples=samples)
    mean = variance = num_right = 0.0
    for number, one in enumerate(map(labeller, found)):
        steps = wrong_steps(WORLD, number)
        truth = first_bad(steps)
        # Each prefix without a bad step that binary search asks for has to have a right rollout:
        # the label is right with probability q = product of 1 - (1 - V)^samples.
        search, q = FirstErrorSearch(steps), 1.0
        while (prefix := search.ask()) is not None:
            value = WORLD.value(WORLD.question(number), prefix.token_ids)
            search.tell([value > 0.0])
            if value > 0.0:
                q *= 1.0 - (1.0 - value) ** samples
        mean += q
        variance += q * (1.0 - q)
        num_right += one.first_error == truth
        # Bad luck makes a prefix look hopeless; nothing makes a hopeless one look good.
        if one.ending == "found":
            assert one.first_error is not None
            assert one.first_error <= truth
        else:
            assert one.ending == "hopeless"
            assert one.first_error is None
            assert list(one.values) == [0]
            assert not one.values[0].hard
    assert abs(num_right - mean) <= 3.0 * math.sqrt(variance)
    assert variance > 0.0


@given(st.integers(1, 40), st.integers(1, 5), st.integers(0, 50))
@settings(max_examples=40)
def test_it_rolls_out_logarithmically_many_prefixes(depth: int, samples: int, number: int):
    world = ToyWorld(depth=depth)
    backend = engines(world, number + 1)
    (search,) = labelled(world, [number], backend, samples=samples)
    values = labeller(search).values
    # The answer is a step too.
    assert len(values) <= 1 + math.ceil(math.log2(depth + 1))
    assert search.ledger.jobs == len(backend.requests) == samples * len(values)
    assert search.ledger.jobs <= most_rollouts(depth + 1, samples)
    assert all(value.n == samples for value in values.values())


def test_every_rollout_continues_the_given_completion():
    backend = engines(WORLD, 20)
    found = labelled(WORLD, list(range(20)), backend, samples=3)
    for request in backend.requests:
        given_ids = [t for step in wrong_steps(WORLD, request.search) for t in step.token_ids]
        assert list(request.prefix) == given_ids[: len(request.prefix)]
        assert not request.stops
    keys = {(request.search, request.key) for request in backend.requests}
    assert len(keys) == len(backend.requests)  # no two rollouts have one seed
    assert any(len(labeller(search).values) > 1 for search in found)


def test_it_selects_nothing_and_cannot_be_named():
    (search,) = labelled(WORLD, [0], engines(WORLD, 1), samples=4)
    assert labeller(search).best() is None
    assert {choice.node for choice in search.history} == {None}
    for name, kind in TREE_STRATEGIES.items():
        named = tree_strategy_named(f"{name}:8" if kind.number else name)
        assert not isinstance(named.build(0), FirstErrors)


# --- what it takes -----------------------------------------------------------------------------


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 8), st.integers(1, 400))
@settings(max_examples=30)
def test_the_budget_is_hard_and_every_token_is_accounted_for(
    order: int, at_once: int, width: int, budget: int
):
    world = ToyWorld(depth=4, num_nonces=1)  # rollouts repeat given steps all the time
    backend = engines(world, 6).shuffled(order, at_once)
    found = labelled(world, list(range(6)), backend, samples=4, width=width, budget=budget)
    assert sum(search.ledger.spent for search in found) == backend.num_tokens
    for search in found:
        ledger, tree = search.ledger, search.strategy.tree
        assert tree.num_tokens == ledger.spent - ledger.lost
        assert ledger.spent <= budget
        assert ledger.reserved == 0
        assert all(node.inflight == 0 for node in tree.nodes)
        # A rollout is whole or not at all.
        assert all(node.is_finished for node in tree.leaves() if node.count)
        if labeller(search).ending == "out of budget":
            assert labeller(search).first_error is None
            assert ledger.free < most_tokens(world)
        else:
            assert ledger.jobs == 4 * len(labeller(search).values)


def test_given_steps_were_not_drawn_until_a_rollout_repeats_them():
    steps = wrong_steps(WORLD, 0)
    one = FirstErrors(steps, samples=2, is_right=is_right)
    assert one.tree.num_tokens == 0
    assert one.tree.text(len(steps)) == "".join(step.text for step in steps)
    for job in one.ask(2):
        one.tell(Reply(job.number, tuple(steps), "wrong", 0.0))
    assert [node.count for node in one.tree.nodes[1:]] == [2] * len(steps)
    assert one.tree.num_tokens == 2 * sum(len(step.token_ids) for step in steps)
    assert one.ending == "hopeless"


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 8))
@settings(max_examples=15)
def test_labels_do_not_depend_on_arrival_or_on_width(order: int, at_once: int, width: int):
    numbers = list(range(8))
    plain = labelled(WORLD, numbers, engines(WORLD, 8), samples=5, width=1)
    other = engines(WORLD, 8).shuffled(order, at_once)
    shuffled = labelled(WORLD, numbers, other, samples=5, width=width)
    for one, two in zip(plain, shuffled, strict=True):
        assert labeller(one).values == labeller(two).values
        assert tree_digest(one.strategy.tree) == tree_digest(two.strategy.tree)


# --- what goes wrong ---------------------------------------------------------------------------


def step(text: str, end: StepEnd = "boundary") -> Step:
    ids = tuple(map(ord, text))
    return Step(ids, (-0.5,) * len(ids), text, end)


GIVEN = (step("a\n"), step("b\n"), step("c", "stop"))


def test_what_was_cut_is_wrong_without_being_graded():
    one = FirstErrors(GIVEN, samples=2, is_right=lambda _: True)
    first, second = one.ask(9)
    one.tell(Reply(first.number, (step("x", "length"),), None, 0.0))
    one.tell(Reply(second.number, (step("y", "stop"),), "y", 1.0))
    assert (one.values[0].soft, one.values[0].n) == (0.5, 2)


def test_what_cannot_be_graded_is_no_outcome():
    one = FirstErrors(GIVEN, samples=3, is_right=lambda text: {"r": True, "w": False}.get(text))
    for job, text in zip(one.ask(9), ("r", "?", "w"), strict=True):
        assert one.ending == "out of budget"  # as long as it is not over
        one.tell(Reply(job.number, (step(text, "stop"),), None, 0.0))
    assert (one.values[0].soft, one.values[0].n) == (0.5, 2)
    for job in one.ask(9):  # "a\n?" is the text of none of them
        one.tell(Reply(job.number, (step("?", "stop"),), None, 0.0))
    assert one.ask(9) == []
    assert one.is_done
    assert (one.ending, one.first_error) == ("not graded", None)


def test_it_asks_for_nothing_once_a_rollout_was_given_up():
    one = FirstErrors(GIVEN, samples=3, is_right=is_right)
    first, second, third = one.ask(9)
    one.tell(Reply(first.number, (step("right", "stop"),), None, 0.0))
    one.drop(second.number)
    one.drop(second.number)  # not under way any more
    one.tell(Reply(third.number, (step("wrong", "stop"),), None, 0.0))
    # Two of three outcomes would favour what ends early.
    assert one.ask(9) == []
    assert one.is_done
    assert (one.ending, one.values) == ("out of budget", {})


def test_a_prefix_is_asked_for_when_all_outcomes_of_the_one_before_are_there():
    one = FirstErrors(GIVEN, samples=2, is_right=is_right)
    first, second = one.ask(9)
    assert (first.node, second.node, first.is_whole) == (ROOT, ROOT, True)
    one.tell(Reply(second.number, (step("right", "stop"),), None, 0.0))
    one.tell(Reply(second.number, (step("right", "stop"),), None, 0.0))  # told before
    assert one.ask(9) == []
    assert not one.is_done
    one.tell(Reply(first.number, (step("wrong", "stop"),), None, 0.0))
    # Between 0 possible steps and 3 hopeless ones: the prefix of one.
    assert [one.tree.text(job.node) for job in one.ask(9)] == ["a\n", "a\n"]


def test_useless_inputs_are_refused():
    with pytest.raises(ValueError, match="samples = 0"):
        FirstErrors(GIVEN, samples=0, is_right=is_right)
    with pytest.raises(ValueError, match="without steps"):
        FirstErrors((), samples=1, is_right=is_right)
    for steps in (GIVEN[:2], (GIVEN[2], GIVEN[2]), (GIVEN[0], step("c", "length"))):
        with pytest.raises(ValueError, match="Give a whole completion"):
            FirstErrors(steps, samples=1, is_right=is_right)


@pytest.mark.parametrize(("num_steps", "prefixes"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4)])
def test_most_rollouts_by_hand(num_steps: int, prefixes: int):
    # 1 + ceil(log2 n): the question, then n halved until one step is left.
    assert most_rollouts(num_steps, 8) == 8 * prefixes

"""Tests for search/trees/completions.py: strategies over whole completions, on a toy world."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import ToyWorld, play, reply_to

from cotree.search.strategies import BestOf, First, Majority, Resample, VetoedMajority
from cotree.search.strategy import Candidate
from cotree.search.tree import ROOT
from cotree.search.trees.completions import Completions
from cotree.search.types import Job, Reply, Step, StepEnd

WORLD = ToyWorld(depth=3, recall=0.6, terminal_is_verified=False)
ENOUGH = 10_000


def reply(number: int, answer: str | None, *, end: StepEnd = "stop", nonce: int = 0) -> Reply:
    tokens = tuple(f"{answer} {nonce}".encode())
    return Reply(number, (Step(tokens, (), f"so {answer}", end),), answer, 1.0)


class Recording:
    """A strategy that wants `size` completions and remembers their texts."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.told: list[str] = []

    def ask(self) -> int:
        return self.size - len(self.told)

    def tell(self, candidates: Sequence[Candidate]) -> None:
        self.told += [one.text for one in candidates]

    def best(self) -> Candidate:
        raise AssertionError("nobody asked for it")


@given(st.permutations(range(5)))
def test_candidates_are_told_in_the_order_of_the_asks(order: list[int]):
    inner = Recording(5)
    strategy = Completions(inner, stops_when_refuted=False)
    assert [job.number for job in strategy.ask(9)] == [0, 1, 2, 3, 4]
    for number in order:
        strategy.tell(reply(number, str(number)))
        told = len(inner.told)
        assert inner.told == [f"so {one}" for one in range(told)]
    assert len(inner.told) == 5
    assert strategy.ask(9) == []
    assert strategy.is_done


def test_jobs_are_rollouts_at_the_root_as_many_as_there_is_room_for():
    strategy = Completions(Majority(5), stops_when_refuted=False)
    jobs = strategy.ask(3)
    assert [(job.node, job.kind, job.draw) for job in jobs] == [
        (ROOT, "rollout", draw) for draw in range(3)
    ]
    assert len(strategy.ask(3)) == 2
    assert strategy.ask(3) == []
    assert not strategy.is_done  # five are under way
    assert len(Completions(Majority(None), stops_when_refuted=False).ask(100)) == 100


def test_one_that_is_given_up_is_asked_for_again():
    strategy = Completions(Majority(2), stops_when_refuted=False)
    strategy.ask(2)
    strategy.drop(0)
    assert [job.number for job in strategy.ask(2)] == [2]
    strategy.tell(reply(2, "5"))
    strategy.tell(reply(1, "4"))
    assert strategy.ask(2) == []
    best = strategy.best()
    assert best is not None
    assert strategy.tree[best].answer == "4"  # a tie, and number 1 was asked for first


def test_resampling_asks_for_one_at_a_time():
    strategy = Completions(Resample(None), stops_when_refuted=False)
    for number in range(3):
        assert [job.number for job in strategy.ask(8)] == [number]
        assert strategy.ask(8) == []
        strategy.tell(reply(number, None))
    strategy.ask(8)
    strategy.tell(reply(3, "4"))
    assert strategy.ask(8) == []
    assert strategy.is_done


def test_a_strategy_that_is_content_early_is_told_no_more():
    class Content(Majority):
        def ask(self) -> int:
            return 0 if self._told else super().ask()

    strategy = Completions(Content(3), stops_when_refuted=False)
    strategy.ask(3)
    for number, text in ((2, "6"), (0, "4"), (1, "5")):
        strategy.tell(reply(number, text))
    best = strategy.best()
    assert best is not None
    assert strategy.tree[best].answer == "4"
    assert len(list(strategy.tree.leaves())) == 3  # the tree has all of them


def test_there_is_no_best_before_something_has_ended():
    strategy = Completions(First(), stops_when_refuted=True)
    assert strategy.best() is None
    strategy.ask(1)
    strategy.tell(reply(0, None, end="boundary"))  # stopped at a refuted step
    assert strategy.best() is None


def test_equal_completions_are_one_leaf_and_two_votes():
    strategy = Completions(Majority(3), stops_when_refuted=False)
    strategy.ask(3)
    for number, text in enumerate(("5", "4", "4")):
        strategy.tell(reply(number, text))
    best = strategy.best()
    assert best is not None
    assert (strategy.tree[best].answer, strategy.tree[best].count) == ("4", 2)


@pytest.mark.parametrize("kind", [Majority, VetoedMajority, BestOf])
def test_it_selects_what_the_strategy_selects_of_the_same_completions(kind: type[Majority]):
    for number in range(20):
        strategy, inner = Completions(kind(6), stops_when_refuted=False), kind(6)
        question = WORLD.question(number)
        for job in strategy.ask(6):
            strategy.tell(reply_to(WORLD, question, strategy, job, seed=0))
        for draw in range(6):  # the same completions, from a tree that has nothing but them
            lone = Completions(First(), stops_when_refuted=False)
            (told,) = [reply_to(WORLD, question, lone, Job(0, ROOT, draw, "rollout"), seed=0)]
            text = "".join(step.text for step in told.steps)
            refuted = any(step.verdict.name == "REFUTED" for step in told.steps)
            inner.tell([Candidate(text, told.answer, told.num_tokens, True, refuted, told.score)])
        best = strategy.best()
        assert best is not None
        assert strategy.tree.text(best) == inner.best().text


@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_the_order_within_a_batch_does_not_matter(seed: int):
    def run(*, is_shuffled: bool) -> tuple[str | None, int]:
        strategy = Completions(Majority(None), stops_when_refuted=False)
        shuffled = random.Random(seed)

        def order(jobs: list[Job]) -> list[Job]:
            return shuffled.sample(jobs, len(jobs)) if is_shuffled else jobs

        spent = play(WORLD, strategy, number=seed, budget=200, batch=4, order=order)
        best = strategy.best()
        return (None if best is None else strategy.tree.text(best)), spent

    assert run(is_shuffled=True) == run(is_shuffled=False)


def test_stopping_at_a_refuted_step_saves_tokens():
    def spent(*, stops: bool) -> int:
        return sum(
            play(
                ToyWorld(recall=1.0, false_alarm=0.0),
                Completions(VetoedMajority(8), stops_when_refuted=stops),
                number=number,
                budget=ENOUGH,
            )
            for number in range(10)
        )

    assert spent(stops=True) < 0.8 * spent(stops=False)

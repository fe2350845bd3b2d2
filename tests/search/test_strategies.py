"""Tests for search/strategies.py, on completions written down here."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.evaluation.estimators import VoteClass, majority_at_k
from cotree.rewards.equality.classes import answer_classes
from cotree.search.strategies import (
    STRATEGIES,
    BestOf,
    First,
    Majority,
    Resample,
    VetoedMajority,
    WeightedMajority,
    strategy_named,
)
from cotree.search.strategy import UNLIMITED, Candidate, Strategy


def candidate(
    answer: str | None,
    *,
    finished: bool = True,
    refuted: bool = False,
    text: str = "",
    score: float = 1.0,
) -> Candidate:
    return Candidate(text or f"so {answer}", answer, 10, finished, refuted, score)


candidates = st.lists(
    st.builds(
        candidate,
        st.sampled_from(["1", "2", "3", r"\frac{1}{2}", "0.5", None]),
        finished=st.booleans(),
        refuted=st.booleans(),
        score=st.sampled_from([0.0, 0.3, 1.0]),
    ),
    min_size=1,
    max_size=7,
)


def told(strategy: Strategy, completions: Sequence[Candidate]) -> Candidate:
    """What it selects when the completions come in this order, as far as it asks for them."""
    left = list(completions)
    while left and (wanted := strategy.ask()):
        strategy.tell(left[:wanted])
        left = left[wanted:]
    return strategy.best()


def answer(strategy: Strategy, *completions: Candidate) -> str | None:
    return told(strategy, completions).answer


def test_the_first_is_whatever_comes_first():
    cut, good = candidate(None, finished=False), candidate("4")
    assert told(First(), [cut, good]) is cut
    assert First().ask() == 1


def test_the_most_frequent_answer_wins():
    one, two, other = candidate("4", text="a"), candidate("4", text="b"), candidate("5")
    assert told(Majority(3), [other, one, two]) is one


def test_equal_answers_are_one_class_and_the_commonest_text_speaks_for_it():
    half, decimal, third = candidate(r"\frac{1}{2}"), candidate("0.5"), candidate("3")
    # 3 votes for one half, 2 for three; `0.5` is its most frequent text.
    assert told(Majority(5), [third, half, third, decimal, candidate("0.5")]) is decimal


def test_a_tie_goes_to_the_class_that_was_told_first():
    assert answer(Majority(4), *map(candidate, "5445")) == "5"
    assert answer(Majority(4), *map(candidate, "4554")) == "4"


def test_what_was_cut_or_has_no_answer_does_not_vote():
    cut, silent = candidate("5", finished=False), candidate(None)
    assert answer(Majority(5), cut, silent, cut, silent, candidate("4")) == "4"
    assert told(Majority(3), [silent, cut, cut]) is silent  # nobody votes: the first


def test_a_refuted_completion_does_not_vote_unless_all_are():
    wrong = candidate("5", refuted=True)
    assert answer(VetoedMajority(3), wrong, wrong, candidate("4")) == "4"
    assert answer(VetoedMajority(3), candidate("6", refuted=True), wrong, wrong) == "5"
    assert answer(Majority(3), wrong, wrong, candidate("4")) == "5"


def test_a_completion_without_a_vote_is_no_reason_to_silence_the_refuted_ones():
    # Nothing refutes what was cut, yet it answers nothing.
    cut = candidate(None, finished=False)
    assert answer(VetoedMajority(2), cut, candidate("5", refuted=True)) == "5"


def test_resampling_ends_with_the_first_that_nothing_speaks_against():
    strategy, good = Resample(8), candidate("4")
    for bad in (
        candidate("5", refuted=True),
        candidate(None),
        candidate("6", finished=False),
        candidate("5", refuted=True),
    ):
        assert strategy.ask() == 1
        strategy.tell([bad])
        assert strategy.best().answer == "5"  # so far
    strategy.tell([good])
    assert strategy.ask() == 0
    assert strategy.best() is good


def test_resampling_gives_up_at_its_size_and_votes():
    bad = [candidate(text, refuted=True) for text in "455"]
    strategy = Resample(3)
    assert told(strategy, bad).answer == "5"
    assert strategy.ask() == 0


def test_the_best_of_several_has_the_highest_score():
    low, high, later = (candidate("4", score=one) for one in (0.2, 0.9, 0.9))
    assert told(BestOf(3), [low, high, later]) is high


def test_what_was_cut_or_has_no_answer_is_never_the_best_of_those_that_have_one():
    cut, silent = candidate("5", finished=False), candidate(None)
    bad = candidate("4", score=0.0)
    assert told(BestOf(3), [cut, silent, bad]) is bad
    assert told(BestOf(2), [silent, cut]) is silent  # none has one: the first


def test_scores_weigh_votes():
    # 0.5 + 0.4 for 4 against 0.8 for 5.
    votes = [candidate("5", score=0.8), candidate("4", score=0.5), candidate("4", score=0.4)]
    assert told(WeightedMajority(3), votes) is votes[1]
    assert answer(WeightedMajority(2), *votes[:2]) == "5"


@given(candidates)
def test_equal_scores_make_a_weighted_vote_a_majority(completions: list[Candidate]):
    alike = [replace(one, score=0.7) for one in completions]
    size = len(alike)
    assert told(WeightedMajority(size), alike) is told(Majority(size), alike)


def test_without_a_size_only_whoever_drives_it_ends_a_strategy():
    votes = [candidate("4") for _ in range(50)]
    for name, kind in STRATEGIES.items():
        strategy = kind.build(None)
        assert strategy.ask() == {"first": 1, "resample": 1}.get(name, UNLIMITED)
        strategy.tell(votes[:1])
        if strategy.ask():
            strategy.tell(votes[1:])
            assert strategy.ask() == UNLIMITED
        assert strategy.best() is votes[0]


@given(candidates)
def test_nobody_asks_for_more_than_its_size_or_selects_what_it_was_not_told(
    completions: list[Candidate],
):
    for name, kind in STRATEGIES.items():
        strategy, size = kind.build(len(completions)), len(completions) if kind.has_size else 1
        num_told = 0
        while wanted := strategy.ask():
            assert strategy.ask() == wanted  # asking changes nothing
            new = completions[num_told : num_told + wanted]
            assert len(new) == wanted, name
            strategy.tell(new)
            num_told += wanted
            assert any(strategy.best() is one for one in completions[:num_told])
        assert num_told <= size


@given(candidates)
def test_a_strategy_is_the_same_function_of_what_it_is_told(completions: list[Candidate]):
    for kind in STRATEGIES.values():
        size = len(completions)
        assert told(kind.build(size), completions) is told(kind.build(size), completions)


@given(candidates)
def test_one_call_and_many_tell_the_same(completions: list[Candidate]):
    for kind in (Majority, VetoedMajority, WeightedMajority, BestOf):
        one_by_one = kind(len(completions))
        for one in completions:
            one_by_one.tell([one])
        assert one_by_one.best() is told(kind(len(completions)), completions)


@given(st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=5))
def test_majority_over_all_orders_is_the_expected_maj_at_k(answers: list[str | None]):
    completions = [candidate(text, text=str(i)) for i, text in enumerate(answers)]
    classes = [
        VoteClass(len(one.members), one.representative == "1") for one in answer_classes(answers)
    ]
    expected = majority_at_k(classes, answers.count(None), len(answers))
    orders = itertools.permutations(completions)
    share = fmean(answer(Majority(len(answers)), *order) == "1" for order in orders)
    assert share == pytest.approx(expected)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="tell a completion first"):
        Majority(2).best()
    with pytest.raises(ValueError, match="3 completions were told, 2 asked for"):
        Majority(2).tell([candidate("4")] * 3)
    with pytest.raises(ValueError, match="2 completions were told, 1 asked for"):
        Resample(8).tell([candidate("4")] * 2)
    with pytest.raises(ValueError, match="0 completions"):
        Majority(0)
    with pytest.raises(ValueError, match="0 completions"):
        BestOf(0)


@pytest.mark.parametrize(
    ("text", "kind", "size"),
    [
        ("first", First, 1),
        ("majority:8", Majority, 8),
        ("vetoed-majority:16", VetoedMajority, 16),
        ("resample:1", Resample, 1),
        ("best-of:4", BestOf, 4),
        ("weighted-majority:4", WeightedMajority, 4),
    ],
)
def test_strategies_have_names(text: str, kind: type, size: int):
    named = strategy_named(text)
    assert (named.name, named.size) == (text, size)
    one, other = named(), named()
    assert type(one) is kind
    assert one is not other  # a strategy is used up by one run
    assert one.ask() == (1 if kind is Resample else size)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mcts:8", "no strategy is named 'mcts'; there are first, majority:N, vetoed-majority:N"),
        ("best-of", "whole number of completions from 1, such as best-of:8"),
        ("", "no strategy is named ''"),
        ("majority", "whole number of completions from 1, such as majority:8"),
        ("majority:", "whole number"),
        ("majority:0", "whole number"),
        ("majority:08", "whole number"),
        ("majority:-1", "whole number"),
        ("majority:8:2", "whole number"),
        ("first:1", "first takes no number"),
    ],
)
def test_names_that_mean_nothing_are_refused(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        strategy_named(text)

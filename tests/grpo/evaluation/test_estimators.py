"""Tests for grpo/evaluation/estimators.py, against enumeration of all subsets."""

import itertools
from collections import Counter
from fractions import Fraction
from math import comb

import pytest
from cpu_time import cpu_seconds
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.evaluation.estimators import VoteClass, majority_at_k, pass_at_k, subset_sizes

vote_classes = st.lists(st.builds(VoteClass, st.integers(1, 4), st.booleans()), max_size=4)


def enumerated_majority(classes: list[VoteClass], num_abstained: int, k: int) -> Fraction:
    """The definition: the mean over all subsets of k samples, ties split evenly."""
    votes: list[int | None] = [None] * num_abstained
    for index, group in enumerate(classes):
        votes += [index] * group.votes
    total, subsets = Fraction(0), 0
    for subset in itertools.combinations(votes, k):
        subsets += 1
        counts = Counter(vote for vote in subset if vote is not None)
        most = max(counts.values(), default=0)
        winners = [classes[index].correct for index, count in counts.items() if count == most]
        if winners:
            total += Fraction(sum(winners), len(winners))
    return total / subsets


@pytest.mark.parametrize(
    ("n", "c", "k", "expected"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 5, 0.916667),  # 1 - C(7,5) / C(10,5) = 1 - 21/252
        (64, 18, 8, 0.941048),
        (64, 1, 16, 0.25),  # the one right sample is among the 16: 16/64
        (4, 4, 2, 1.0),
        (5, 0, 3, 0.0),
    ],
)
def test_pass_at_k_of_known_examples(n: int, c: int, k: int, expected: float):
    assert pass_at_k(n, c, k) == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_right_sample(samples: list[bool], data):
    k = data.draw(st.integers(1, len(samples)))
    subsets = list(itertools.combinations(samples, k))
    expected = Fraction(sum(map(any, subsets)), len(subsets))
    assert pass_at_k(len(samples), sum(samples), k) == float(expected)


def test_pass_at_k_is_exact_where_factorials_overflow_a_float():
    # One right sample of 100,000 is among 25,000 chosen ones with probability 1/4.
    assert pass_at_k(100_000, 1, 25_000) == 0.25


@pytest.mark.parametrize(
    ("n", "c", "k"), [(4, 2, 5), (4, 5, 2), (4, -1, 2), (4, 2, 0), (4, 2, -1), (0, 0, 1)]
)
def test_pass_at_k_refuses_impossible_counts(n: int, c: int, k: int):
    with pytest.raises(ValueError, match=r"k must be from 1 to n|count those among"):
        pass_at_k(n, c, k)


@pytest.mark.parametrize(
    ("classes", "num_abstained", "k", "expected"),
    [
        # Of the pairs of a, a, b one is aa, right, and two are ties that a wins half of the time.
        ([(2, True), (1, False)], 0, 2, 2 / 3),
        # Pairs of a, b, none: ab ties, a alone wins, b alone loses: (1/2 + 1 + 0) / 3.
        ([(1, True), (1, False)], 1, 2, 1 / 2),
        # The pair of the two that abstained is wrong: 1 - 1/C(3,2).
        ([(1, True)], 2, 2, 2 / 3),
        # Three answers tie, two of them right.
        ([(1, True), (1, True), (1, False)], 0, 3, 2 / 3),
        # All vote: 3 against 2.
        ([(3, False), (2, True)], 4, 9, 0.0),
        ([], 3, 2, 0.0),
    ],
)
def test_majority_at_k_worked_out_by_hand(
    classes: list[tuple[int, bool]], num_abstained: int, k: int, expected: float
):
    found = majority_at_k([VoteClass(*group) for group in classes], num_abstained, k)
    assert found == pytest.approx(expected, abs=1e-15)


@given(vote_classes, st.integers(0, 3), st.data())
def test_majority_at_k_is_the_mean_over_all_subsets(
    classes: list[VoteClass], num_abstained: int, data
):
    while sum(group.votes for group in classes) > 9:
        classes = classes[1:]
    n = num_abstained + sum(group.votes for group in classes)
    if n == 0:
        classes, n = [VoteClass(1, True)], 1
    k = data.draw(st.integers(1, n))
    # Both are a ratio of integers, rounded once: equal to the last bit.
    expected = float(enumerated_majority(classes, num_abstained, k))
    assert majority_at_k(classes, num_abstained, k) == expected


@given(st.lists(st.integers(1, 12), min_size=1, max_size=10), st.integers(0, 12), st.data())
def test_some_class_wins_every_subset_that_votes(votes: list[int], num_abstained: int, data):
    n = sum(votes) + num_abstained
    k = data.draw(st.integers(1, n))
    wins = [
        majority_at_k(
            [VoteClass(size, j == right) for j, size in enumerate(votes)], num_abstained, k
        )
        for right in range(len(votes))
    ]
    assert sum(wins) == pytest.approx(1 - comb(num_abstained, k) / comb(n, k), abs=1e-12)


@given(vote_classes.filter(len), st.integers(0, 3), st.randoms(use_true_random=False))
def test_the_order_of_classes_does_not_matter(classes: list[VoteClass], num_abstained: int, random):
    shuffled = random.sample(classes, len(classes))
    for k in range(1, num_abstained + sum(group.votes for group in classes) + 1):
        one, other = (majority_at_k(order, num_abstained, k) for order in (classes, shuffled))
        assert one == other


@given(vote_classes.filter(len), st.integers(0, 3))
def test_one_vote_is_the_accuracy(classes: list[VoteClass], num_abstained: int):
    right = sum(group.votes for group in classes if group.correct)
    n = num_abstained + sum(group.votes for group in classes)
    assert majority_at_k(classes, num_abstained, 1) == right / n == pass_at_k(n, right, 1)


@pytest.mark.parametrize(
    "votes", [[1] * 64, [4] * 16, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1], [20, 20, 10]]
)
def test_64_samples_take_milliseconds(votes: list[int]):
    classes = [VoteClass(size, index % 2 == 0) for index, size in enumerate(votes)]
    for k in (2, 8, 32, 64):
        assert cpu_seconds(lambda k=k: majority_at_k(classes, 64 - sum(votes), k)) < 0.05


@pytest.mark.parametrize(
    ("classes", "num_abstained", "k", "message"),
    [
        ([VoteClass(2, True)], 0, 3, "k = 3 of n = 2"),
        ([VoteClass(2, True)], 0, 0, "k = 0 of n = 2"),
        ([], 0, 1, "sample more"),
        ([VoteClass(0, True)], 2, 1, "leave classes without votes out"),
        ([VoteClass(2, True)], -1, 1, "count abstentions from 0"),
    ],
)
def test_majority_at_k_refuses_impossible_counts(
    classes: list[VoteClass], num_abstained: int, k: int, message: str
):
    with pytest.raises(ValueError, match=message):
        majority_at_k(classes, num_abstained, k)


def test_subset_sizes_are_powers_of_two_and_all_samples():
    assert [subset_sizes(k) for k in (1, 2, 3, 8, 9)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4, 8),
        (1, 2, 4, 8, 9),
    ]
    with pytest.raises(ValueError, match="at least one sample"):
        subset_sizes(0)

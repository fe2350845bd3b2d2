"""Tests for grpo/distilling/data_value.py."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.config_distill import Selection
from cotree.grpo.distilling.data_value import data_values, ranks, selected

numbers = st.lists(st.integers(-5, 5).map(float), min_size=1, max_size=12)
shares = st.floats(0.01, 0.99)


def test_ranks_run_from_nought_to_one_and_ties_share_theirs():
    # Of five places 0 … 4, the two 2.0 share places 1 and 2: 1.5 / 4.
    assert ranks([2.0, 9.0, -1.0, 2.0, 3.0]) == [0.375, 1.0, 0.0, 0.375, 0.75]


def test_a_value_alone_is_in_the_middle_as_are_equal_ones():
    assert ranks([7.0]) == [0.5]
    assert ranks([7.0, 7.0, 7.0]) == [0.5] * 3
    assert ranks([]) == []


@given(numbers)
def test_ranks_do_not_depend_on_units(values: list[float]):
    assert ranks([math.exp(value) + 3 for value in values]) == ranks(values)


@given(numbers)
def test_ranks_turn_around_with_the_sign(values: list[float]):
    assert ranks([-value for value in values]) == pytest.approx([1 - r for r in ranks(values)])


@given(numbers, st.randoms(use_true_random=False))
def test_ranks_follow_their_values_through_any_order(values: list[float], rng):
    order = rng.sample(range(len(values)), len(values))
    there = ranks(values)
    assert ranks([values[index] for index in order]) == [there[index] for index in order]


@given(numbers)
def test_the_mean_rank_is_a_half(values: list[float]):
    assert math.fsum(ranks(values)) / len(values) == pytest.approx(0.5)


def test_a_value_is_the_mixture_of_both_ranks():
    # Entropy ranks 0, 1/2, 1; norm ranks 1, 0, 1/2; the first is 0.6 * 0 + 0.4 * 1.
    found = data_values([0.1, 0.2, 9.0], [1e6, 1.0, 2.0], entropy_weight=0.6)
    assert found == pytest.approx([0.4, 0.3, 0.8])


@given(numbers)
def test_the_weight_can_leave_one_of_them_out(values: list[float]):
    others = [float(index) for index in range(len(values))]
    assert data_values(values, others, entropy_weight=1.0) == pytest.approx(ranks(values))
    assert data_values(others, values, entropy_weight=0.0) == pytest.approx(ranks(values))


def test_a_gradient_for_every_entropy_is_needed():
    with pytest.raises(ValueError, match="3 entropies and 2 gradient norms"):
        data_values([1.0, 2.0, 3.0], [1.0, 2.0], entropy_weight=0.5)
    with pytest.raises(ValueError, match="entropy_weight = 2 must lie"):
        data_values([1.0], [1.0], entropy_weight=2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_has_no_place(value: float):
    with pytest.raises(ValueError, match="text 1 has the value"):
        ranks([0.0, value])
    with pytest.raises(ValueError, match="text 1 has the value"):
        selected([0.0, value], Selection(), seed=0)


def test_the_best_are_selected_in_the_order_of_the_corpus():
    values = [0.3, 0.9, 0.1, 0.8, 0.5, 0.2, 0.4, 0.6]
    assert selected(values, Selection(share=0.25), seed=0) == [1, 3]  # 2 of 8
    assert selected(values, Selection(share=0.5), seed=0) == [1, 3, 4, 7]


def test_of_equal_texts_the_earlier_is_selected():
    assert selected([0.5, 0.7, 0.5, 0.5], Selection(share=0.5), seed=0) == [0, 1]


@given(numbers, shares)
def test_no_text_that_is_left_out_is_worth_more(values: list[float], share: float):
    chosen = selected(values, Selection(share=share), seed=0)
    left = [value for index, value in enumerate(values) if index not in chosen]
    assert not left or max(left) <= min(values[index] for index in chosen)


@given(numbers, shares, st.integers(0, 9))
def test_the_random_control_has_the_same_size_and_is_a_function_of_its_seed(
    values: list[float], share: float, seed: int
):
    control = Selection(share=share, by="random")
    chosen = selected(len(values), control, seed=seed)
    assert chosen == selected(values, control, seed=seed)
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(len(values)))
    assert len(chosen) == len(selected(values, Selection(share=share), seed=seed)) >= 1


def test_another_seed_chooses_others():
    control = Selection(share=0.5, by="random")
    assert selected(100, control, seed=0) != selected(100, control, seed=1)


def test_every_text_has_the_same_chance_in_the_control():
    # 400 choices of 1 in 4: each text is chosen 100 times, standard deviation sqrt(75) = 8.7.
    control = Selection(share=0.25, by="random")
    counts = [0] * 8
    for seed in range(400):
        for index in selected(8, control, seed=seed):
            counts[index] += 1
    assert all(abs(count - 100) < 4 * 8.7 for count in counts)


def test_a_choice_by_value_needs_values_and_any_choice_needs_texts():
    with pytest.raises(ValueError, match="the value of each of the 5 texts"):
        selected(5, Selection(), seed=0)
    for nothing in ([], 0):
        with pytest.raises(ValueError, match="no text to select from"):
            selected(nothing, Selection(), seed=0)

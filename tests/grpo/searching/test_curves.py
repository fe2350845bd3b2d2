"""Tests for grpo/searching/curves.py, against numbers worked out by hand and by simulation."""

import itertools
import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.intervals import mean_interval
from cotree.grpo.searching.anytime import Anytime, Run
from cotree.grpo.searching.curves import (
    RESAMPLES,
    accuracy_at,
    area_difference,
    area_under,
    budget_grid,
    curve,
    paired_differences,
    shared_problems,
    token_ratio,
    tokens_to_reach,
)

# a: right from 4 tokens in one search of two, from 16 in both. b: right from 8, wrong from 32.
SMALL = Run(
    "small",
    {
        "a": [Anytime(64, ((4, True),)), Anytime(64, ((8, False), (16, True)))],
        "b": [Anytime(64, ((8, True), (32, False)))],
    },
)


def steps_of(name: str, firsts: list[int | None], *, end: int = 64) -> Run:
    """One search a problem, right from some tokens on; None: never."""
    return Run(
        name,
        {
            f"{place:03}": [Anytime(end, () if first is None else ((first, True),))]
            for place, first in enumerate(firsts)
        },
    )


def zero_one(name: str, values: np.ndarray) -> Run:
    """[N, k] right (from 1 token on) or never right, for each search of each problem."""
    return Run(
        name,
        {
            f"{place:04}": [Anytime(4, ((1, True),) if right else ()) for right in row]
            for place, row in enumerate(values.tolist())
        },
        budget=4,
    )


@st.composite
def runs(draw: st.DrawFn) -> Run:
    searches = st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=4).map(
        lambda made: Anytime(40, tuple(sorted(made, key=lambda choice: choice[0])))
    )
    problems = draw(st.lists(st.lists(searches, min_size=1, max_size=3), min_size=1, max_size=5))
    return Run("any", {f"{place}": found for place, found in enumerate(problems)}, budget=40)


# --- one run


def test_accuracy_is_the_mean_over_the_searches_of_a_problem():
    assert accuracy_at(SMALL, 3) == {"a": 0.0, "b": 0.0}
    assert accuracy_at(SMALL, 4) == {"a": 0.5, "b": 0.0}
    assert accuracy_at(SMALL, 16) == {"a": 1.0, "b": 1.0}
    assert accuracy_at(SMALL, 64) == {"a": 1.0, "b": 0.0}
    with pytest.raises(ValueError, match="small ends at 64 tokens"):
        accuracy_at(SMALL, 65)


@given(runs(), st.lists(st.integers(0, 40), min_size=1, unique=True).map(sorted))
def test_a_curve_is_the_reading_of_each_search_at_each_budget(run: Run, budgets: list[int]):
    for point in curve(run, budgets):
        shares = [
            sum(one.is_right_at(point.budget) for one in searches) / len(searches)
            for searches in run.problems.values()
        ]
        assert point.accuracy.value == pytest.approx(sum(shares) / len(shares))
        assert list(accuracy_at(run, point.budget).values()) == pytest.approx(shares)


@given(runs())
def test_a_search_that_only_improves_has_a_rising_curve(run: Run):
    improving = Run(
        "improving",
        {
            id_: [Anytime(40, tuple(c for c in one.choices if c[1])) for one in searches]
            for id_, searches in run.problems.items()
        },
        budget=40,
    )
    values = [point.accuracy.value for point in curve(improving, range(41))]
    assert values == sorted(values)


def test_points_have_the_interval_over_problems_and_end_with_the_run():
    points = curve(SMALL, [4, 16, 128])
    assert [point.budget for point in points] == [4, 16]
    assert points[0].accuracy == mean_interval([0.5, 0.0])


def test_the_grid_goes_in_powers_of_the_square_root_of_2_and_has_all_ends():
    # Right first at 4; powers from 4 on: 4, 5.66, 8, 11.3, 16, 22.6, 32, 45.3, 64, 90.5.
    longer = steps_of("longer", [9], end=100)
    grid = budget_grid([SMALL, longer])
    assert grid == (4, 5, 8, 11, 16, 22, 32, 45, 64, 90, 100)


def test_the_grid_begins_before_the_end_of_every_run():
    never = steps_of("never", [None], end=64)
    assert budget_grid([never]) == (32, 45, 64)
    # 10 is between 8 and 11.3, and half of 8 is less.
    assert budget_grid([steps_of("late", [10]), steps_of("short", [None], end=8)])[0] == 4


def test_tokens_to_reach_an_accuracy_are_where_the_curve_first_is_as_high():
    # Mean over problems: 1/4 from 4, 3/4 from 8, 1 from 16, 1/2 from 32.
    targets = {0.2: 4, 0.25: 4, 0.26: 8, 0.75: 8, 1.0: 16}
    assert {target: tokens_to_reach(SMALL, target) for target in targets} == targets
    assert tokens_to_reach(steps_of("half", [8, None]), 0.6) is None
    with pytest.raises(ValueError, match=r"target = 0.0 must be"):
        tokens_to_reach(SMALL, 0.0)


def test_tenths_that_add_up_to_one_reach_one():
    # In floats, 0.1 ten times is less than 1.
    assert tokens_to_reach(steps_of("tenths", list(range(1, 11))), 1.0) == 10


def test_between_two_changes_at_the_same_tokens_there_is_no_accuracy():
    # One problem is won where another is lost: never both.
    won, lost = Anytime(9, ((5, True),)), Anytime(9, ((1, True), (5, False)))
    assert tokens_to_reach(Run("swap", {"a": [won], "b": [lost]}), 1.0) is None


def test_the_area_weighs_each_doubling_alike():
    # From 4 to 64 are 4 doublings. a: 1/2 for 2 of them, then 1 for 2: 3/4.
    # b: right from 8 to 32, 2 of 4 doublings: 1/2. The mean is 5/8.
    assert area_under(SMALL, low=4, high=64).value == pytest.approx(5 / 8)
    # From 16 to 32 both are right; what was right before counts from the beginning.
    assert area_under(SMALL, low=16, high=32).value == pytest.approx(1.0)
    with pytest.raises(ValueError, match="1 <= low < high"):
        area_under(SMALL, low=4, high=4)
    with pytest.raises(ValueError, match="ends at 64"):
        area_under(SMALL, low=4, high=65)


@settings(max_examples=40)
@given(runs())
def test_the_area_is_the_integral_of_the_curve(run: Run):
    points = curve(run, range(2, 41))
    pieces = [
        one.accuracy.value * math.log(after.budget / one.budget)
        for one, after in itertools.pairwise(points)
    ]
    expected = sum(pieces) / math.log(40 / 2)
    assert area_under(run, low=2, high=40).value == pytest.approx(expected)


# --- two runs


def test_a_difference_is_of_the_problems_that_both_runs_have():
    run, baseline = steps_of("run", [4, 4, 4, None]), steps_of("baseline", [4, 8, None])
    early, late = paired_differences(run, baseline, [4, 8], seed=0)
    # The fourth problem is the run's alone. At 4: right on 3 against 1 of 3; at 8 on 3 against 2.
    assert early.value == pytest.approx(2 / 3)
    assert (early.num_better, early.num_worse) == (2, 0)
    assert late.value == pytest.approx(1 / 3)


def test_p_values_are_shares_of_sign_flips():
    # Five problems better, none worse: 2 of 2^5 flips are as far from 0. 0.0625 +- 0.0024.
    run, baseline = steps_of("run", [4] * 5 + [None] * 5), steps_of("baseline", [None] * 10)
    (found,) = paired_differences(run, baseline, [8], seed=0)
    assert found.p_value == pytest.approx(2 / 32, abs=0.01)
    # The percentiles of Binomial(10, 1/2) / 10: P(X <= 1) = 0.011, P(X <= 2) = 0.055.
    assert (found.low, found.high) == (0.2, 0.8)


def test_runs_that_are_alike_do_not_differ():
    (same,) = paired_differences(SMALL, SMALL, [16], seed=0)
    assert (same.value, same.low, same.high, same.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert (same.num_better, same.num_worse) == (0, 0)


def test_the_other_way_round_a_difference_has_the_other_sign():
    rng = random.Random(3)
    a = steps_of("a", [rng.choice([4, 16, None]) for _ in range(40)])
    b = steps_of("b", [rng.choice([4, 16, None]) for _ in range(40)])
    forth = area_difference(a, b, low=2, high=64, seed=1)
    back = area_difference(b, a, low=2, high=64, seed=1)
    assert forth.value == pytest.approx(-back.value)
    assert forth.low == pytest.approx(-back.high, abs=0.005)
    assert (forth.num_better, forth.num_worse) == (back.num_worse, back.num_better)
    assert forth.p_value == back.p_value


def test_the_order_of_problems_and_of_their_searches_changes_nothing():
    rng = np.random.default_rng(5)
    a, b = (zero_one(name, rng.random((30, 3)) < 0.4) for name in "ab")
    turned = replace(a, problems={id_: a.problems[id_][::-1] for id_ in reversed(a.problems)})
    assert list(turned.problems) != list(a.problems)
    assert paired_differences(turned, b, [1, 4], seed=0) == paired_differences(a, b, [1, 4], seed=0)
    assert token_ratio(turned, b, seed=0) == token_ratio(a, b, seed=0)
    assert curve(turned, [1, 4]) == curve(a, [1, 4])


def test_the_same_seed_draws_the_same_problems_again():
    a, b = steps_of("a", [4, 8, None, 2, 9]), steps_of("b", [8, 8, 7, None, 2])
    first, again, other = (area_difference(a, b, low=2, high=64, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_runs_without_a_shared_problem_or_with_other_questions_are_refused():
    only_a, only_b = Run("x", {"a": [Anytime(9, ())]}), Run("y", {"b": [Anytime(9, ())]})
    with pytest.raises(ConfigError, match="x, y share no problem"):
        paired_differences(only_a, only_b, [4], seed=0)
    asked = Run("x", only_a.problems, questions={"a": "1 + 1?"})
    other = Run("z", only_a.problems, questions={"a": "1 + 2?"})
    with pytest.raises(ConfigError, match="problem 'a' has different questions in x, z"):
        token_ratio(asked, other, seed=0)
    assert shared_problems([asked, only_a]) == ["a"]  # what is not known cannot differ


def test_shared_problems_are_in_one_order():
    ids = [f"{number:02}" for number in range(30)]
    runs = [Run(name, {id_: [Anytime(9, ())] for id_ in ids[::-1]}) for name in "ab"]
    assert shared_problems(runs) == ids


def test_budgets_beyond_a_run_are_refused():
    with pytest.raises(ValueError, match="short ends at 8 tokens and says nothing about 16"):
        paired_differences(SMALL, steps_of("short", [4], end=8), [4, 16], seed=0)


# --- what the intervals are worth


def test_pairing_makes_the_interval_narrower_where_runs_share_what_is_hard():
    rng = np.random.default_rng(0)
    hard = rng.beta(0.4, 0.4, size=(200, 1))
    a, b = (zero_one(name, rng.random((200, 3)) < hard) for name in "ab")
    (paired,) = paired_differences(a, b, [4], seed=0)
    # The same numbers as if they were of other problems: b's are given to problems at random.
    places = rng.permutation(len(b.problems))
    searches = list(b.problems.values())
    mixed = replace(b, problems=dict(zip(b.problems, (searches[i] for i in places), strict=True)))
    (unpaired,) = paired_differences(a, mixed, [4], seed=0)
    assert unpaired.value == pytest.approx(paired.value)
    assert paired.high - paired.low < 0.6 * (unpaired.high - unpaired.low)


def test_intervals_cover_the_true_difference_and_p_values_hold_their_level():
    # Rates are drawn for each problem; the runs' rates differ by 0.1 on every problem, or by none.
    rng = np.random.default_rng(1)
    covered = found = 0
    for _ in range(repetitions := 80):
        rates = rng.uniform(0.0, 0.9, size=(50, 1))
        base, better, alike = (
            zero_one(name, rng.random((50, 2)) < rates + gain)
            for name, gain in (("base", 0.0), ("better", 0.1), ("alike", 0.0))
        )
        (one,) = paired_differences(better, base, [4], seed=0)
        covered += one.low <= 0.1 <= one.high
        found += paired_differences(alike, base, [4], seed=0)[0].p_value < 0.05
    # Of 80, 95 % and 5 % have a standard error of sqrt(80 * 0.95 * 0.05) = 1.9; 3 are allowed.
    assert covered >= 0.95 * repetitions - 3 * 1.9
    assert found <= 0.05 * repetitions + 3 * 1.9


# --- ratios of tokens


def test_the_ratio_is_of_the_budgets_at_which_both_are_as_good_as_the_baseline_ever_is():
    # The baseline is at 2/4 from 32 on. The run is at 2/4 from 8.
    run, baseline = steps_of("run", [4, 8, 64, None]), steps_of("baseline", [16, 32, None, None])
    found = token_ratio(run, baseline, seed=0)
    assert found is not None
    assert (found.target, found.tokens, found.baseline_tokens) == (0.5, 8, 32)
    assert found.ratio == 0.25
    assert found.low is not None
    assert found.low <= 0.25


def test_a_run_against_itself_needs_all_of_its_tokens():
    found = token_ratio(SMALL, SMALL, seed=0)
    assert found is not None
    assert (found.ratio, found.low, found.high, found.never) == (1.0, 1.0, 1.0, 0.0)


def test_a_run_that_never_gets_there_has_no_ratio():
    found = token_ratio(steps_of("run", [4, None]), steps_of("baseline", [8, 8]), seed=0)
    assert found is not None
    assert (found.target, found.baseline_tokens) == (1.0, 8)
    assert (found.tokens, found.ratio, found.high) == (None, None, None)
    # It does where only the first problem was drawn, a quarter of the resamples.
    assert found.never == pytest.approx(0.75, abs=4 * math.sqrt(0.75 * 0.25 / RESAMPLES))
    assert found.low == 0.5


def test_a_baseline_that_is_never_right_cannot_be_reached():
    assert token_ratio(SMALL, Run("no", {"a": [Anytime(64, ())]}), seed=0) is None


def test_resamples_without_a_right_baseline_are_left_out():
    # A quarter of the resamples has the second problem alone, on which both are never right.
    found = token_ratio(steps_of("run", [4, None]), steps_of("baseline", [8, None]), seed=0)
    assert found is not None
    assert (found.ratio, found.low, found.high, found.never) == (0.5, 0.5, 0.5, 0.0)

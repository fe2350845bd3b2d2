"""Tests for search/halving.py, against numbers worked out in the comments."""

import math
import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.search.halving import (
    behind_policy,
    gumbel_noise,
    halving_phases,
    halving_scores,
    improved_policy,
    sigma,
)


@pytest.mark.parametrize(
    ("num_candidates", "num_simulations", "phases"),
    [
        # log2 4 = 2 phases: 16 / (2 * 4) = 2 each for four, 16 / (2 * 2) = 4 each for two.
        (4, 16, [(4, 8), (2, 8)]),
        # 4 phases: 50/64 < 1 -> 1 each; 50/32 -> 1; 50/16 -> 3; the rest for two, not 6 each.
        (16, 50, [(16, 16), (8, 8), (4, 12), (2, 14)]),
        # ceil(log2 3) = 2: 12 / 6 = 2 each; half of three is one, but two go on.
        (3, 12, [(3, 6), (2, 6)]),
        # ceil(log2 5) = 3: 20 / 15 = 1 each; then two.
        (5, 20, [(5, 5), (2, 15)]),
        (2, 7, [(2, 7)]),
        (1, 5, [(1, 5)]),
        (8, 3, [(8, 3)]),
        (8, 10, [(8, 8), (4, 2)]),
        (4, 0, []),
    ],
)
def test_schedule(num_candidates: int, num_simulations: int, phases: list[tuple[int, int]]):
    assert halving_phases(num_candidates, num_simulations) == phases


@given(st.integers(1, 64), st.integers(0, 3000))
def test_a_schedule_spends_all_simulations_on_ever_fewer_candidates(m: int, n: int):
    phases = halving_phases(m, n)
    assert sum(phase.num_simulations for phase in phases) == n
    considered = [phase.num_candidates for phase in phases]
    assert considered == sorted(set(considered), reverse=True)
    assert all(phase.num_simulations > 0 for phase in phases)
    # Candidates of all but the last phase have had the same number of simulations at its end.
    assert all(sims % candidates == 0 for candidates, sims in phases[:-1])
    # Each phase has its share of the simulations or less, unless each candidate gets just one.
    rounds = max(1, math.ceil(math.log2(m)))
    assert all(sims <= max(n / rounds, candidates) for candidates, sims in phases[:-1])


@pytest.mark.parametrize(("m", "n"), [(0, 4), (2, -1)])
def test_a_schedule_of_nothing_is_refused(m: int, n: int):
    with pytest.raises(ValueError, match="make no schedule"):
        halving_phases(m, n)


def test_values_weigh_more_after_more_visits():
    # (50 + 10) * 0.1 * 0.5 = 3; (50 + 10) * 0.1 * 1 = 6.
    assert sigma([10, 4], [0.5, 1.0]) == [3.0, 6.0]
    assert sigma([10, 4], [0.5, 1.0], c_visit=0.0, c_scale=1.0) == [5.0, 10.0]


def test_improved_policy_is_the_prior_tilted_by_values():
    # Equal values leave the prior. With N = 10, q = 0 and 1: odds 3 : 1 * e^6.
    assert improved_policy([1, 9], [0.3, 0.3], [0.75, 0.25]) == pytest.approx([0.75, 0.25])
    tilted = improved_policy([10, 4], [0.0, 1.0], [0.75, 0.25])
    assert tilted[1] / tilted[0] == pytest.approx(math.exp(6) / 3)


@given(st.lists(st.integers(1, 20), min_size=2, max_size=5))
def test_visits_of_an_inner_node_follow_the_policy(weights: list[int]):
    # With equal values pi' = P. What is behind most has N(a) < (1 + N) P(a), for the A differences
    # sum to 1 / (1 + N) > 0. So N(a) < N P(a) + 1 afterwards, and N(a) > N P(a) - (A - 1) since the
    # others keep that too.
    priors = [weight / sum(weights) for weight in weights]
    visits = [0] * len(weights)
    for total in range(1, 61):
        behind = behind_policy(visits, [0.5] * len(visits), priors)
        visits[behind.index(max(behind))] += 1
        ahead = [n - total * p for n, p in zip(visits, priors, strict=True)]
        assert 1 - len(visits) < min(ahead)
        assert max(ahead) < 1 + 1e-9


def test_noise_is_standard_gumbel():
    draws = [gumbel_noise(random.Random(seed)) for seed in range(4000)]
    # Mean is Euler's constant, 0.5772; standard deviation pi / sqrt 6 = 1.283, 0.02 of the mean.
    assert fmean(draws) == pytest.approx(0.5772, abs=0.06)
    assert fmean(d < 0 for d in draws) == pytest.approx(math.exp(-1), abs=0.025)


def test_the_largest_of_noisy_logits_is_a_draw_from_the_policy():
    priors, rng = [0.6, 0.3, 0.1], random.Random(0)
    wins = [0, 0, 0]
    for _ in range(4000):
        noise = [gumbel_noise(rng) for _ in priors]
        scores = halving_scores(noise, [1, 1, 1], [0.5] * 3, priors)
        wins[scores.index(max(scores))] += 1
    # 4 standard errors of a share of 4000 are 0.031 at most.
    assert [win / 4000 for win in wins] == pytest.approx(priors, abs=0.031)


def test_ranks_add_noise_policy_and_value():
    # g + ln P + (50 + 2) * 0.1 * q.
    scores = halving_scores([1.0, -1.0], [2, 1], [0.5, 1.0], [0.5, 0.5])
    assert scores == pytest.approx([1.0 - math.log(2) + 2.6, -1.0 - math.log(2) + 5.2])

"""Tests for grpo/token_scores.py: what is kept of a distribution, and what is left of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.config_distill import TopK
from cotree.grpo.token_scores import TokenScores


def scores(*positions: tuple[float, ...]) -> TokenScores:
    """Scores with these probabilities of tokens 10, 11, ...; shorter positions are filled up."""
    width = max(len(masses) for masses in positions)
    ids = np.full((len(positions), width), -1, np.int32)
    logprobs = np.full((len(positions), width), -np.inf, np.float32)
    for row, masses in enumerate(positions):
        ids[row, : len(masses)] = 10 + np.arange(len(masses))
        logprobs[row, : len(masses)] = np.log(masses)
    return TokenScores(np.full(len(positions), -0.5, np.float32), ids, logprobs)


def test_the_tail_is_what_the_named_tokens_leave():
    got = scores((0.5, 0.25), (0.9,), (0.5, 0.5)).tail_mass()
    assert got.dtype == np.float32
    assert got == pytest.approx([0.25, 0.1, 0.0], abs=1e-7)


def test_rounding_never_makes_a_tail_negative():
    # A server's bfloat16 probabilities may sum to more than 1.
    assert scores((0.7, 0.3001)).tail_mass().tolist() == [0.0]


def test_nothing_more_is_kept_once_the_rest_is_unlikely():
    # Before each token, 1, 0.4, 0.1 and 0.02 are left. Above 0.05 are the first three.
    some = scores((0.6, 0.3, 0.08, 0.01))
    kept = some.trimmed(TopK(most=16, tail_mass=0.05))
    assert kept.top_ids.tolist() == [[10, 11, 12]]
    assert np.array_equal(kept.top_logprobs, some.top_logprobs[:, :3])
    assert np.array_equal(kept.logprobs, some.logprobs)
    assert kept.tail_mass() == pytest.approx([0.02], abs=1e-6)
    assert some.trimmed(TopK(most=2, tail_mass=0.05)).top_ids.tolist() == [[10, 11]]


def test_the_longest_position_decides_the_width_and_the_others_are_filled_up():
    kept = scores((0.99, 0.005), (0.5, 0.3, 0.1), (0.4, 0.3)).trimmed(TopK(most=8, tail_mass=0.15))
    # Left before the third token of the second position: 0.2; before the second of the first: 0.01.
    assert kept.top_ids.tolist() == [[10, -1, -1], [10, 11, 12], [10, 11, -1]]
    assert np.isneginf(kept.top_logprobs[kept.top_ids == -1]).all()
    assert np.isfinite(kept.top_logprobs[kept.top_ids >= 0]).all()


def test_without_a_limit_every_named_token_is_kept_even_after_all_of_the_mass():
    # In float32 the first token has all of it: 1 - 1 = 0 is left before the second.
    all_of_it = scores((1.0, 1e-12, 1e-13))
    assert all_of_it.trimmed(TopK(most=3, tail_mass=0.0)).top_ids.tolist() == [[10, 11, 12]]
    assert all_of_it.trimmed(TopK(most=3, tail_mass=1e-6)).top_ids.tolist() == [[10]]


def test_no_tokens_and_no_alternatives_are_no_special_case():
    nothing = TokenScores(
        np.zeros(0, np.float32), np.zeros((0, 4), np.int32), np.zeros((0, 4), np.float32)
    )
    assert nothing.trimmed(TopK()).top_ids.shape == (0, 0)
    assert nothing.tail_mass().shape == (0,)
    alone = TokenScores(
        np.zeros(2, np.float32), np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32)
    )
    assert alone.trimmed(TopK()).top_ids.shape == (2, 0)
    assert alone.tail_mass().tolist() == [1.0, 1.0]


@given(
    weights=st.lists(
        st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=12), min_size=1, max_size=5
    ),
    rest=st.floats(0.0, 0.5),
    most=st.integers(1, 8),
    tail_mass=st.sampled_from([0.0, 1e-3, 0.1, 0.5]),
)
def test_what_is_dropped_is_below_the_limit_and_nothing_less_would_do(
    weights: list[list[float]], rest: float, most: int, tail_mass: float
):
    masses = [
        tuple(sorted(((1 - rest) * w / sum(row) for w in row), reverse=True)) for row in weights
    ]
    some, keep = scores(*masses), TopK(most=most, tail_mass=tail_mass)
    kept = some.trimmed(keep)
    counts = (kept.top_ids >= 0).sum(-1)
    assert kept.top_ids.shape[1] == max(counts)
    for count, row, ids in zip(counts.tolist(), masses, kept.top_ids, strict=True):
        assert 1 <= count <= min(most, len(row))
        assert ids[:count].tolist() == list(range(10, 10 + count))  # the likeliest, in their order
        left = [1 - sum(row[:n]) for n in range(len(row) + 1)]
        slack = 1e-6
        if count < min(most, len(row)):
            assert left[count] <= tail_mass + slack
        assert left[count - 1] > tail_mass - slack
    assert np.array_equal(kept.trimmed(keep).top_ids, kept.top_ids)
    assert (kept.tail_mass() >= some.tail_mass() - 1e-6).all()

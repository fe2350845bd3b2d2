"""Tests for search/branching.py."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.search.branching import entropy_points, lumped_entropy, step_points, uniform_points

COUNTS = st.integers(1, 6)
SEEDS = st.integers(0, 2**63 - 1)
TEXTS = st.text("a1 \n", max_size=30)


def one_token_a_character(text: str) -> tuple[int, ...]:
    return tuple(range(1, len(text) + 1))


def is_inside(points: tuple[int, ...], num_tokens: int) -> bool:
    """Distinct positions in order, neither the first token nor the last."""
    return list(points) == sorted(set(points)) and all(1 <= p <= num_tokens - 2 for p in points)


@given(st.integers(0, 40), COUNTS, SEEDS)
def test_uniform_points_are_inside_and_as_many_as_there_is_room_for(num: int, count: int, seed):
    points = uniform_points(num, count=count, seed=seed)
    assert is_inside(points, num)
    assert len(points) == min(count, max(0, num - 2))
    assert points == uniform_points(num, count=count, seed=seed)


def test_uniform_points_fall_into_equal_parts_and_reach_all_of_them():
    # 11 tokens have the inner positions 1 .. 9: three parts of three.
    found = [uniform_points(11, count=3, seed=seed) for seed in range(200)]
    for part in range(3):
        assert {points[part] for points in found} == {3 * part + 1, 3 * part + 2, 3 * part + 3}


@given(st.lists(st.floats(0, 5), max_size=20), COUNTS)
def test_no_position_left_out_is_less_certain_than_one_taken(entropies: list[float], count: int):
    points = entropy_points(entropies, count=count)
    inner = range(1, len(entropies) - 1)
    assert is_inside(points, len(entropies))
    assert len(points) == min(count, len(inner))
    left = [entropies[p] for p in inner if p not in points]
    assert not left or min(entropies[p] for p in points) >= max(left)


def test_entropy_points_by_hand():
    # Positions 0 and 5 are the first and the last token; 1 and 4 tie, and 1 comes first.
    entropies = [9.0, 0.5, 0.1, 0.7, 0.5, 9.0]
    assert entropy_points(entropies, count=1) == (3,)
    assert entropy_points(entropies, count=2) == (1, 3)


@given(TEXTS, COUNTS)
def test_step_points_are_starts_of_lines_with_text(text: str, count: int):
    points = step_points(text, one_token_a_character(text), count=count)
    assert is_inside(points, len(text))
    assert len(points) <= count
    for point in points:
        assert text[point - 1] == "\n"
        assert text[point:].split("\n")[0].strip()


def test_step_points_are_chosen_evenly():
    text = "a\nb\nc\nd\ne\nf\ng\n"  # lines start at 0, 2, 4 ... 12; 0 shares nothing
    ends = one_token_a_character(text)
    assert step_points(text, ends, count=9) == (2, 4, 6, 8, 10, 12)
    assert step_points(text, ends, count=1) == (8,)  # floor(1/2 * 6 / 1) = 3
    assert step_points(text, ends, count=2) == (4, 10)  # floor(1/2 * 6 / 2) = 1, floor(9 / 2) = 4
    assert step_points("", (), count=2) == ()


def test_a_token_over_the_border_of_two_steps_belongs_to_the_second():
    # Tokens "a", "\nb", "\n\nc", "d", "\n": the lines b and cd start inside tokens 1 and 2.
    assert step_points("a\nb\n\ncd\n", (1, 3, 6, 7, 8), count=5) == (1, 2)


def test_blank_lines_and_empty_tokens_start_no_step():
    # The third line is blank; token 2 completes no character (a piece of one, say).
    assert step_points("a\nb\n  \ncd\n", (1, 2, 2, 3, 4, 7, 8, 9, 10, 10), count=5) == (2, 6)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=30), st.integers(0, 30))
def test_a_lumped_entropy_is_a_lower_bound_and_exact_when_all_is_known(
    shares: list[float], known: int
):
    ranked = sorted((share / sum(shares) for share in shares), reverse=True)
    exact = -sum(p * math.log(p) for p in ranked)
    logprobs = [math.log(p) for p in ranked]
    assert lumped_entropy(logprobs[:known]) <= exact + 1e-9
    assert lumped_entropy(logprobs) == pytest.approx(exact, abs=1e-9)


def test_a_lumped_entropy_by_hand():
    # 1/2, 1/4 and a rest of 1/4 in one lump: ln 2 / 2 + ln 4 / 4 + ln 4 / 4 = 1.5 ln 2.
    assert lumped_entropy([math.log(0.5), math.log(0.25)]) == pytest.approx(1.5 * math.log(2))
    assert lumped_entropy([0.0, -math.inf]) == 0.0  # certain; the other one cannot be drawn

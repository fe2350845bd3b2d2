"""Tests for rewards/equality/listings.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.equality.listings import (
    MAX_MATCHED,
    is_set,
    is_several,
    members,
    same_as_sets,
    same_members,
)
from cotree.rewards.equality.nodes import Node
from cotree.rewards.equality.parser import parse


def equal(left: Node, right: Node) -> bool:
    return left == right


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1, 2", ["1", "2"]),
        (r"\{1, 2, 1\}", ["1", "2", "1"]),
        ("x = 1, x = 2", ["x = 1", "x = 2"]),
        ("n = 1, 2", ["n = 1", "n = 2"]),
        (r"x \in \{1, 2\}", ["x = 1", "x = 2"]),
        (r"x = \pm 2", ["x = 2", "x = -2"]),
        (r"\pm 2, 5", ["2", "-2", "5"]),
        ("x = 1, y = 2", ["x = 1", "y = 2"]),
        ("5", ["5"]),
    ],
)
def test_members_with_their_names(text: str, values: list[str]):
    assert members(parse(text)) == [members(parse(v))[0] for v in values]


@pytest.mark.parametrize("text", ["1, 2", r"\{1\}", r"\pm 2", r"x \in \{1\}", r"x = 1 \pm \sqrt2"])
def test_what_stands_for_several_values(text: str):
    assert is_several(parse(text))


@pytest.mark.parametrize("text", ["1", "(1, 2)", "x = 1", "[1, 2]", r"x \in [1, 2]"])
def test_what_stands_for_one(text: str):
    assert not is_several(parse(text))


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_order_is_free_and_counts_matter(values: list[int], random):
    shuffled = random.sample(values, len(values))
    left, right = (members(parse(",".join(map(str, each)))) for each in (values, shuffled))
    assert same_members(left, right, equal)
    assert not same_members(left, right[1:], equal)
    changed = members(parse(",".join(map(str, [shuffled[0] + 7, *shuffled[1:]]))))
    assert not same_members(left, changed, equal)


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("x=1, y=2", "y=2, x=1", True),
        ("x=1, y=2", "x=2, y=1", False),
        ("x=1, y=2", "1, 2", True),
        ("x=1, y=2", "2, 1", False),
        ("1, 2", "p=2, q=1", True),
        ("x=1, x=2", "x=2, x=1", True),
        ("x=1, x=2", "y=1, y=2", False),
    ],
)
def test_names_and_positions(left: str, right: str, same: bool):
    assert same_members(members(parse(left)), members(parse(right)), equal) is same


def test_a_set_counts_nothing_twice():
    twice, once = members(parse(r"\{1, 2, 1\}")), members(parse(r"\{2, 1\}"))
    assert is_set(parse(r"x \in \{1, 2\}"))
    assert not is_set(parse("1, 2"))
    assert same_as_sets(twice, once, equal)
    assert same_as_sets(once, twice, equal)
    assert not same_as_sets(once, once[1:], equal)
    assert not same_as_sets(once[1:], once, equal)


def test_long_listings_are_compared_as_numbers():
    count = MAX_MATCHED + 1
    left = members(parse(", ".join(str(n) for n in range(count))))
    right = members(parse(", ".join(str(n) for n in reversed(range(count)))))
    assert same_members(left, right, lambda a, b: pytest.fail("compared one by one"))
    assert not same_members(left, [*right[1:], right[1]], equal)

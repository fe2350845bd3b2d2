"""Tests for rewards/equality/realsets.py, against membership tried number by number."""

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.equality.nodes import Node, Number, Sum, Symbol
from cotree.rewards.equality.realsets import (
    MAX_INTERVALS,
    RealSet,
    between,
    complement,
    intersection,
    point,
    same_sets,
    union,
)

# Halves between integers, so that open and closed ends are told apart.
NUMBERS = [Fraction(n, 2) for n in range(-12, 13)]


def number(value: Fraction | int) -> Node:
    return Number(Fraction(value))


INTERVALS = st.builds(
    lambda low, high, a, b: between(number(low), number(high), strict=(a, b)),
    st.integers(-5, 5),
    st.integers(-5, 5),
    st.booleans(),
    st.booleans(),
)
SETS = st.lists(INTERVALS, max_size=4).map(lambda parts: union(parts) or RealSet(()))


def holds(each: RealSet | None) -> set[Fraction]:
    assert each is not None
    return {
        x
        for x in NUMBERS
        for part in each.intervals
        if part.low.order() <= (x, 0) <= part.high.order()
    }


@given(SETS, SETS)
def test_set_algebra_holds_for_every_number(left: RealSet, right: RealSet):
    assert holds(union([left, right])) == holds(left) | holds(right)
    assert holds(intersection(left, right)) == holds(left) & holds(right)
    assert holds(complement(left)) == set(NUMBERS) - holds(left)


@given(SETS, SETS)
def test_sets_are_the_same_if_they_hold_the_same(left: RealSet, right: RealSet):
    same = same_sets(left, right, lambda a, b: a == b)
    assert same == (holds(left) == holds(right))


def test_the_unknown_must_not_be_another_one():
    one = number(1)
    x, y, bare = (RealSet(point(one).intervals, name) for name in ("x", "y", None))
    assert same_sets(x, bare, lambda a, b: a == b)
    assert not same_sets(x, y, lambda a, b: a == b)


def test_ends_with_symbols_are_matched_in_any_order():
    a, b = Symbol("a"), Sum((Symbol("a"), number(1)))
    left = union([point(a), point(b)])
    right = union([point(b), point(a)])
    assert left is not None
    assert right is not None
    assert same_sets(left, right, lambda p, q: p == q)
    assert complement(left) is None


def test_too_many_parts_are_given_up():
    assert union([point(number(n)) for n in range(MAX_INTERVALS + 1)]) is None

"""Tests for rewards/equality/ranges.py."""

import pytest

from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.ranges import describes_a_range, is_interval, real_set
from cotree.rewards.equality.realsets import RealSet


def shown(found: RealSet | None) -> str | None:
    """`[0,1) (2,inf)` for a set whose ends are known."""
    if found is None:
        return None
    return " ".join(
        f"{'[' if part.low.side == 0 else '('}{part.low.value},{part.high.value}"
        f"{']' if part.high.side == 0 else ')'}"
        for part in found.intervals
    )


@pytest.mark.parametrize(
    ("text", "intervals"),
    [
        ("x > 5", "(5,inf)"),
        ("5 >= x", "(-inf,5]"),
        ("-1 < 2x + 1 <= 7", "(-1,3]"),
        ("-x >= -1", "(-inf,1]"),
        ("3 - x < x + 1", "(1,inf)"),
        ("|x| < 2", "(-2,2)"),
        ("|x - 3| <= 2", "[1,5]"),
        ("|x| >= 3", "(-inf,-3] [3,inf)"),
        ("1 <= |z| <= 3/2", "[-3/2,-1] [1,3/2]"),
        (r"x \ne 2", "(-inf,2) (2,inf)"),
        (r"x \in [1, 2)", "[1,2)"),
        (r"[0,1] \cup [1,2]", "[0,2]"),
        (r"[0,1) \cup (1,2]", "[0,1) (1,2]"),
        (r"[0,1) \cup \{1\}", "[0,1]"),
        (r"[0,3] \cap (1,5)", "(1,3]"),
        (r"[0,3] \setminus (1,2]", "[0,1] (2,3]"),
        (r"\mathbb{R} \setminus \{0, 2\}", "(-inf,0) (0,2) (2,inf)"),
        (r"x < 1 \text{ or } x > 2", "(-inf,1) (2,inf)"),
        (r"x > 1 \text{ and } x < 2", "(1,2)"),
        ("x < 1, x > 2", "(-inf,1) (2,inf)"),  # no number does both
        (r"x \ne 1, x \ne 2", "(-inf,1) (1,2) (2,inf)"),
        (r"\{x \mid 0 < x < 1\}", "(0,1)"),
        (r"\text{all real numbers}", "(-inf,inf)"),
        (r"\text{no solution}", ""),
        (r"(2, 1)", ""),
        ("x^2 < 4", None),  # not solved
        ("x + y < 3", None),
        ("5", None),
    ],
)
def test_sets_that_texts_describe(text: str, intervals: str | None):
    assert shown(real_set(parse(text), round_is_interval=True)) == intervals


def test_two_items_in_round_brackets_are_an_interval_only_where_said():
    assert real_set(parse("(1,2)"), round_is_interval=False) is None
    assert is_interval(parse(r"(1,\infty)"), round_is_interval=False)
    assert is_interval(parse("[1,2)"), round_is_interval=False)
    assert not is_interval(parse(r"\{1,2\}"), round_is_interval=True)
    assert not is_interval(parse("[1,2,3]"), round_is_interval=True)


@pytest.mark.parametrize(
    ("text", "is_range"),
    [
        ("x > 5", True),
        ("[1,2]", True),
        ("(1,2)", False),
        ("x = 5", False),
        (r"x \in \{1,2\}", False),
        (r"x \in (1,2)", True),
        (r"x = 1 \text{ or } x > 2", True),
        ("1, 2", False),
        (r"\emptyset", True),
    ],
)
def test_what_can_only_be_a_range(text: str, is_range: bool):
    assert describes_a_range(parse(text)) is is_range

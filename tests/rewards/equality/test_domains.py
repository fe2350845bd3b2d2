"""Tests for rewards/equality/domains.py."""

import pytest

from cotree.rewards.equality.answers import Outcome, compare


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        (r"2k\pi, k \in \mathbb{Z}", r"2n\pi, n \in \mathbb{Z}", True),
        (r"2k\pi, k \in \mathbb{Z}", r"2n\pi", True),
        (r"x = \frac{\pi}{2} + k\pi, k \in \mathbb{Z}", r"\frac{\pi}{2} + n\pi", True),
        (r"2k\pi, k \in \mathbb{Z}", r"n\pi, n \in \mathbb{Z}", False),
        (r"2k\pi, k \in Z", r"2n\pi, n \in \mathbb{Z}", True),
        (r"2k\pi", r"2n\pi", False),  # nobody says that it is a parameter
        (r"a_n = 2n-1, n \in \mathbb{N}", "a_n = 2n - 1", True),
        (r"x \in \mathbb{R}", r"\mathbb{R}", True),
        ("f(x) = x^2, x > 0", "x^2", True),
        ("f(x) = x^2, x > 0", "f(x) = x^2, x > 0", True),
        ("f(x) = x^2, x > 0", "f(x) = x^2, x > 1", False),
        ("f(x) = x^2, x > 0", "f(x) = x^3, x > 0", False),
        (r"x \leq -2 \text{ or } x = 1", "x = 1", False),  # a part of the answer, no condition
        ("x > 1, x < 3", "x > 1", False),
    ],
)
def test_where_symbols_live(reference: str, answer: str, same: bool):
    assert (compare(reference, answer).outcome is Outcome.EQUAL) is same

"""Tests for rewards/steps/comparison.py."""

import pytest

from cotree.rewards.steps.comparison import judged
from cotree.rewards.steps.equalities import equalities

V, R, U = "verified", "refuted", "unchecked"


def verdicts(text: str) -> list[str]:
    return [judged(pair, {}).verdict.value for pair in equalities(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 * 4 = 12", V),
        ("3 * 4 = 13", R),
        ("50% of 80 = 40", V),
        ("50% of 80 = 41", R),
        ("30/50 = 60%", V),
        ("30/50 * 100 = 60%", U),  # the sign says what the factor already did
        ("100% - 30% = 70%", V),
        ("70% = 7 * (0/100)", R),
        ("10/3 = 3.33", V),
        ("10/3 = 3.3", V),
        ("20/3 = 6.66", U),  # cut off, not rounded
        ("10/3 = 3.43", R),
        ("3.33 * 3 = 10", U),
        ("7/2 = 3", U),  # whole pairs
        ("0.1 + 0.2 = 0.3", V),
        ("0.1 + 0.2 = 0.4", R),
        (r"98 * 61 \approx 6000", U),
        (r"98 * 61 \approx 5978", V),
        (r"98 * 61 \approx 7000", R),
        ("60/5*4 = 3", U),
        ("25 / 1/3 = 75", U),
        ("- 3 + 5 = 2", V),
        ("- 3 + 5 = 8", U),  # a bullet
        ("- 3 + 5 = 9", R),
        ("2 1/3 + 1/3 = 2 2/3", V),
        (r"2\frac12 * 2 = 5", V),
        (r"2\frac12 * 2 = 2", U),  # a product to some
        ("2 + 3 = 6!", R),
        ("2 * 3 = 6!", U),  # six, exclaimed
        ("2 hours + 30 minutes = 150", U),
        ("2 * 60 = 2 hours", U),
        ("$5 * 2 = 1000 cents", U),
        ("10 + 10% = 11", U),
        ("pages 3-5 = 3", U),
        ("3-5 = 3 * 1", U),
        ("Total for 3 friends = 4 * 5", U),
        ("5 = 6", U),
    ],
)
def test_verdicts(text: str, expected: str):
    assert verdicts(text) == [expected]


def test_adjacent_pairs_of_a_chain_are_judged_separately():
    assert verdicts("2 * 3 + 4 = 7 + 4 = 11") == [R, V]
    assert verdicts("2 + 3 = 5 = 6") == [V, R]


def test_a_run_on_chain_is_not_refuted():
    # 2+3 = 5, 5+4 = 9, written as people do.
    assert verdicts("2 + 3 = 5 + 4 = 9") == [U, V]


def test_a_reason_shows_both_sides():
    (pair,) = equalities(r"$3 \times 4 = 5 + 8$")
    judgement = judged(pair, {})
    assert judgement.reason == "3 * 4 = 12, but 5 + 8 = 13"
    assert (judgement.left, judgement.right) == ("3 * 4", "5 + 8")


@pytest.mark.parametrize("size", [10, 50, 120])
def test_hostile_numbers_take_no_time(size: int):
    nines = "9" * 39
    text = "^".join(["9"] * size) + " = " + "*".join([nines] * size) + " = 1"
    assert set(verdicts(text)) <= {U, R}

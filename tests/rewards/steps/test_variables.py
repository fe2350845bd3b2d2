"""Tests for rewards/steps/variables.py."""

import pytest

from cotree.rewards.steps.equalities import equalities
from cotree.rewards.steps.variables import judged_in_order


def verdicts(text: str) -> list[str]:
    return [judgement.verdict.value for judgement in judged_in_order(equalities(text))]


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("x = 5\n2x + 1 = 11", "verified"),
        ("x = 5\n2x + 1 = 12", "refuted"),
        ("x = 10/2\n2(x + 1) = 13", "refuted"),
        ("x = 5\ny = 2\nx + 3y = 11", "verified"),
        ("x = 5\ny = 2\nxy = 11", "unchecked"),  # a word, outside of our reading
        ("2x + 1 = 12\nx = 5", "unchecked"),  # solved afterwards
        ("if x = 5 then all is well\n2x + 1 = 12", "unchecked"),
        ("x = 5\nx = 6\n2x + 1 = 12", "unchecked"),  # two values
        ("x = 5\nx = 6\n2x + 1 = 13", "verified"),  # the latest holds
        ("x = 5\n2y + 1 = 12", "unchecked"),
        ("x = 5\nx = 2y\n2x + 1 = 12", "unchecked"),
        ("x = 5\nf(x) = 12", "unchecked"),
        ("x = 5\na_x = 12 + 1", "unchecked"),
        ("x ≈ 5\n2x + 1 = 12", "unchecked"),
    ],
)
def test_verdict_on_the_last_equality(text: str, last: str):
    assert verdicts(text)[-1] == last


def test_the_reason_names_the_values():
    last = judged_in_order(equalities("x = 5\n2x + 1 = 12"))[-1]
    assert last.reason == "2x + 1 = 11, but 12 (x = 5)"

"""Tests for rewards/steps/surroundings.py."""

import pytest

from cotree.rewards.steps.surroundings import fault_after, fault_before
from cotree.rewards.steps.tokens import tokens


@pytest.mark.parametrize(
    ("before", "whole"),
    [
        ("", True),
        ("so", True),
        ("a total of", True),
        ("May and", True),
        ("adds up to", True),
        ("Hence,", True),
        ("half of", False),
        ("twice", False),
        ("Step", False),
        ("5 and", False),
        ("from 3 to", False),
        ("divided by", False),
        ("12,", False),
        ("...", False),
        ("2(", False),
        ("see (", True),
    ],
)
def test_what_stands_before_a_side(before: str, whole: bool):
    stream = tokens(f"{before} 100")
    fault = fault_before(stream, len(stream) - 2, stream[-1])
    assert (fault == "") is whole


@pytest.mark.parametrize(
    ("after", "whole"),
    [
        ("", True),
        (".", True),
        (" apples in May", True),
        (" to go", True),
        (" of them", True),
        ("\n- and so on", True),
        ("\nThen", True),
        (" (apples)", True),
        (" hundred", False),
        (" to 7", False),
        (" apples plus 3", False),
        (" and a half", False),
        ("x", False),
        ("?", False),
        ("_2", False),
        ("\n+ 5", False),
    ],
)
def test_what_stands_after_a_side(after: str, whole: bool):
    stream = tokens(f"100{after}")
    assert (fault_after(stream, 1) == "") is whole

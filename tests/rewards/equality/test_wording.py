"""Tests for rewards/equality/wording.py."""

import pytest

from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.wording import same_words


@pytest.mark.parametrize(
    ("reference", "answer", "same"),
    [
        (r"\text{Monday}", "monday", True),
        (r"\text{Monday}", "Tuesday", False),
        (r"\text{an ellipse}", "ellipse", True),
        (r"\text{the}", "the", True),
        (r"\text{odd}", "odd.", True),
        (r"\text{not odd}", "odd", False),
        (r"\text{five}", "5", True),
        ("5", r"\text{five}", True),
        ("5", r"\text{six}", False),
        (r"\text{five}", r"\text{Five}", True),
        (r"\text{Monday}", "5", False),
        (r"\text{AB}", "AB", True),
        (r"\text{Monday}", r"\frac12", False),
    ],
)
def test_words(reference: str, answer: str, same: bool):
    assert same_words(parse(reference), parse(answer)) is same

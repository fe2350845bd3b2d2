"""Tests for rewards/steps/algebra.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.algebra import rewritten_lines


def verdicts(text: str) -> list[str]:
    return [line.verdict.value for line in rewritten_lines(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2x + 4 = 10\n2x = 6\nx = 3", ["verified", "verified"]),
        ("2x + 4 = 10\n2x = 14\nx = 7", ["refuted", "verified"]),
        ("$$2x + 4 = 10$$\n\n$$x + 2 = 5$$", ["verified"]),
        (r"\[x^2 - 5x + 6 = 0\]" + "\n" + r"\[2x^2 - 10x + 12 = 0\]", ["verified"]),
        ("2(x + 3) - 1\n= 2x + 6 - 1\n= 2x + 5", ["verified", "verified"]),
        ("2(x + 3) - 1\n= 2x + 6 - 1\n= 2x + 4", ["verified", "refuted"]),
        ("x + y = 3\n2x + 2y = 6", ["verified"]),
        # Not judged:
        ("x + y = 3\nx - y = 1", []),  # a system
        ("x = 2\nx = 3", []),  # a list of values
        ("(x - 2)(x - 3) = 0\nx - 2 = 0\nx - 3 = 0", []),  # branches
        ("2x + 4 = 10\nso the rest is easy\nx = 4", []),  # prose between
        ("a^2 + a\n= 2a + 1", []),  # a known relation put in
        ("x + 1\n= y", []),
        ("x + 1\n2x + 3", []),  # two expressions, nobody says equal
        (r"\sqrt{x} = 2" + "\nx = 5", []),
        ("1/x = 2\nx = 5", []),
        ("2x > 3\nx > 5", []),
    ],
)
def test_lines_are_judged_by_the_line_before(text: str, expected: list[str]):
    assert verdicts(text) == expected


def test_a_comparison_knows_its_characters_and_both_lines():
    text = "We solve\n$2x + 4 = 10$\n- $2x = 14$."
    (line,) = rewritten_lines(text)
    assert text[slice(*line.span)] == "2x = 14"
    assert (line.left, line.right) == ("2x + 4 = 10", "2x = 14")


@given(
    a=st.integers(2, 9),
    b=st.integers(1, 20),
    x=st.integers(-9, 9),
    factor=st.integers(2, 7),
    slip=st.integers(1, 9),
)
@settings(max_examples=150)
def test_multiples_keep_the_solution_and_slips_do_not(
    a: int, b: int, x: int, factor: int, slip: int
):
    first = f"{a}x + {b} = {a * x + b}"
    scaled = f"{a * factor}x + {b * factor} = {(a * x + b) * factor}"
    slipped = f"{a * factor}x + {b * factor} = {(a * x + b) * factor + slip}"
    assert verdicts(f"{first}\n{scaled}") == ["verified"]
    assert verdicts(f"{first}\n{slipped}") == ["refuted"]

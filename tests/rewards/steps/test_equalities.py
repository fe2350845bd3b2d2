"""Tests for rewards/steps/equalities.py: which equalities are found, and which are left alone."""

import pytest
from cpu_time import cpu_seconds
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.steps.comparison import judged
from cotree.rewards.steps.equalities import equalities


def found(text: str) -> list[str]:
    return [text[slice(*pair.span)] for pair in equalities(text) if not pair.fault]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3 * 4 = 12", ["3 * 4 = 12"]),
        ("So 3 * 4 = 12 apples.", ["3 * 4 = 12"]),
        ("$2+3=5$, so", ["$2+3=5"]),
        ("1. 2 + 3 = 5", ["2 + 3 = 5"]),
        ("1) 2 + 3 = 5", ["2 + 3 = 5"]),
        ("Step 1: 2 + 3 = 5", ["2 + 3 = 5"]),
        ("(since 2 + 3 = 5)", ["2 + 3 = 5"]),
        (r"\boxed{2 + 3 = 5}", ["2 + 3 = 5"]),
        ("2 + 3 = 4 + 1 = 5", ["2 + 3 = 4 + 1", " = 5"]),
        ("2 + 3 = 5. 4 + 4 = 8.", ["2 + 3 = 5", "4 + 4 = 8"]),
        (r"2+3 &= 5 \\ &= 4+1", ["2+3 &= 5", r" \\ &= 4+1"]),
        ("8/2 = <<8/2=4>>4 cups", ["8/2 = <<8/2=4>>4", "8/2=4"]),
        ("5 apples + 3 apples = 8 apples", ["5 apples + 3 apples = 8"]),
        ("2 + 3 = 5\n- 7 apples are left", ["2 + 3 = 5"]),
        ("Prices rose by 2 * 3 = 6 to a total of 4 + 6 = 10", ["2 * 3 = 6", "4 + 6 = 10"]),
    ],
)
def test_equalities_are_found_with_their_characters(text: str, expected: list[str]):
    assert found(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "half of 10 = 5",
        "5 times 3 = 15",
        "twice 4 = 8",
        "Step 1 - 2 + 3 = 5",
        "2 + 3 = 5 hundred",
        "2 + 3 = 5 times 1",
        "2 + 3 = 5 to 7",
        "2 + 3 = 5 apples plus 3",
        "5 multiplied by 3 + 4 = 9",
        "2 + 3 = 5x",
        "2 + 3 = 5_7",
        "2 + 3 = 5 ^ 1 +",
        "1 + 2 + ... + 10 = 55",
        "12:30 + 2 = 14",
        "x + 3 = 5 +",
        "+ 3 = 5",
        "2 + 3 = 5?",
        "14, 400 / 80 = 180",
        "3 + 4 =\n+ 5",
        "17 / 5 = 3 R 2",
        "3 apples and 4 = 7",
        "sin(30) = 2",
        r"\sin 30 = 2",
        r"a_1 + 2 = 3",
        r"\begin{pmatrix} 3 \\ 1 \end{pmatrix} = 3",
        "2 + 3 = 4 \\\\ + 1",
        "[3 + 4",
        "3 + (4 = 7",
    ],
)
def test_what_may_not_be_whole_is_left_alone(text: str):
    verdicts = {judged(pair, {}).verdict.value for pair in equalities(text)}
    assert verdicts <= {"unchecked"}


@pytest.mark.parametrize("word", ["not", "wrong", "suppose", "mod", "rounded"])
def test_a_sentence_that_hedges_is_doubtful_and_the_next_one_is_not(word: str):
    first, second = equalities(f"2 + 2 = 5 is {word} here. Then 2 + 2 = 5.")
    assert first.doubtful
    assert not second.doubtful


@given(st.text(alphabet="0123456789+-*/=^().,$%\\{}<>xab \n&!?", max_size=120))
@settings(max_examples=300)
def test_spans_lie_in_the_text_and_never_run_backwards(text: str):
    starts = [pair.span for pair in equalities(text)]
    assert starts == sorted(starts)
    assert all(0 <= start < end <= len(text) for start, end in starts)


@pytest.mark.parametrize(
    "piece", ["1=", "1+", "(", "1=1\n", "a ", "5 a + ", "= ", "<<1=1>>", "1 x "]
)
def test_hostile_repetition_takes_linear_time(piece: str):
    text = piece * (60_000 // len(piece))
    assert cpu_seconds(lambda: equalities(text)) < 8.0

"""Tests for rewards/answer.py."""

import json
import os
from pathlib import Path

import pytest

from cotree.rewards.answer import MAX_NUMBER_CHARS, answer, equal
from cotree.rewards.types import Problem


def problem(reference: str) -> Problem:
    return Problem("p", "question", reference, "test")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("0.5", "1/2"),
        ("0.5", r"\frac12"),
        (r"\dfrac{2}{4}", r"\tfrac{1}{2}"),
        (r"-\frac{1}{2}", "-.5"),
        (r"\frac1{3}", "2/6"),
        ("1,000", "1000"),
        ("1 000 000", "1000000"),
        (r"10{,}080", "10080"),
        (r"10,\!080", "10080"),
        ("+7", "7"),
        ("7.", "7"),
        ("7.00", "7"),
        ("$18$", r"\$18"),
        ("−3", "-3"),  # U+2212
        ("½", "0.5"),
        ("4２", "42"),  # a full-width digit
        (r"\text{Monday}", "Monday"),
        ("x + 1", "x+1"),
        (r"\left(1, 2\right)", "(1,2)"),
    ],
)
def test_the_same_answer_in_another_notation_is_equal(left: str, right: str):
    assert equal(left, right)
    assert equal(right, left)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("699.04", "699"),  # no relative tolerance
        ("0.333", "1/3"),
        ("50", "0.5"),  # no hidden percentages
        ("(1,2)", "12"),
        ("1 2", "12"),
        ("1,00", "100"),
        ("2²", "22"),
        ("x₂2", "x22"),
        ("1½", "11/2"),
        ("1/0", "2/0"),
        ("1e3", "1000"),
        ("Monday", "monday"),
        ("41 or 42", "42"),
        ("", "0"),
    ],
)
def test_another_answer_is_not_equal(left: str, right: str):
    assert not equal(left, right)
    assert not equal(right, left)


@pytest.mark.parametrize(
    ("completion", "value", "reason"),
    [
        (r"<think>1+1</think>\boxed{2}", 1.0, "match (boxed)"),
        (r"\boxed{3}", 0.0, "mismatch (boxed)"),
        ("The answer is 2.", 1.0, "match (phrase)"),
        (r"\boxed{2} wait \boxed{3}", 0.0, "mismatch (boxed)"),
        ("2", 0.0, "no_answer"),
        ("", 0.0, "no_answer"),
    ],
)
def test_value_and_reason(completion: str, value: float, reason: str):
    reward = answer(completion, problem("2"))
    assert (reward.value, reward.reason) == (value, reason)


def test_a_power_tower_is_text_and_returns_at_once():
    assert answer(r"\boxed{9^9^9^9}", problem("1")).value == 0.0
    assert answer(r"\boxed{9^9^9^9}", problem("9^9^9^9")).value == 1.0


def test_numbers_beyond_the_length_bound_are_compared_as_text():
    long = "1" * (MAX_NUMBER_CHARS + 1)
    assert equal(long, long)
    assert not equal(long, long + ".0")


def test_every_gsm8k_reference_equals_itself_and_not_its_neighbour():
    folder = os.environ.get("COTREE_DATA")
    if not folder:
        pytest.skip("set COTREE_DATA to a folder that holds GSM8K as .jsonl files")
    files = sorted(Path(folder).rglob("*gsm8k*/**/*.jsonl"))
    assert files, f"no gsm8k .jsonl below {folder}"
    for path in files:
        for line in path.read_text().splitlines():
            gold = json.loads(line)["answer"].rpartition("####")[2].strip()
            assert answer(rf"\boxed{{{gold}}}", problem(gold)).value == 1.0, (path, gold)
            assert answer(f"#### {gold}", problem(gold)).value == 1.0, (path, gold)
            assert answer(rf"\boxed{{{gold}1}}", problem(gold)).value == 0.0, (path, gold)

"""Tests for rewards/equality/classes.py."""

import pytest
from cpu_time import cpu_seconds
from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.equality.answers import Outcome, compare
from cotree.rewards.equality.classes import AnswerClass, answer_classes

TEXTS = [
    "1/2",
    "0.5",
    r"\frac{1}{2}",
    "0.50",
    "0.33",
    "0.333",
    "1/3",
    "0.333333",
    "x+1",
    "1+x",
    "(1,2)",
    "12",
    "12%",
    "0.12",
    "A",
    "(A)",
    r"\frac{",
    "",
]
samples = st.lists(st.none() | st.sampled_from(TEXTS), max_size=20)


def test_equal_answers_share_a_class_however_they_are_written():
    # 1/2 is written in three ways; twice as 0.5, which therefore stands for it.
    answers = ["0.5", "7", r"\frac{1}{2}", "0.5", None, "1/2", "8", "7", "7", "7", "7"]
    assert answer_classes(answers) == [
        AnswerClass("7", (1, 7, 8, 9, 10)),
        AnswerClass("0.5", (0, 2, 3, 5)),
        AnswerClass("8", (6,)),
    ]


def test_none_abstains_and_equal_texts_are_one_class_though_unreadable():
    assert answer_classes([None, None]) == answer_classes([]) == []
    assert answer_classes([r"\frac{", "", r"\frac{", ""]) == [
        AnswerClass("", (1, 3)),
        AnswerClass(r"\frac{", (0, 2)),
    ]


def test_an_answer_must_be_equal_in_both_directions():
    # As a reference, 0.33 takes what rounds to it; 0.333 does not take 0.33.
    assert compare("0.33", "0.333").outcome is Outcome.EQUAL
    assert compare("0.333", "0.33").outcome is Outcome.DIFFERENT
    assert len(answer_classes(["0.33", "0.333"])) == 2


def test_equally_frequent_texts_come_by_code_points():
    assert [group.representative for group in answer_classes(["9", "10", "b", "a"])] == [
        "10",
        "9",
        "a",
        "b",
    ]


@given(samples)
def test_the_classes_partition_the_answers(answers: list[str | None]):
    classes = answer_classes(answers)
    members = sorted(index for group in classes for index in group.members)
    assert members == [index for index, answer in enumerate(answers) if answer is not None]
    for group in classes:
        texts = [answers[index] for index in group.members]
        assert group.members == tuple(sorted(group.members))
        assert texts.count(group.representative) == max(map(texts.count, texts))
        for text in set(texts) - {group.representative}:
            assert text is not None
            assert compare(group.representative, text).outcome is Outcome.EQUAL
            assert compare(text, group.representative).outcome is Outcome.EQUAL


@given(samples, st.randoms(use_true_random=False))
def test_the_order_of_the_answers_changes_nothing(answers: list[str | None], random):
    order = random.sample(range(len(answers)), len(answers))
    shuffled = answer_classes([answers[index] for index in order])
    renamed = [
        AnswerClass(group.representative, tuple(sorted(order[i] for i in group.members)))
        for group in shuffled
    ]
    assert renamed == answer_classes(answers)


@given(st.lists(st.text(max_size=40), max_size=6))
def test_no_text_makes_it_fail(answers: list[str]):
    assert sum(len(group.members) for group in answer_classes(answers)) == len(answers)


@pytest.mark.parametrize("pattern", ["{0}", r"\frac{{{0}\pi}}{{7}}", "({0},x^2+{0})"])
def test_64_different_answers_are_classed_in_seconds(pattern: str):
    answers = [pattern.format(index) for index in range(64)]
    assert len(answer_classes(answers)) == 64
    assert cpu_seconds(lambda: answer_classes(answers)) < 5

"""Tests for rewards/extract.py."""

import time

import pytest

from cotree.rewards.extract import boxes, extract


@pytest.mark.parametrize(
    ("completion", "answer", "rule"),
    [
        (r"so \boxed{1} and \boxed{2}", "2", "boxed"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}", "boxed"),
        (r"\boxed {7}", "7", "boxed"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}", "boxed"),  # escaped braces balance nothing
        (r"\boxed{\boxed{3}}", "3", "boxed"),
        (r"\boxed{5} and then \boxed{6", "5", "boxed"),  # the open one is not a box
        (r"\boxed{oops \boxed{6}", "6", "boxed"),
        (r"<think>\boxed{1}</think>\boxed{2}", "2", "boxed"),
        (r"<think>\boxed{1}</think>I give up", None, "none"),
        (r"a</think>b</think> the answer is 3", "3", "phrase"),
        ("<answer>41</answer> no: <answer> 42 </answer>", "42", "answer_tag"),
        ("</answer><answer>", None, "none"),
        ("work\n#### 72", "72", "hashes"),
        ("#### 1\n#### 72\nbye", "72", "hashes"),
        ("see #### 72", None, "none"),  # only at the start of a line
        ("The answer is 3.5. I hope it is correct.", "3.5", "phrase"),
        ("**Answer:** 12\n", "12", "phrase"),
        ("Final answer: $x$", "$x$", "phrase"),
        ("answer is 1, no, the answer is 2", "2", "phrase"),
        (r"The answer is 9. \boxed{8}", "8", "boxed"),  # a box outranks a phrase
        (r"\boxed{} the answer is 4", "4", "phrase"),  # a blank box commits to nothing
        ("I counted 42 sheep", None, "none"),  # never any number anywhere
        ("", None, "none"),
    ],
)
def test_the_answer_and_the_rule_that_found_it(completion: str, answer: str | None, rule: str):
    assert extract(completion) == (answer, rule)


def test_a_box_knows_its_characters():
    text = r"x \boxed{a{b}} y \boxed{c}"
    first, second = boxes(text)
    assert text[first.start : first.end] == r"\boxed{a{b}}"
    assert first.content == "a{b}"
    assert text[second.start : second.end] == r"\boxed{c}"


@pytest.mark.parametrize(
    "unit",
    [
        r"\boxed{",
        "<answer>",
        "#### ",
        "answer is ",
        "answer ",
        "</think>",
        "{",
        "}",
        "\\",
        " ",
        "\n",
    ],
)
def test_repeated_openings_take_linear_time(unit: str):
    # 200,000 repetitions: a quadratic scan would take minutes, a linear one well below a second.
    start = time.perf_counter()
    extract(unit * 200_000)
    assert time.perf_counter() - start < 5.0

"""Tests for rewards/steps/layout.py."""

import pytest

from cotree.rewards.steps.layout import think_then_box
from cotree.rewards.types import Problem

PROBLEM = Problem("p", "question\n", "2", "test")


@pytest.mark.parametrize(
    ("completion", "reason"),
    [
        (r"<think>a</think>\boxed{2}", "ok"),
        ("\n<think>\na \\boxed{1}\n</think>\nSo \\boxed{2}.", "ok"),  # a box in thought is free
        (r"a <think>b</think>\boxed{2}", "does_not_open_with_think"),
        (r"\boxed{2}", "does_not_open_with_think"),
        ("", "does_not_open_with_think"),
        (r"<think>a</think><think>b</think>\boxed{2}", "several_think_blocks"),
        (r"<think><think>a</think>\boxed{2}", "several_think_blocks"),
        (r"<think>a \boxed{2}", "think_not_closed"),
        ("<think>a</think>2", "no_box"),
        (r"<think>a</think>\boxed{2} \boxed{2}", "several_boxes"),
        (r"<think>a</think>\boxed{2} \boxed{3", "several_boxes"),
        (r"<think>a</think>\boxed{2", "box_not_closed"),
    ],
)
def test_layouts(completion: str, reason: str):
    reward = think_then_box(completion, PROBLEM)
    assert reward.reason == reason
    assert reward.value == (1.0 if reason == "ok" else 0.0)


def test_a_prompt_that_ends_in_think_has_opened_the_block():
    opened = Problem("p", "question\n<think>\n", "2", "test")
    assert think_then_box(r"a</think>\boxed{2}", opened).value == 1.0
    assert think_then_box(r"<think>a</think>\boxed{2}", opened).reason == "several_think_blocks"


@pytest.mark.parametrize(
    "thinking",
    [
        "a</think>",
        "<think>a",
        "a",
        "<think>a<think>b</think>",
        "<think>a</think>b</think>",
        "<think>a</think><think>b</think>",
        "</think>a<think>",
        "<THINK>a</THINK>",
        "<think >a</think>",
        "< think>a</ think>",
        "<think>a<think>",
        "b<think>a</think>",
        "<reasoning>a</reasoning>",
    ],
)
def test_no_other_form_of_a_thinking_block_passes(thinking: str):
    assert think_then_box(thinking + r"\boxed{2}", PROBLEM).value == 0.0

r"""Reward 1.0 for one block of reasoning followed by one boxed answer, else 0.0."""

from cotree.rewards.extract import END_OF_THINKING, boxes
from cotree.rewards.types import Problem, Reward

START_OF_THINKING = "<think>"


def think_then_box(completion: str, problem: Problem) -> Reward:
    r"""Whether exactly one `<think>...</think>` opens the text and one `\boxed{...}` follows it.

    A prompt that already ends in `<think>` counts as the opening. Says nothing about whether the
    answer is right. It never raises.
    """
    if problem.prompt.rstrip().endswith(START_OF_THINKING):
        completion = START_OF_THINKING + completion
    reason = _fault(completion)
    return Reward(0.0, reason) if reason else Reward(1.0, "ok")


def _fault(completion: str) -> str:
    if not completion.lstrip().startswith(START_OF_THINKING):
        return "does_not_open_with_think"
    if completion.count(START_OF_THINKING) > 1 or completion.count(END_OF_THINKING) > 1:
        return "several_think_blocks"
    if END_OF_THINKING not in completion:
        return "think_not_closed"
    after = completion.partition(END_OF_THINKING)[2]
    # An unbalanced \boxed is not a box for any grader, but it is a second try at one.
    if after.count(r"\boxed") != 1:
        return "no_box" if r"\boxed" not in after else "several_boxes"
    return "" if boxes(after) else "box_not_closed"

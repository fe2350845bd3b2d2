r"""Step rewards for arithmetic: each line must rewrite the line before without changing its value.

The expected completion, for the question `2+3*4`:

    <think>
    2+12
    14
    </think>
    \boxed{14}
"""

from typing import NamedTuple

from cotree.rewards.extract import END_OF_THINKING, boxes
from cotree.rewards.steps.expression import (
    Expression,
    ExpressionError,
    num_operators,
    parse,
    render,
    value,
)
from cotree.rewards.steps.layout import START_OF_THINKING
from cotree.rewards.types import Problem, Reward, StepScore, Verdict

PENALTY = -1.0
"""A refuted step. A verified one gives 0.0, so that padding with true lines earns nothing."""


class _Line(NamedTuple):
    """A step's characters in the completion, and the expression in them."""

    start: int
    end: int
    text: str


def rewriting_steps(completion: str, problem: Problem) -> Reward:
    r"""Judges every line of the reasoning and the boxed answer against the line before.

    The first line is compared with `problem.question`. A line is VERIFIED when it has the value
    of the line before and fewer operators; REFUTED when the value differs, the text is no
    expression or nothing was done. The box is VERIFIED when it holds a number of the last line's
    value. A wrong line refutes itself only: the next one is judged against it, or against the
    last line that could be read.

        value = min of the step values: -1 with a refuted step, else 0

    The minimum, because a mean can be gamed: among wrong chains it prefers the one that drops a
    hard term at the price of one refuted line and goes on with easy true ones. A missing box
    counts as a refuted step, pinned on what stands after the reasoning if anything does;
    otherwise saying nothing would beat a mistake.

    Source: Cheng et al. 2025, arXiv:2504.15275 (min-form credit assignment).

    Raises:
        ValueError: the question itself is no arithmetic expression; use another reward.
    """
    try:
        before = parse(problem.question)
    except ExpressionError as error:
        raise ValueError(
            f"rewriting_steps needs an arithmetic question; that of {problem.id} is "
            f"{problem.question[:80]!r} ({error}). Drop this reward for this task."
        ) from error
    block_start, block_end, answer_start = _thinking(completion)
    steps: list[StepScore] = []
    for line in _lines(completion, block_start, block_end):
        step, before = _judged(line, before)
        steps.append(step)
    num_unpinned = 0
    box, tail = _box_line(completion, answer_start), completion[answer_start:].rstrip()
    if box is not None:
        steps.append(_judged_box(box, before))
    elif tail:
        span = (answer_start, answer_start + len(tail))
        steps.append(StepScore(span, PENALTY, Verdict.REFUTED, "no boxed answer"))
    else:
        num_unpinned = 1
    num_steps = len(steps) + num_unpinned
    num_refuted = sum(step.verdict is Verdict.REFUTED for step in steps) + num_unpinned
    reason = f"{num_refuted} of {num_steps} refuted" + (", no box" if box is None else "")
    return Reward(PENALTY if num_refuted else 0.0, reason, steps=tuple(steps))


def _thinking(completion: str) -> tuple[int, int, int]:
    """Start and end of the reasoning, and where the answer part starts.

    An unclosed block runs to the end. Without an opening tag the prompt may have opened it, so
    a closing tag is enough; with neither there is no reasoning, only an answer.
    """
    opening = completion.find(START_OF_THINKING)
    start = opening + len(START_OF_THINKING) if opening >= 0 else 0
    closing = completion.rfind(END_OF_THINKING)
    if closing >= start:
        return start, closing, closing + len(END_OF_THINKING)
    return (start, len(completion), len(completion)) if opening >= 0 else (0, 0, 0)


def _lines(completion: str, start: int, end: int) -> list[_Line]:
    """The block's lines without the line breaks next to the tags.

    A blank line in the middle is a step as well, its characters being its line break.
    """
    if completion.startswith("\n", start, end):
        start += 1
    if completion.endswith("\n", start, end):
        end -= 1
    lines: list[_Line] = []
    for text in completion[start:end].split("\n") if start < end else ():
        stop = start + len(text)
        lines.append(_Line(start, max(stop, start + 1), text))
        start = stop + 1
    return lines


def _box_line(completion: str, answer_start: int) -> _Line | None:
    r"""The line of the last `\boxed{...}` after the reasoning, with the box's content."""
    found = boxes(completion[answer_start:])
    if not found:
        return None
    box_start, box_end = answer_start + found[-1].start, answer_start + found[-1].end
    start = max(completion.rfind("\n", 0, box_start) + 1, answer_start)
    end = completion.find("\n", box_end)
    return _Line(start, end if end >= 0 else len(completion), found[-1].content)


def _judged(line: _Line, before: Expression) -> tuple[StepScore, Expression]:
    """The verdict on a line, and what the next line is compared with."""
    span = (line.start, line.end)
    try:
        now = parse(line.text)
    except ExpressionError as error:
        reason = f"not an expression: {line.text[:80]!r} ({error})"
        return StepScore(span, PENALTY, Verdict.REFUTED, reason), before
    left, right = _equation(before), _equation(now)
    if value(now) != value(before):
        return StepScore(span, PENALTY, Verdict.REFUTED, f"{left}, but {right}"), now
    if num_operators(now) >= num_operators(before):
        reason = f"no progress: {right} after {left}"
        return StepScore(span, PENALTY, Verdict.REFUTED, reason), now
    return StepScore(span, 0.0, Verdict.VERIFIED, f"{left}, and {right}"), now


def _judged_box(box: _Line, before: Expression) -> StepScore:
    span, left = (box.start, box.end), _equation(before)
    try:
        boxed = parse(box.text)
    except ExpressionError as error:
        reason = f"not a number: {box.text[:80]!r} ({error})"
        return StepScore(span, PENALTY, Verdict.REFUTED, reason)
    if num_operators(boxed):
        reason = f"not a number: {_equation(boxed)}"
        return StepScore(span, PENALTY, Verdict.REFUTED, reason)
    if value(boxed) != value(before):
        return StepScore(span, PENALTY, Verdict.REFUTED, f"{left}, but the box has {value(boxed)}")
    return StepScore(span, 0.0, Verdict.VERIFIED, f"{left}, as in the box")


def _equation(expression: Expression) -> str:
    text, result = render(expression), str(value(expression))
    return text if text == result else f"{text} = {result}"

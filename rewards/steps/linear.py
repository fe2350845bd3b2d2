r"""Step rewards for linear equations: each line must keep the solution of the question's equation.

The expected completion, for the question `Solve for x: 2x + 4 = 10`:

    <think>
    2x = 6
    x = 3
    </think>
    \boxed{3}
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import NamedTuple

from cotree.rewards.extract import END_OF_THINKING, extract
from cotree.rewards.steps.amounts import UnreadableError
from cotree.rewards.steps.comparison import judged
from cotree.rewards.steps.equalities import equalities
from cotree.rewards.steps.polynomials import (
    Polynomial,
    constant,
    degree,
    difference,
    equation,
    expression,
    symbols,
)
from cotree.rewards.types import Problem, Reward, Status, StepScore, Verdict

PENALTY = -1.0
"""A refuted step; a verified one gives 0.0."""

_LINE = re.compile(r"[^\n]+")
_TAG = "<think>"
_AROUND = " \t$.,;"


class _Task(NamedTuple):
    symbol: str
    solution: Fraction


def linear_steps(completion: str, problem: Problem) -> Reward:
    """Judges every line of the reasoning, and the answer, against the equation's solution.

        value = -1 if any step is refuted or there is no answer, else 0

    A line that is an equation in the question's symbol is VERIFIED when the solution satisfies it
    and it has no other, REFUTED when it does not (`0x = 0` has others). A line of numbers only
    (`10 - 4 = 6`) is judged as arithmetic. Prose is UNCHECKED. Each line is judged by the question,
    not by the line before, so a wrong line refutes those that follow from it as well.

    Args:
        completion: the policy's text.
        problem: its column `equation` or else its question holds one linear equation in one
            symbol; in a question it is the part after the last colon, or the whole.

    Raises:
        ValueError: there is no such equation; use another reward for this task.
    """
    task = _task(problem)
    end = completion.rfind(END_OF_THINKING)
    stop = end if end >= 0 else max(completion.rstrip().rfind("\n"), 0)
    steps = [
        step
        for line in _LINE.finditer(completion, 0, stop)
        if (step := _judged_line(line, task)) is not None
    ]
    found = extract(completion)
    status = Status.OK if found.answer is not None else Status.NO_ANSWER
    fault = "no answer" if found.answer is None else _answer_fault(found.answer, task)
    begin = stop + (len(END_OF_THINKING) if end >= 0 else 0)
    tail = completion[begin:].rstrip()
    if tail.strip():
        verdict = Verdict.REFUTED if fault else Verdict.VERIFIED
        steps.append(_step((begin, begin + len(tail)), verdict, fault or "the solution"))
    num_refuted = sum(step.verdict is Verdict.REFUTED for step in steps)
    reason = f"{num_refuted} of {len(steps)} refuted" + (f"; {fault}" if fault else "")
    value = PENALTY if num_refuted or fault else 0.0
    return Reward(value, reason, steps=tuple(steps), status=status)


def _task(problem: Problem) -> _Task:
    column = problem.columns.get("equation")
    text = column if isinstance(column, str) else problem.question.rpartition(":")[2]
    try:
        sides = equation(text.strip(_AROUND + "?\n"))
        solution = None if sides is None else _solution(difference(*sides))
    except UnreadableError as error:
        raise ValueError(
            f"linear_steps needs a linear equation; problem {problem.id} has {text[:80]!r} "
            f"({error}). Give it in a column `equation`, or drop this reward for this task."
        ) from error
    if solution is None:
        raise ValueError(
            f"linear_steps needs one linear equation in one symbol with one solution; problem "
            f"{problem.id} has {text[:80]!r}. Drop this reward for this task."
        )
    return solution


def _solution(poly: Polynomial) -> _Task | None:
    """The symbol and value for which a linear polynomial is zero, if there is exactly one."""
    names = symbols(poly)
    if len(names) != 1 or degree(poly) != 1:
        return None
    (name,) = names
    return _Task(name, -poly.get((), Fraction(0)) / poly[((name, 1),)])


def _judged_line(line: re.Match[str], task: _Task) -> StepScore | None:
    """The verdict on a line; `None` for one without an equality."""
    text = line[0].replace(_TAG, " " * len(_TAG))
    if "=" not in text:
        return None
    begin = line.start() + len(text) - len(text.lstrip())
    span = (begin, line.start() + len(text.rstrip()))
    try:
        sides = equation(text.strip(_AROUND))
    except UnreadableError as error:
        return _judged_numbers(text, span, str(error))
    if sides is None or not (symbols(sides[0]) | symbols(sides[1])):
        return _judged_numbers(text, span, "numbers only")
    names = symbols(sides[0]) | symbols(sides[1])
    if names != frozenset((task.symbol,)):
        return _step(span, Verdict.UNCHECKED, f"an equation in {', '.join(sorted(names))}")
    found = _solution(difference(*sides))
    if found == task:
        return _step(span, Verdict.VERIFIED, f"{task.symbol} = {task.solution} solves it")
    shown = "every value" if not difference(*sides) else f"{found.solution}" if found else "other"
    reason = f"{text.strip()[:80]} has the solution {shown}, not {task.solution}"
    return _step(span, Verdict.REFUTED, reason)


def _judged_numbers(text: str, span: tuple[int, int], reason: str) -> StepScore:
    """A line that is no equation in the symbol: arithmetic in it may still be false."""
    verdicts = [judged(pair, {}) for pair in equalities(text)]
    for verdict in (Verdict.REFUTED, Verdict.VERIFIED):
        for judgement in verdicts:
            if judgement.verdict is verdict:
                return _step(span, verdict, judgement.reason)
    return _step(span, Verdict.UNCHECKED, reason[:120])


def _answer_fault(answer: str, task: _Task) -> str:
    try:
        sides = equation(answer.strip(_AROUND))
        if sides is None:
            given = constant(expression(answer.strip(_AROUND)))
            right = given == task.solution
        else:
            alone = {((task.symbol, 1),): Fraction(1)}
            right = sides[0] == alone and constant(sides[1]) == task.solution
    except UnreadableError as error:
        return f"the answer is no number ({error})"
    return "" if right else f"the answer {answer[:40]} is not {task.solution}"


def _step(span: tuple[int, int], verdict: Verdict, reason: str) -> StepScore:
    return StepScore(span, PENALTY if verdict is Verdict.REFUTED else 0.0, verdict, reason)

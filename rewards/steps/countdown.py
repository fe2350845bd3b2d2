r"""Countdown: reach a target from given numbers, each used at most once. Every step is checked.

The completion works in lines and ends in one expression:

    <think>
    25 - 5 = 20
    20 * 3 = 60
    </think>
    \boxed{(25 - 5) * 3}

Numbers and target come from the problem's columns `numbers` (a list) and `target`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from cotree.rewards.extract import END_OF_THINKING, extract
from cotree.rewards.math_answer import rules
from cotree.rewards.steps.amounts import UnreadableError
from cotree.rewards.steps.equalities import Equality, equalities
from cotree.rewards.steps.evaluation import Reading, amount
from cotree.rewards.steps.tokens import Token, tokens, with_times_signs
from cotree.rewards.types import Problem, Reward, Status, StepScore, Verdict, checked_by

PENALTY = -1.0
"""A refuted step; a verified one gives 0.0."""
SOLVED = 1.0
MAX_NUMBERS = 64
"""More given numbers than this are taken for a mistake in the data set."""


class Task(NamedTuple):
    """What is given and what is to be reached."""

    numbers: tuple[Fraction, ...]
    target: Fraction


def countdown(
    completion: str, problem: Problem, *, use_all: bool = False, steps_required: bool = False
) -> Reward:
    r"""Reward 1 for a solution with true steps, 0 with a false one, -1 without a solution.

        value = outcome + worst step, outcome = 1 if the answer is right, else 0

    An equality `a op b = c` of the reasoning is VERIFIED when `a` and `b` are among those left
    and the result is exact; they are then taken away and `c` added. It is REFUTED when a number
    is not left or the result is wrong. Its numbers are then taken away as far as they are there,
    and `c` is added, so that one mistake does not refute every line after it. Those of other
    forms are UNCHECKED, and so is the use of a number that only they mention: a search may think
    aloud. A line that starts over (its numbers are all
    given ones, but no longer left) starts a new attempt with all numbers.

    The answer (see `extract`; a part after `=` is not read) is judged as the last step: it must
    consist of given numbers, each used at most as often as given, and have the target's value.
    A missing answer counts as a refuted step, or saying nothing would beat a mistake.

    Args:
        completion: the policy's text.
        problem: its columns hold `numbers` and `target`.
        use_all: every given number must be used exactly as often as given.
        steps_required: an answer without one verified line before it counts as a refuted step.

    Raises:
        ValueError: the problem has no such columns; that is the data set's fault.
    """
    task = _task(problem)
    end = _end_of_reasoning(completion)
    steps = _judged_lines(completion, end, task.numbers)
    num_verified = sum(step.verdict is Verdict.VERIFIED for step in steps)
    found = extract(completion)
    fault = "no answer" if found.answer is None else _answer_fault(found.answer, task, use_all)
    status = Status.NO_ANSWER if found.answer is None else Status.OK
    outcome = 0.0 if fault else SOLVED
    tail = completion[end:].rstrip()
    if tail.removeprefix(END_OF_THINKING).strip():
        verdict = Verdict.REFUTED if fault else Verdict.VERIFIED
        offset = len(END_OF_THINKING) if tail.startswith(END_OF_THINKING) else 0
        span = (end + offset, end + len(tail))
        steps.append(_step(span, verdict, fault or "reaches the target", found.answer or ""))
    num_refuted = sum(step.verdict is Verdict.REFUTED for step in steps)
    skipped = steps_required and not num_verified
    value = outcome + (PENALTY if num_refuted or fault or skipped else 0.0)
    reason = f"{fault or 'solved'}; {num_verified} lines verified, {num_refuted} steps refuted"
    return Reward(value, reason, steps=tuple(steps), status=status)


def countdown_steps(completion: str, problem: Problem) -> Reward:
    """Judges the work of `countdown` alone: -1 if one of its lines is refuted, else 0.

    Reads neither the target nor the answer, so that it can choose among completions of a problem
    that nobody has graded.

    Args:
        completion: the policy's text.
        problem: its column `numbers` holds the given numbers.

    Raises:
        ValueError: the problem has no such column.
    """
    steps = _judged_lines(completion, _end_of_reasoning(completion), _given(problem))
    counts = [sum(step.verdict is verdict for step in steps) for verdict in Verdict]
    reason = f"{counts[0]} lines verified, {counts[1]} refuted, {counts[2]} unchecked"
    return Reward(PENALTY if counts[1] else 0.0, reason, steps=tuple(steps))


def check_game(problem: Problem) -> None:
    """Checks that the problem's numbers and target can be read; not that the target is in reach.

    Raises:
        ValueError: a column is missing, or one of its values is no number.
    """
    _task(problem)


@checked_by(check_game)
def countdown_answer(
    completion: str, problem: Problem, *, use_all: bool = False, extraction: str = "anchored"
) -> Reward:
    r"""Reward 1 for an expression that solves the game, else 0; the work before it is not read.

    The extracted answer (a part after `=` is not read) must consist of given numbers, each used
    at most as often as given, and have the target's value.

    Args:
        completion: the policy's text.
        problem: its columns hold `numbers` and `target`.
        use_all: every given number must be used exactly as often as given.
        extraction: as in `math_equal`.

    Returns:
        1.0 with reason `solved (rule)`; 0.0 with what is wrong and the rule, with status
        `parse_error` where the answer is no expression, or with `no_answer` and status `no_answer`.

    Raises:
        ValueError: the problem has no such columns, or `extraction` names an unknown rule.
    """
    task = _task(problem)
    found = extract(completion, rules(extraction))
    if found.answer is None:
        return Reward(0.0, "no_answer", status=Status.NO_ANSWER)
    try:
        fault = _game_fault(found.answer, task, use_all)
    except UnreadableError as error:
        return Reward(0.0, f"unreadable ({found.rule}): {error}", status=Status.PARSE_ERROR)
    return Reward(0.0 if fault else SOLVED, f"{fault or 'solved'} ({found.rule})")


def _task(problem: Problem) -> Task:
    target = _column(problem, "target")
    return Task(_given(problem), _exact(target, problem))


def _column(problem: Problem, name: str) -> object:
    if name not in problem.columns:
        raise ValueError(
            f"countdown needs the columns `numbers` and `target`; problem {problem.id} has "
            f"{sorted(problem.columns)}. Add {name!r} to the data set."
        )
    return problem.columns[name]


def _given(problem: Problem) -> tuple[Fraction, ...]:
    given = _column(problem, "numbers")
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise ValueError(f"problem {problem.id}: `numbers` is {given!r}; it must be a list.")
    numbers = tuple(_exact(number, problem) for number in given)
    if not 1 <= len(numbers) <= MAX_NUMBERS:
        raise ValueError(
            f"problem {problem.id} has {len(numbers)} numbers; 1 to {MAX_NUMBERS} are allowed."
        )
    return numbers


def _exact(number: object, problem: Problem) -> Fraction:
    if isinstance(number, bool) or not isinstance(number, int | float | str):
        raise ValueError(f"problem {problem.id}: {number!r} is no number.")
    try:
        return Fraction(str(number) if isinstance(number, float) else number)
    except (ValueError, OverflowError, ZeroDivisionError) as error:
        raise ValueError(f"problem {problem.id}: {number!r} is no number ({error}).") from error


def _end_of_reasoning(completion: str) -> int:
    """Where the last `</think>` stands, or else the last line, which holds the answer."""
    end = completion.rfind(END_OF_THINKING)
    return end if end >= 0 else max(completion.rstrip().rfind("\n"), 0)


def _judged_lines(completion: str, end: int, numbers: Sequence[Fraction]) -> list[StepScore]:
    left = Counter(numbers)
    unread: set[Fraction] = set()  # numbers that an equality nobody could read may have made
    steps: list[StepScore] = []
    for pair in equalities(completion[:end]):
        if steps and pair.span[0] < steps[-1].span[1]:
            continue  # an annotation inside an equality says it twice
        shown = completion[slice(*pair.span)]
        used, claimed, fault = _read(pair, shown)
        if claimed is None:
            unread.update(_numbers((*pair.left.tokens, *pair.right.tokens)))
            steps.append(_step(pair.span, Verdict.UNCHECKED, fault, shown))
            continue
        # `-14 + 44` uses a -14 that was made before, or else the number 14.
        used = [number if number in left else abs(number) for number in used]
        missing = Counter(used) - left
        if missing and not Counter(used) - Counter(numbers):
            left, missing = Counter(numbers), Counter[Fraction]()
        left = left - Counter(used) + Counter([claimed])
        verdict = Verdict.REFUTED if fault or missing else Verdict.VERIFIED
        if missing and not fault:
            fault = f"{next(iter(missing))} is not left"
            if missing.keys() <= unread:
                verdict = Verdict.UNCHECKED
        steps.append(_step(pair.span, verdict, fault or "exact", shown))
    return steps


def _read(pair: Equality, shown: str) -> tuple[list[Fraction], Fraction | None, str]:
    """The numbers that `a op b = c` uses, what it claims, and what is wrong with it.

    The claim is `None` when the equality has another form.
    """
    side, right = pair.left.tokens, pair.right.tokens
    if pair.fault or pair.doubtful or pair.approximate:
        return [], None, pair.fault or "hedged"
    try:
        result, claimed = _exact_value(side), _exact_value(right)
    except UnreadableError as error:
        return [], None, str(error)
    if len(_numbers(right)) != 1 or len(_numbers(side)) < 2:
        return [], None, "not of the form a op b = c"
    fault = "" if result == claimed else f"{shown[:80]}: the left side is {result}"
    return _numbers(side), claimed, fault


def _answer_fault(answer: str, task: Task, use_all: bool) -> str:
    """Why the expression is no solution; empty when it is one."""
    try:
        return _game_fault(answer, task, use_all)
    except UnreadableError as error:
        return f"the answer is no expression ({error})"


def _game_fault(answer: str, task: Task, use_all: bool) -> str:
    r"""As `_answer_fault`, raising `UnreadableError`. `\boxed{(1+2)*3 = 9}` is read."""
    stream = with_times_signs(tokens(answer))
    at = next((i for i, token in enumerate(stream) if token.kind == "equal"), len(stream))
    side = stream[:at]
    value = _exact_value(side)
    given = Counter(task.numbers)
    used = Counter(number if number in given else abs(number) for number in _numbers(side))
    if extra := used - given:
        return f"{next(iter(extra))} is not given, or used too often"
    if use_all and (unused := given - used):
        return f"{next(iter(unused))} is not used"
    return "" if value == task.target else f"the answer is {value}, the target {task.target}"


_ALLOWED = {"number", "operator", "open", "close", "function", "currency"}


def _exact_value(side: Sequence[Token]) -> Fraction:
    if not side:
        raise UnreadableError("nothing stands before the equals sign")
    for token, following in zip(side, [*side[1:], None], strict=True):
        # `\\frac12` is one token of two numbers; braces keep the count right.
        bare = token.kind == "function" and (following is None or following.kind != "open")
        power = token.kind == "operator" and token.text not in "+-*/"
        if token.kind not in _ALLOWED or power or bare or token.text == "sqrt":
            raise UnreadableError(f"unexpected {token.text[:20]!r}")
    return amount(side, Reading(mixed=False), {}).value


def _numbers(side: Sequence[Token]) -> list[Fraction]:
    """The side's numbers, a minus that joins nothing being part of the number after it."""
    found: list[Fraction] = []
    for index, token in enumerate(side):
        if token.kind != "number":
            continue
        before = [other for other in side[max(0, index - 2) : index] if other.kind != "currency"]
        signs = bool(before) and before[-1].text == "-"
        joins = len(before) > 1 and before[-2].kind in ("number", "close")
        found.append(-token.value if signs and not joins else token.value)
    return found


def _step(span: tuple[int, int], verdict: Verdict, reason: str, shown: str) -> StepScore:
    value = PENALTY if verdict is Verdict.REFUTED else 0.0
    return StepScore(span, value, verdict, reason, left=shown.strip()[:120])

r"""Reward 1.0 when all answers of a competition problem are given, within its tolerance, else 0.0.

Columns of the problem, both optional:

    answers    the right answers where there are several, in any order; else the reference is it
    tolerance  absolute, for numbers: `0.1` or `1e-1`, one for all or one an answer (`1e-1,1e-2`)

Pure and bounded, like `math_equal`: nothing is evaluated as code.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from cotree.rewards.equality.answers import Compared, Outcome, compare
from cotree.rewards.equality.approximation import approximate
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import Degrees, Node, Percent, Quantity
from cotree.rewards.equality.parser import MAX_CHARS, ParseError, parse
from cotree.rewards.equality.relations import named
from cotree.rewards.equality.text import clean
from cotree.rewards.extract import extract
from cotree.rewards.math_answer import rules
from cotree.rewards.restated import restates
from cotree.rewards.types import Problem, Reward, Status, checked_by

MAX_ANSWERS = 32
"""Every answer is compared with every other; more than this are taken for a mistake."""

_JOINT = re.compile(
    r"[,;]|\\(?:text|mbox|mathrm)\s?\{\s?(?:and|or)\s?\}|(?<![\\A-Za-z])(?:and|or)(?![A-Za-z])"
)
_SET = re.compile(r"\\\{([^{}]*(?:\{[^{}]*\}[^{}]*)*)\\\}")


class Wanted(NamedTuple):
    """A right answer and how far from it a number may be."""

    text: str
    tolerance: Fraction | None


def check_problem(problem: Problem) -> None:
    """Checks that every answer equals itself and that the columns can be read.

    An answer that is no mathematics ("all odd numbers") passes: it is compared as text.

    Raises:
        ValueError: an answer is blank or does not equal itself, or a column is of the wrong form.
    """
    for wanted in _wanted(problem):
        if not wanted.text.strip():
            raise ValueError("an answer is blank; correct or drop the row.")
        if compare(wanted.text, wanted.text).outcome is not Outcome.EQUAL:
            raise ValueError(f"the answer {wanted.text!r} does not equal itself; correct the row.")


@checked_by(check_problem)
def olympiad_equal(completion: str, problem: Problem, *, extraction: str = "anchored") -> Reward:
    """Compares the extracted answer with the right one, or with the right ones in any order.

    An answer is right if `compare` calls it equal or if both are numbers no further apart than the
    tolerance. Several must all be given, and nothing else; "or" joins them as well as "and".

    Args:
        completion: the policy's text.
        problem: holds the reference, and the columns `answers` and `tolerance` where they apply.
        extraction: as in `math_equal`.

    Returns:
        1.0 with reason `match (rule, method)`, the method being that of `compare`, `tolerance` or
        `answers`; 0.0 with `mismatch (rule)`, with `restates the question (rule)`, with
        `unreadable (rule)` and status `parse_error`, or with `no_answer` and status `no_answer`.

    Raises:
        ValueError: `extraction` names an unknown rule, or a column is of the wrong form.
    """
    wanted = _wanted(problem)
    found = extract(completion, rules(extraction))
    if found.answer is None:
        return Reward(0.0, "no_answer", status=Status.NO_ANSWER)
    compared = compare(", ".join(each.text for each in wanted), found.answer)
    method = _method(compared, wanted, found.answer)
    if method and restates(found.answer, problem):
        return Reward(0.0, f"restates the question ({found.rule})")
    if method:
        return Reward(1.0, f"match ({found.rule}, {method})")
    if compared.outcome is Outcome.UNREADABLE:
        return Reward(0.0, f"unreadable ({found.rule})", status=Status.PARSE_ERROR)
    return Reward(0.0, f"mismatch ({found.rule})")


def several(text: str) -> list[str]:
    r"""The answers side by side in a text: apart by commas, semicolons, "and" or "or".

    Commas in brackets join, as in points and intervals; the braces of one set are taken off.
    `$1$, $(2,3)$` is two answers. They come with their typography folded (`clean`); none is empty.
    """
    text = clean(text)
    whole = _SET.fullmatch(text)
    text = whole[1] if whole else text
    starts, ends = [0], list[int]()
    for joint in _top_level(text):
        ends.append(joint.start())
        starts.append(joint.end())
    parts = [text[a:b].strip() for a, b in zip(starts, [*ends, len(text)], strict=True)]
    return [part for part in parts if part]


def _top_level(text: str) -> Iterator[re.Match[str]]:
    """The joints outside all brackets. An opening and a closing bracket need not be of a kind."""
    depth, at = 0, 0
    while at < len(text):
        joint = _JOINT.match(text, at) if depth == 0 else None
        if joint:
            yield joint
            at = joint.end()
            continue
        depth = max(0, depth + (text[at] in "([{") - (text[at] in ")]}"))
        at += 1


def _method(compared: Compared, wanted: Sequence[Wanted], answer: str) -> str:
    """How the answer turned out to be right; empty where it is not."""
    if compared.outcome is Outcome.EQUAL:
        return compared.method
    if len(wanted) == 1:
        return "tolerance" if _close(wanted[0], answer) else ""
    given = several(answer) if len(answer) <= MAX_CHARS else []
    return "answers" if len(given) == len(wanted) and _all_given(wanted, given) else ""


def _all_given(wanted: Sequence[Wanted], given: Sequence[str]) -> bool:
    """Whether each wanted answer can have a given one to itself (augmenting paths)."""
    fits = [[_is_right(each, text) for text in given] for each in wanted]
    owner: list[int | None] = [None] * len(given)

    def placed(row: int, tried: set[int]) -> bool:
        for column, fit in enumerate(fits[row]):
            if not fit or column in tried:
                continue
            tried.add(column)
            current = owner[column]
            if current is None or placed(current, tried):
                owner[column] = row
                return True
        return False

    return all(placed(row, set()) for row in range(len(wanted)))


def _is_right(wanted: Wanted, answer: str) -> bool:
    return compare(wanted.text, answer).outcome is Outcome.EQUAL or _close(wanted, answer)


def _close(wanted: Wanted, answer: str) -> bool:
    if wanted.tolerance is None:
        return False
    reference, value = _number(wanted.text), _number(answer)
    return (
        reference is not None and value is not None and abs(value - reference) <= wanted.tolerance
    )


@lru_cache(maxsize=4096)
def _number(text: str) -> Fraction | None:
    """The number a text commits to, without name, unit, degree or percent sign."""
    if len(text) > MAX_CHARS:
        return None
    try:
        node: Node = named(parse(text)).value
    except ParseError:
        return None
    while isinstance(node, Quantity | Degrees | Percent):
        node = node.value
    exact = rational(node)
    return approximate(node) if exact is None else exact


def _wanted(problem: Problem) -> tuple[Wanted, ...]:
    listed = problem.columns.get("answers")
    answers = (problem.reference,) if listed is None else _texts(listed, problem)
    tolerances = _tolerances(problem.columns.get("tolerance"), problem)
    if len(tolerances) == 1:
        tolerances *= len(answers)
    if len(tolerances) != len(answers):
        raise ValueError(
            f"problem {problem.id} has {len(tolerances)} tolerances for {len(answers)} answers; "
            "give one for all, or one for each."
        )
    return tuple(Wanted(a, t) for a, t in zip(answers, tolerances, strict=True))


def _texts(listed: object, problem: Problem) -> tuple[str, ...]:
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        raise ValueError(f"problem {problem.id}: `answers` is {listed!r}; it must be a list.")
    answers = tuple(listed)
    if not 1 <= len(answers) <= MAX_ANSWERS or not all(isinstance(a, str) for a in answers):
        raise ValueError(
            f"problem {problem.id}: `answers` is {listed!r}; it must hold 1 to {MAX_ANSWERS} texts."
        )
    return answers


def _tolerances(value: object, problem: Problem) -> tuple[Fraction | None, ...]:
    if value is None:
        return (None,)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"problem {problem.id}: `tolerance` is {value!r}; give a number or text.")
    try:
        found = tuple(Fraction(part.strip()) for part in str(value).split(","))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"problem {problem.id}: `tolerance` is {value!r}; write numbers, such as 1e-1."
        ) from error
    if min(found) < 0:
        raise ValueError(f"problem {problem.id}: `tolerance` is {value!r}; it cannot be negative.")
    return found

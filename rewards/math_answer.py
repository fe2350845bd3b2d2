r"""Reward 1.0 when the final answer equals the reference as mathematics, else 0.0.

Pure and bounded: the answer is parsed by the project's own parser, compared by `compare`, and
never evaluated as code. It needs no time limit, no thread and no process of its own.
"""

from functools import lru_cache

from cotree.rewards.equality.answers import Outcome, check_reference, compare
from cotree.rewards.extract import ANCHORED, LENIENT, extract
from cotree.rewards.restated import restates
from cotree.rewards.types import Problem, Reward, Status, checked_by


def check_problem(problem: Problem) -> None:
    """Checks that the problem's reference can be read and equals itself.

    Raises:
        ValueError: it is blank, cannot be read, or does not equal itself.
    """
    check_reference(problem.reference)


@checked_by(check_problem)
def math_equal(completion: str, problem: Problem, *, extraction: str = "anchored") -> Reward:
    """Compares the extracted answer with the reference as mathematics; see `compare`.

    Args:
        completion: the policy's text.
        problem: holds the reference.
        extraction: `anchored` (marked answers only: for training), `lenient` (also the last formula
            and short bare texts: for grading texts that were asked for no mark), or rule names of
            `extract` separated by commas, in the order to try them.

    Returns:
        1.0 with reason `match (rule, method)`; 0.0 with `mismatch (rule)`, with `restates the
        question (rule)` (see `restates`), with `unreadable (rule)` and status `parse_error`, or
        with `no_answer` and status `no_answer`.

    Raises:
        ValueError: `extraction` names an unknown rule.
    """
    found = extract(completion, rules(extraction))
    if found.answer is None:
        return Reward(0.0, "no_answer", status=Status.NO_ANSWER)
    compared = compare(problem.reference, found.answer)
    if compared.outcome is Outcome.EQUAL and restates(found.answer, problem):
        return Reward(0.0, f"restates the question ({found.rule})")
    if compared.outcome is Outcome.EQUAL:
        return Reward(1.0, f"match ({found.rule}, {compared.method})")
    if compared.outcome is Outcome.UNREADABLE:
        return Reward(0.0, f"unreadable ({found.rule})", status=Status.PARSE_ERROR)
    return Reward(0.0, f"mismatch ({found.rule})")


@lru_cache(maxsize=32)
def rules(extraction: str) -> tuple[str, ...]:
    """The extraction rules behind an option: `anchored`, `lenient`, or `boxed,phrase`."""
    named = {"anchored": ANCHORED, "lenient": LENIENT}
    if extraction in named:
        return named[extraction]
    return tuple(rule.strip() for rule in extraction.split(","))

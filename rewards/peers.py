r"""Another project's grader in this project's shape, to compare verdicts with.

For the killable worker of `IsolatedPool` only: math-verify has no time limit that works outside
the main thread or against big-integer arithmetic. In a worker `\boxed{9^{9^{9}}}` costs one
timeout; called in your own process it hangs.
"""

from functools import cache
from importlib.metadata import version

# At module level, so that a worker pays the 1.5 s of importing sympy while it starts, not out of
# the first completion's time limit.
from math_verify import parse, verify

from cotree.rewards.extract import extract
from cotree.rewards.math_answer import rules
from cotree.rewards.types import Problem, Reward, Status


def math_verify_equal(completion: str, problem: Problem, *, extraction: str = "anchored") -> Reward:
    r"""Grades the extracted answer with math-verify, both sides wrapped in `\boxed{}`.

    Given the bare reference, math-verify fails to read about a fifth of the references of common
    benchmarks.

    Args:
        completion: the policy's text.
        problem: holds the reference.
        extraction: as in `math_equal`, so that the two graders compare the same answers.

    Returns:
        1.0 with reason `match (rule)`; 0.0 with `mismatch (rule)`, `unreadable (rule)` or
        `no_answer`.

    Raises:
        ValueError: math-verify cannot read the reference; that is the data set's fault.
        RuntimeError: an ANTLR runtime is installed with which math-verify changes verdicts.
    """
    _check_parser_runtime()
    found = extract(completion, rules(extraction))
    if found.answer is None:
        return Reward(0.0, "no_answer", status=Status.NO_ANSWER)
    gold = parse(_boxed(problem.reference), parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    if not gold:
        raise ValueError(
            f"math-verify cannot read the reference {problem.reference!r} of {problem.id}; "
            'correct the row, or grade with name = "math".'
        )
    predicted = parse(_boxed(found.answer), parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    if not predicted:
        return Reward(0.0, f"unreadable ({found.rule})", status=Status.PARSE_ERROR)
    if verify(gold, predicted, timeout_seconds=None):
        return Reward(1.0, f"match ({found.rule})")
    return Reward(0.0, f"mismatch ({found.rule})")


def _boxed(text: str) -> str:
    return rf"\boxed{{{text}}}"


@cache
def _check_parser_runtime() -> None:
    r"""Math-verify 0.9 silently grades `50\%` against `0.5` differently with older ANTLR."""
    found = version("antlr4-python3-runtime")
    if not found.startswith("4.13."):
        raise RuntimeError(
            f"antlr4-python3-runtime {found} makes math-verify misread percentages and more; "
            "pip install 'math-verify[antlr4_13_2]' (hydra-core and omegaconf pin an older one)."
        )

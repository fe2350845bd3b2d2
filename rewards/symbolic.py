r"""Reward 1.0 when the final answer equals the reference as mathematics (math-verify), else 0.0.

For the killable worker of `IsolatedPool` only: there is no time limit in here, because the one
math-verify has (SIGALRM) fails outside the main thread and cannot interrupt big-integer
arithmetic. In a worker `\boxed{9^{9^{9}}}` costs one timeout; called in your own process it hangs.
"""

from functools import cache
from importlib.metadata import version

# At module level, so that a worker pays the 1.5 s of importing sympy while it starts, not out of
# the first completion's time limit.
from math_verify import parse, verify

from cotree.rewards.answer import answer, normalize
from cotree.rewards.extract import extract
from cotree.rewards.types import Problem, Reward


def math_equal(completion: str, problem: Problem) -> Reward:
    r"""`answer` first; on a mismatch, symbolic comparison by math-verify.

    Both sides are wrapped in `\boxed{}` before parsing: given the bare reference, math-verify
    fails to read about a fifth of the references of common benchmarks.

    Returns:
        As `answer`; `symbolic_match (rule)` where only math-verify finds the two equal.

    Raises:
        ValueError: math-verify cannot read the reference; that is the data set's fault.
        RuntimeError: an ANTLR runtime is installed with which math-verify changes verdicts.
    """
    exact = answer(completion, problem)
    found = extract(completion)
    if exact.value == 1.0 or found.answer is None:
        return exact
    _check_parser_runtime()
    gold = parse(_boxed(problem.reference), parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    if not gold:
        raise ValueError(
            f"math-verify cannot read the reference {problem.reference!r} of {problem.id}; "
            'correct the row, or grade with name = "answer".'
        )
    predicted = parse(_boxed(found.answer), parsing_timeout=None)  # pyright: ignore[reportArgumentType]
    if predicted and verify(gold, predicted, timeout_seconds=None):
        return Reward(1.0, f"symbolic_match ({found.rule})")
    return exact


def _boxed(text: str) -> str:
    return rf"\boxed{{{normalize(text)}}}"


@cache
def _check_parser_runtime() -> None:
    r"""Math-verify 0.9 silently grades `50\%` against `0.5` differently with older ANTLR."""
    found = version("antlr4-python3-runtime")
    if not found.startswith("4.13."):
        raise RuntimeError(
            f"antlr4-python3-runtime {found} makes math-verify misread percentages and more; "
            "pip install 'math-verify[antlr4_13_2]' (hydra-core and omegaconf pin an older one)."
        )

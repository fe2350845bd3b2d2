"""verl's rules for mathematics as rewards of ours, for `scripts/bench_graders.py`."""

from verl.utils.reward_score import math_reward, prime_math

from cotree.rewards.types import Problem

WARM = prime_math.compute_score(r"\boxed{x+1}", "1+x")


def math_default(completion: str, problem: Problem) -> float:
    """What verl uses for MATH and MATH-500: the Hendrycks string rules."""
    return float(math_reward.compute_score(completion, problem.reference))


def prime(completion: str, problem: Problem) -> float:
    """What verl uses for the NuminaMath sources."""
    score = prime_math.compute_score(completion, problem.reference)
    return float(score[0] if isinstance(score, tuple | list) else score)

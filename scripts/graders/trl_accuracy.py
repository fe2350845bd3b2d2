"""TRL's `accuracy_reward` as a reward of ours, for `scripts/bench_graders.py`."""

from trl.rewards import accuracy_reward

from cotree.rewards.types import Problem

WARM = accuracy_reward([[{"content": r"\boxed{1}"}]], [r"$1$"])


def as_documented(completion: str, problem: Problem) -> float | None:
    """The reference as it is; `None` where TRL cannot read it and skips the sample."""
    return accuracy_reward([[{"content": completion}]], [problem.reference])[0]


def reference_in_dollars(completion: str, problem: Problem) -> float | None:
    """The reference as inline LaTeX, which TRL reads better than a bare one."""
    return accuracy_reward([[{"content": completion}]], [f"${problem.reference}$"])[0]

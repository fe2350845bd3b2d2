"""The weighted sum of several rewards, with their step scores side by side."""

import math
from collections.abc import Sequence
from itertools import pairwise
from numbers import Real

from cotree.rewards.types import Failure, Reward, StepScore, Ungraded, Verdict


class _InvalidRewardError(Exception):
    """What a reward function returned is not a reward."""


def combine(terms: Sequence[tuple[str, float, object]]) -> Reward | Ungraded:
    """One reward out of what every term's function returned.

        value = sum over terms of weight * value

    Args:
        terms: name, weight and returned value of each reward function. A bare number is wrapped.

    Returns:
        The sum; `breakdown` holds the values before weights; `steps` those of all terms in the
        order of the text, values times weight; `reason` is `name=reason` of each term. A term
        that is no finite number and no well-formed `Reward` makes it `Ungraded`, not a zero.

    Raises:
        ValueError: spans of steps overlap, so a token would be charged twice.
    """
    breakdown: dict[str, float] = {}
    steps: list[StepScore] = []
    reasons: list[str] = []
    total = 0.0
    for name, weight, returned in terms:
        try:
            reward = _wrapped(returned)
        except _InvalidRewardError as error:
            return Ungraded(Failure.INVALID, f"{name} returned {error}")
        breakdown[name] = reward.value
        reasons.append(f"{name}={reward.reason}")
        total += weight * reward.value
        steps += [
            StepScore(step.span, step.value * weight, step.verdict, step.reason)
            for step in reward.steps
        ]
    steps.sort(key=lambda step: step.span)
    for first, second in pairwise(steps):
        if second.span[0] < first.span[1]:
            raise ValueError(
                f"steps overlap: {first.span} ({first.reason}) and {second.span} "
                f"({second.reason}); let one reward score steps, or make the spans disjoint."
            )
    return Reward(total, " ".join(reasons), breakdown, tuple(steps))


def _wrapped(returned: object) -> Reward:
    """`returned` as a `Reward` of plain, finite numbers."""
    if isinstance(returned, Real):
        number = _finite(returned, "a value")
        return Reward(number, f"{number:g}")
    if not isinstance(returned, Reward):
        raise _InvalidRewardError(f"{_short(returned)}; a reward is a finite number or a Reward")
    steps = tuple(_checked_step(step) for step in returned.steps)
    return Reward(_finite(returned.value, "a value"), str(returned.reason), steps=steps)


def _checked_step(step: object) -> StepScore:
    if not isinstance(step, StepScore):
        raise _InvalidRewardError(f"the step {_short(step)}; a step is a StepScore")
    start, end = step.span
    if not 0 <= start <= end:
        raise _InvalidRewardError(f"a step with the span {step.span}; 0 <= start <= end must hold")
    value = _finite(step.value, "a step's value")
    return StepScore((int(start), int(end)), value, Verdict(step.verdict), str(step.reason))


def _finite(number: object, what: str) -> float:
    if not isinstance(number, Real) or not math.isfinite(float(number)):
        raise _InvalidRewardError(f"{what} of {_short(number)}; it must be a finite number")
    return float(number)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"

"""One reward out of several, with their step scores side by side."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Literal

from cotree.rewards.outcomes import Outcome
from cotree.rewards.registry import Term
from cotree.rewards.types import Failure, Reward, Status, StepScore, Ungraded

Combination = Literal["sum", "product", "minimum"]
"""How the values of several rewards become one."""


class RewardFailedError(RuntimeError):
    """A reward whose `on_error` is `raise` failed."""


def combine(
    terms: Sequence[Term], outcomes: Sequence[Outcome], *, combination: Combination = "sum"
) -> Reward | Ungraded:
    """One reward out of the outcome of every term, failures treated as `on_error` says.

        sum      sum over terms that apply of weight * value
        product  product of their values: one that is 0 takes the others with it
        minimum  the lowest of their values: one that is low cannot be made up for

    Args:
        terms: what was asked for.
        outcomes: of each term in the same order; `None` where the term does not apply.
        combination: which of the three. Weights enter the sum and the values of steps only.

    Returns:
        `breakdown` holds the values before weights of the terms that apply; `steps` those of all
        terms in the order of the text, values times weight; `reason` is `name=reason` of each term;
        `status` that of the first term that has another than `ok`. `Ungraded` when a
        term failed and its `on_error` is `mask`, when no term applies, or when steps of two terms
        overlap, so that a token would be charged twice.

    Raises:
        RewardFailedError: a term failed and its `on_error` is `raise`.
    """
    applied: list[tuple[Term, Reward]] = []
    failed: dict[str, Failure] = {}
    reasons: list[str] = []
    masked: Ungraded | None = None
    for term, found in zip(terms, outcomes, strict=True):
        if found is None:
            reasons.append(f"{term.name}=does not apply")
            continue
        if isinstance(found, Ungraded):
            reason = f"{term.name} failed ({found.failure}): {found.reason}"
            if term.on_error == "raise":
                raise RewardFailedError(
                    f'{reason}. Its on_error is "raise"; "mask" would leave such completions out.'
                )
            if term.on_error == "mask":
                masked = masked or replace(found, term=term.name, reason=reason)
                continue
            assert term.error_value is not None, "Term refuses `value` without error_value"
            failed[term.name] = found.failure
            found = Reward(term.error_value, f"error_value ({found.failure}: {found.reason})")
        reasons.append(f"{term.name}={found.reason}")
        applied.append((term, found))
    if masked is not None:
        return masked
    if not applied:
        return Ungraded(Failure.SKIPPED, "no reward applies: every function returned None")
    return _combined(applied, " ".join(reasons), failed, combination)


def _combined(
    applied: Sequence[tuple[Term, Reward]],
    reason: str,
    failed: dict[str, Failure],
    combination: Combination,
) -> Reward | Ungraded:
    breakdown: dict[str, float] = {}
    steps: list[StepScore] = []
    status = Status.OK
    for term, reward in applied:
        breakdown[term.name] = reward.value
        for part, value in reward.breakdown.items():
            breakdown[f"{term.name}.{part}"] = value
        steps += [replace(step, value=step.value * term.weight) for step in reward.steps]
        status = reward.status if status is Status.OK else status
    steps.sort(key=lambda step: step.span)
    for first, second in pairwise(steps):
        if second.span[0] < first.span[1]:
            return Ungraded(
                Failure.INVALID,
                f"steps of two rewards overlap: {first.span} ({first.reason}) and {second.span} "
                f"({second.reason}); let one reward score steps, or make the spans disjoint.",
            )
    values = [reward.value for _, reward in applied]
    if combination == "sum":
        value = math.fsum(term.weight * reward.value for term, reward in applied)
    else:
        value = math.prod(values) if combination == "product" else min(values)
    return Reward(value, reason, breakdown, tuple(steps), status, failed)

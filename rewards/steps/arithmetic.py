r"""The step reward for free text: every equality that can be judged is; a false one costs.

Recall is high where steps are arithmetic and low on competition mathematics, whose mistakes are
not slips of arithmetic; `scripts/bench_steps.py` measures both. Use it as a veto beside a reward
of the final answer, never alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from cotree.rewards.steps.algebra import rewritten_lines
from cotree.rewards.steps.comparison import Judgement
from cotree.rewards.steps.equalities import equalities
from cotree.rewards.steps.variables import judged_in_order
from cotree.rewards.types import Problem, Reward, StepScore, Verdict

Form = Literal["min", "share"]

PENALTY = -1.0
"""A refuted step. A verified one gives 0.0: there is no income from `1=1`."""

# `a * b = …` defines what the sign means; then no rule here knows.
_DEFINITION = re.compile(r"[A-Za-z] ?(?:\*|\\ast|\\cdot) ?[A-Za-z] ?=|\boperations?\b")


class Judged(NamedTuple):
    """An equality of the text and what was found out about it."""

    span: tuple[int, int]
    judgement: Judgement


def arithmetic_steps(
    completion: str, problem: Problem, *, form: Form = "min", algebra: bool = False
) -> Reward:
    """Judges every equality between numbers in the completion, whatever stands around it.

        min    value = -1 if any step is refuted, else 0
        share  value = -(refuted steps) / (refuted steps + verified steps), at least -1

    A step is an equality; equalities that overlap (an annotation inside one) are one step, refuted
    if any of them is. Steps that no rule can judge are UNCHECKED and worth 0, like verified ones.

    `share` can be gamed: true equalities that nobody needs dilute a false one. It never rises
    above 0, but padding brings it closer; the minimum does not move.

    Args:
        completion: any text; nothing in it is executed, and time is linear in its length.
        problem: its question may redefine an operator, and then nothing is judged.
        form: how the steps make the value.
        algebra: judge lines of algebra by the line before as well (`algebra.rewritten_lines`);
            a line and the equalities in it are one step.

    Raises:
        ValueError: `form` is not one of the two.
    """
    if form not in get_args(Form):
        raise ValueError(f'form = {form!r} is not "min" or "share".')
    if _DEFINITION.search(problem.question):
        return Reward(0.0, "the question defines an operation")
    steps = step_scores(judgements(completion, algebra=algebra))
    return Reward(value_of(steps, form=form), summary(steps), steps=steps)


def judgements(text: str, *, algebra: bool) -> list[Judged]:
    """Every equality of the text with its judgement, in the order of the text."""
    if _DEFINITION.search(text):
        return []
    pairs = equalities(text)
    found = [
        Judged(pair.span, judgement)
        for pair, judgement in zip(pairs, judged_in_order(pairs), strict=True)
    ]
    if algebra:
        found += [
            Judged(line.span, Judgement(line.verdict, line.reason, line.left, line.right))
            for line in rewritten_lines(text)
        ]
    return sorted(found, key=lambda item: item.span)


def step_scores(found: Sequence[Judged]) -> tuple[StepScore, ...]:
    """Disjoint steps: overlapping equalities are merged, the worst verdict deciding."""
    groups: list[list[Judged]] = []
    end = -1
    for item in found:
        if groups and item.span[0] < end:
            groups[-1].append(item)
        else:
            groups.append([item])
        end = max(end, item.span[1])
    return tuple(_merged(group) for group in groups)


def value_of(steps: Sequence[StepScore], *, form: Form) -> float:
    """The scorer's value, in [-1, 0]; see `arithmetic_steps`."""
    refuted = sum(step.verdict is Verdict.REFUTED for step in steps)
    verified = sum(step.verdict is Verdict.VERIFIED for step in steps)
    if not refuted:
        return 0.0
    return PENALTY if form == "min" else PENALTY * refuted / (refuted + verified)


def summary(steps: Sequence[StepScore]) -> str:
    """How many steps had each verdict, and the first refuted one's reason."""
    counts = [sum(step.verdict is verdict for step in steps) for verdict in Verdict]
    text = f"{counts[0]} verified, {counts[1]} refuted, {counts[2]} unchecked"
    first = next((step.reason for step in steps if step.verdict is Verdict.REFUTED), "")
    return f"{text}: {first}" if first else text


_WORST_FIRST = (Verdict.REFUTED, Verdict.VERIFIED, Verdict.UNCHECKED)


def _merged(group: Sequence[Judged]) -> StepScore:
    worst = min(group, key=lambda item: _WORST_FIRST.index(item.judgement.verdict)).judgement
    span = (group[0].span[0], max(item.span[1] for item in group))
    value = PENALTY if worst.verdict is Verdict.REFUTED else 0.0
    return StepScore(span, value, worst.verdict, worst.reason, worst.left, worst.right)

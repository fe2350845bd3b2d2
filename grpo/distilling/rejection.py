"""Rejection sampling: which of a teacher's completions a student learns from. Pure.

Every candidate is either kept or dropped for one reason, the first that holds in the order of
`Rejection`. Whoever adds up the reasons finds all of them again.

Sources: Zelikman et al. 2022, arXiv:2203.14465 (only completions with the right answer are
learnt from); Yuan et al. 2023, arXiv:2308.01825 (rejection sampling fine-tuning, distinct paths).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cotree.grpo.config_distill import Keep
    from cotree.grpo.distilling.candidates import Candidate
    from cotree.grpo.types import Problem


class Rejection(StrEnum):
    """Why a completion is dropped, in the order in which it is asked."""

    CUT = "cut"
    """It ran into the sampling limit."""
    UNGRADED = "ungraded"
    """A reward failed on it: neither right nor wrong."""
    WRONG = "wrong"
    REFUTED = "refuted"
    """One of its steps is."""
    TOO_SHORT = "too_short"
    """Fewer tokens than asked for, or nothing but white space: no text to learn from."""
    TOO_LONG = "too_long"
    DUPLICATE = "duplicate"
    """An earlier one of the problem, itself not dropped so far, has the same text."""
    PASS_RATE = "pass_rate"
    """Its problem is solved too often or too rarely."""
    PER_PROBLEM = "per_problem"
    """Its problem has enough already."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A completion that was kept, with its problem."""

    id: str
    """PROBLEM_ID/SAMPLE."""
    question: str
    prompt: str
    """The question as the problem puts it: to the student, whatever the teacher was shown."""
    solution: str
    num_tokens: int
    """Of the solution, by the teacher's tokenizer."""
    pass_rate: float
    """Share of the problem's graded completions that are right."""


@dataclass(frozen=True, slots=True)
class RejectionCounts:
    """What became of all candidates."""

    kept: int
    dropped: Mapping[Rejection, int]
    """Every reason in its order, those that never held too."""

    @property
    def total(self) -> int:
        """Kept and dropped together."""
        return self.kept + sum(self.dropped.values())


def pass_rate(candidates: Sequence[Candidate]) -> float | None:
    """Right completions of a problem over its graded ones; None where none could be graded."""
    verdicts = [one.right for one in candidates if one.right is not None]
    return sum(verdicts) / len(verdicts) if verdicts else None


def kept_traces(
    candidates_by_problem: Mapping[str, Sequence[Candidate]],
    problems: Sequence[Problem],
    keep: Keep,
) -> tuple[list[Trace], RejectionCounts]:
    """The completions worth learning from, and what became of the others.

    Args:
        candidates_by_problem: by problem id, those of every problem and of no other.
        problems: in the order of the corpus.
        keep: the rules.

    Returns:
        Traces in the order of the problems, of one problem by sample index: whatever the order in
        which they were finished.

    Raises:
        ValueError: a problem has no entry, or an entry no problem, and would go uncounted.
    """
    unmatched = candidates_by_problem.keys() ^ {problem.id for problem in problems}
    if unmatched:
        raise ValueError(
            f"{len(unmatched)} problems are without candidates or candidates without a problem, "
            f"{min(unmatched)!r} for one; give the problems that were sampled, all of them."
        )
    traces: list[Trace] = []
    dropped: Counter[Rejection] = Counter()
    for problem in problems:
        candidates = sorted(candidates_by_problem[problem.id], key=lambda one: one.sample)
        rate = pass_rate(candidates)
        for one, reason in _judged(candidates, rate, keep):
            if reason is not None:
                dropped[reason] += 1
                continue
            assert rate is not None, "a kept completion is graded"
            id_ = f"{problem.id}/{one.sample}"
            traces.append(
                Trace(id_, problem.question, problem.prompt, one.text, one.num_tokens, rate)
            )
    counts = {reason: dropped[reason] for reason in Rejection}
    return traces, RejectionCounts(len(traces), counts)


def _judged(
    candidates: Sequence[Candidate], rate: float | None, keep: Keep
) -> Iterator[tuple[Candidate, Rejection | None]]:
    """Each candidate of one problem with why it is dropped; None keeps it."""
    low, high = keep.pass_rate
    seen: set[str] = set()
    num_kept = 0
    for one in candidates:
        reason = _fault(one, keep)
        if reason is None:
            if one.text in seen and not keep.duplicates:
                reason = Rejection.DUPLICATE
            elif rate is None or not low <= rate <= high:
                reason = Rejection.PASS_RATE
            elif num_kept == keep.per_problem:
                reason = Rejection.PER_PROBLEM
            seen.add(one.text)
        num_kept += reason is None
        yield one, reason


def _fault(candidate: Candidate, keep: Keep) -> Rejection | None:
    """What is wrong with a candidate, whatever the others of its problem are like."""
    if candidate.stop_reason == "length":
        return Rejection.CUT
    if candidate.ungraded is not None:
        return Rejection.UNGRADED
    if keep.right and not candidate.right:
        return Rejection.WRONG
    if keep.unrefuted and candidate.refuted:
        return Rejection.REFUTED
    if candidate.num_tokens < (keep.min_tokens or 0) or not candidate.text.strip():
        return Rejection.TOO_SHORT
    if keep.max_tokens is not None and candidate.num_tokens > keep.max_tokens:
        return Rejection.TOO_LONG
    return None

"""Completions in, graded samples out; what a model thinks is not what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from cotree.grpo.evaluation.benchmark import Benchmark
from cotree.grpo.evaluation.records import Drawn, Sample
from cotree.rewards.extract import ANCHORED, END_OF_THINKING, LENIENT, Extraction
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.outcomes import Outcome
from cotree.rewards.types import Problem, Reward, Status, Ungraded

START_OF_THINKING = "<think>"

_UNMARKED = frozenset(LENIENT) - frozenset(ANCHORED)
"""Rules that need no mark of an answer."""

MEMORY_BYTES = 2 << 30
"""Address-space limit of one grading process."""


class GradingFailedError(RuntimeError):
    """More samples could not be graded than an accuracy can be computed without."""


def answer_text(text: str, *, prompt_opens_thinking: bool) -> str | None:
    """What follows the last `</think>`; the whole text of a completion that does not think.

    Args:
        text: a completion.
        prompt_opens_thinking: the prompt ended in `<think>`, as chat templates of reasoning
            models do, so the completion begins inside.

    Returns:
        None when it began to think and was cut before it ended: whatever stands there, a box in
        the middle of a thought too, is no answer yet.
    """
    thought, closed, after = text.rpartition(END_OF_THINKING)
    if START_OF_THINKING in after or (prompt_opens_thinking and not closed):
        return None
    return after if closed else thought + after


class Scorer:
    """Grades the samples of one benchmark, leniently and strictly, in processes that can be killed.

    Lenient: any of `extract`'s rules may find the answer, but in a completion that was cut only
    those that need a mark of one. Strict: only the one that the prompt
    asked for, so the difference of the two is what a model loses by not keeping to the format.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        *,
        strict_rule: str | None,
        workers: int,
        timeout_seconds: float,
        max_failed_frac: float,
    ) -> None:
        """Starts the grading processes.

        Args:
            benchmark: names the graders.
            strict_rule: extraction rule of the format that the prompt asks for; None for none.
            workers: processes.
            timeout_seconds: limit of one call of a grader.
            max_failed_frac: share of all samples so far that may fail to be graded.

        Raises:
            WorkerStartError: a grader's name or options are wrong, or its import fails.
        """
        strict = None if strict_rule is None else benchmark.term(strict_rule)
        terms = [term for term in (benchmark.term(None), strict) if term is not None]
        self._benchmark = benchmark
        self._is_strict = strict is not None
        self._max_failed_frac = max_failed_frac
        self._num_graded = self._num_failed = 0
        self._pool = IsolatedPool(
            terms, workers=workers, timeout_seconds=timeout_seconds, memory_bytes=MEMORY_BYTES
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.close()

    def score(
        self, problem: Problem, drawn: Sequence[Drawn], *, prompt_opens_thinking: bool
    ) -> tuple[Sample, ...]:
        """The samples of one problem, graded, in the order given.

        Raises:
            GradingFailedError: the share that could not be graded is above `max_failed_frac`.
        """
        texts = [
            answer_text(one.text, prompt_opens_thinking=prompt_opens_thinking) for one in drawn
        ]
        outcomes = self._pool.outcomes([(text or "", problem) for text in texts])
        samples = tuple(
            self._sample(one, text, found)
            for one, text, found in zip(drawn, texts, outcomes, strict=True)
        )
        self._refuse_too_many_failures(samples)
        return samples

    def _sample(self, drawn: Drawn, text: str | None, outcomes: Sequence[Outcome]) -> Sample:
        lenient = outcomes[0]
        found = self._benchmark.answer(text or "")
        reason = _reason(lenient) if text is not None else "unfinished thinking"
        correct = _is_right(lenient)
        parse_error = isinstance(lenient, Reward) and lenient.status is Status.PARSE_ERROR
        if drawn.stop_reason == "length" and found.rule in _UNMARKED:
            # The last formula of a text that was cut is whatever it happened to be at.
            reason, parse_error = f"cut before it marked an answer ({found.rule})", False
            found = Extraction(None, "none")
            correct = None if correct is None else False
        return Sample(
            text=drawn.text,
            answer=found.answer,
            rule=found.rule,
            correct=correct,
            strict=_is_right(outcomes[1]) if self._is_strict else None,
            reason=reason,
            parse_error=parse_error,
            num_tokens=drawn.num_tokens,
            stop_reason=drawn.stop_reason,
            unfinished_thinking=text is None,
        )

    def _refuse_too_many_failures(self, samples: Sequence[Sample]) -> None:
        failed = [sample for sample in samples if sample.correct is None]
        self._num_graded += len(samples)
        self._num_failed += len(failed)
        # One failure among the first few samples is no share of anything yet.
        if failed and self._num_failed > max(5, self._max_failed_frac * self._num_graded):
            raise GradingFailedError(
                f"{self._benchmark.name}: {self._num_failed} of {self._num_graded} samples could "
                f"not be graded; {self._max_failed_frac:.0%} may. The last reason: "
                f"{failed[-1].reason}"
            )


def _is_right(outcome: Outcome) -> bool | None:
    """A reward of 1 or more is a right answer, as in training; None: it could not be graded."""
    return outcome.value >= 1 if isinstance(outcome, Reward) else None


def _reason(outcome: Outcome) -> str:
    if isinstance(outcome, Ungraded):
        return f"{outcome.failure}: {outcome.reason}"
    return outcome.reason if outcome is not None else "the grader does not apply"

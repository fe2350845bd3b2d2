"""Completions as strategies see them: what they answer and whether a rule refutes them.

Everything here starts from a `Question`, which has no reference, so nothing here can leak one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Self

from cotree.grpo.evaluation.definition import Benchmark
from cotree.grpo.evaluation.records import Drawn, Sample
from cotree.grpo.evaluation.scoring import MEMORY_BYTES, GradingFailedError, answer_text
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.types import Problem, Reward, StepScore, Ungraded, Verdict
from cotree.search.strategy import Candidate, Question


class StepJudge:
    """Which completions of a benchmark have a step that its `step_reward` refutes.

    A completion that could not be judged counts as not refuted, and is counted. The rules run in
    processes that can be killed: those of this project are bounded, but any package's benchmark
    may name any function.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        *,
        workers: int,
        timeout_seconds: float,
        max_failed_frac: float,
    ) -> None:
        """Starts the processes.

        Args:
            benchmark: with a `step_reward`.
            workers: processes.
            timeout_seconds: limit of one judgement.
            max_failed_frac: share of all completions so far that may fail to be judged; 1: any.

        Raises:
            WorkerStartError: the step reward's name is wrong, or its import fails.
        """
        assert benchmark.step_reward is not None, benchmark.name
        self.reward = benchmark.step_reward
        self.num_judged = self.num_failed = 0
        self._benchmark = benchmark
        self._max_failed_frac = max_failed_frac
        self._pool = IsolatedPool(
            [Term(self.reward)],
            workers=workers,
            timeout_seconds=timeout_seconds,
            memory_bytes=MEMORY_BYTES,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the processes, and says how many completions could not be judged."""
        self._pool.close()
        if self.num_failed:
            sys.stderr.write(
                f"{self._benchmark.name}: {self.num_failed} of {self.num_judged} completions could "
                f"not be judged by {self.reward}, and counted as not refuted\n"
            )

    def refuted(self, question: Question, texts: Sequence[str]) -> list[bool]:
        """Whether a step of each of these completions is refuted, in the order given.

        Raises:
            GradingFailedError: the share that could not be judged is above `max_failed_frac`.
        """
        return [
            any(step.verdict is Verdict.REFUTED for step in steps)
            for steps in self.steps([(question, text) for text in texts])
        ]

    def steps(self, completions: Sequence[tuple[Question, str]]) -> list[tuple[StepScore, ...]]:
        """The scored steps of each completion, in the order given; none where judging failed.

        Raises:
            GradingFailedError: as for `refuted`.
        """
        items = [(text, self._posed(question)) for question, text in completions]
        outcomes = [found for (found,) in self._pool.outcomes(items)]
        failed = [found for found in outcomes if isinstance(found, Ungraded)]
        self.num_judged += len(outcomes)
        self.num_failed += len(failed)
        # One failure among the first few completions is no share of anything yet.
        if failed and self.num_failed > max(5, self._max_failed_frac * self.num_judged):
            raise GradingFailedError(
                f"{self._benchmark.name}: {self.num_failed} of {self.num_judged} completions could "
                f"not be judged by {self.reward}; {self._max_failed_frac:.0%} may. The last "
                f"reason: {failed[-1].failure}: {failed[-1].reason}"
            )
        return [found.steps if isinstance(found, Reward) else () for found in outcomes]

    def _posed(self, question: Question) -> Problem:
        """The question as a step reward sees it: there is no reference."""
        return Problem(
            id=question.id,
            prompt=question.text,
            reference="",
            task=self._benchmark.name,
            question=question.text,
            columns=self._benchmark.question_columns(question.text),
        )


def drawn_candidates(
    drawn: Sequence[Drawn],
    question: Question,
    benchmark: Benchmark,
    judge: StepJudge | None,
    *,
    prompt_opens_thinking: bool,
) -> list[Candidate]:
    """Fresh completions of one problem as candidates, in the order given.

    Args:
        drawn: ungraded.
        question: of the problem.
        benchmark: extracts the answers.
        judge: of the same benchmark; None: nothing is refuted.
        prompt_opens_thinking: see `answer_text`.

    Raises:
        GradingFailedError: see `StepJudge.refuted`.
    """
    texts = [answer_text(one.text, prompt_opens_thinking=prompt_opens_thinking) for one in drawn]
    answers = [benchmark.answer(text or "").answer for text in texts]
    return _candidates(drawn, answers, question, judge)


def recorded_candidates(
    samples: Sequence[Sample], question: Question, judge: StepJudge | None
) -> list[Candidate]:
    """Recorded samples of one problem as candidates, their verdicts left behind.

    Args:
        samples: of a problem.
        question: of the same problem.
        judge: of its benchmark; None: nothing is refuted.

    Raises:
        GradingFailedError: see `StepJudge.refuted`.
    """
    return _candidates(samples, [sample.answer for sample in samples], question, judge)


def _candidates(
    completions: Sequence[Drawn] | Sequence[Sample],
    answers: Sequence[str | None],
    question: Question,
    judge: StepJudge | None,
) -> list[Candidate]:
    texts = [one.text for one in completions]
    refuted = judge.refuted(question, texts) if judge else [False] * len(texts)
    return [
        Candidate(
            one.text,
            answer,
            one.num_tokens,
            one.stop_reason == "stop",
            is_refuted,
            score=0.0 if is_refuted else 1.0,
        )
        for one, answer, is_refuted in zip(completions, answers, refuted, strict=True)
    ]

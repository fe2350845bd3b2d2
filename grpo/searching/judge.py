"""What can be said about a completion without its reference: rules, and a value model if any."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.candidates import StepJudge
from cotree.grpo.evaluation.definition import Benchmark
from cotree.grpo.evaluation.scoring import (
    MEMORY_BYTES,
    START_OF_THINKING,
    GradingFailedError,
    answer_text,
)
from cotree.rewards.extract import END_OF_THINKING
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term, located
from cotree.rewards.types import Problem, Reward, StepScore, Verdict
from cotree.search.strategy import Question
from cotree.search.types import Judgement, State


class BenchmarkJudge:
    """A `Judge` of one benchmark's completions. A context manager: it has processes to end.

    Its score is 0 where a rule refutes a step, and where a finished completion has no answer; else
    it is the value model's, or 1 without one.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        settings: Benchmarks,
        *,
        value: str | None,
        prompt_opens_thinking: bool,
    ) -> None:
        """Starts the processes.

        Args:
            benchmark: its `step_reward` judges steps; it extracts the answers.
            settings: processes, time limit and failures that are borne.
            value: a reward function whose value of a state, in [0, 1], is its score.
            prompt_opens_thinking: see `answer_text`.

        Raises:
            WorkerStartError: a function's name is wrong, or its import fails.
        """
        self._benchmark = benchmark
        self._opens = prompt_opens_thinking
        self._open = ExitStack()
        self.steps: StepJudge | None = None
        """Judges steps; None: no rule does."""
        if benchmark.step_reward is not None:
            self.steps = self._open.enter_context(
                StepJudge(
                    benchmark,
                    workers=settings.grading_workers,
                    timeout_seconds=settings.grading_timeout_seconds,
                    max_failed_frac=settings.max_failed_frac,
                )
            )
        self._value: IsolatedPool | None = None
        if value is not None:
            self._value = IsolatedPool(
                [located(Term(value), Path.cwd())],
                workers=settings.grading_workers,
                timeout_seconds=settings.grading_timeout_seconds,
                memory_bytes=MEMORY_BYTES,
            )
            self._open.callback(self._value.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def judge(self, states: Sequence[State]) -> list[Judgement]:
        """See `search.types.Judge`.

        Raises:
            GradingFailedError: too many states could not be judged, or the value model failed on
                one: without its score there is nothing to go by.
        """
        if not states:
            return []
        scored: list[tuple[StepScore, ...]] = [()] * len(states)
        if self.steps is not None:
            texts = [
                (state.question, judged_text(state, prompt_opens_thinking=self._opens))
                for state in states
            ]
            scored = self.steps.steps(texts)
        answers = [self._answer(state) for state in states]
        values = self._values(states)
        return [
            Judgement(steps, answer, _score(state, steps, answer, value))
            for state, steps, answer, value in zip(states, scored, answers, values, strict=True)
        ]

    def _answer(self, state: State) -> str | None:
        if not state.is_finished:
            return None
        text = answer_text(state.text, prompt_opens_thinking=self._opens)
        return self._benchmark.answer(text or "").answer

    def _values(self, states: Sequence[State]) -> list[float]:
        if self._value is None:
            return [1.0] * len(states)
        items = [(state.text, _posed(state.question, self._benchmark)) for state in states]
        found: list[float] = []
        for (outcome,) in self._value.outcomes(items):
            if not isinstance(outcome, Reward) or not 0 <= outcome.value <= 1:
                said = f"{outcome.value:g}" if isinstance(outcome, Reward) else f"{outcome}"
                raise GradingFailedError(
                    f"the value function returned {said} for a state; it must return a number "
                    "from 0 to 1 for every text, unfinished ones too."
                )
            found.append(outcome.value)
        return found


def judged_text(state: State, *, prompt_opens_thinking: bool) -> str:
    """The part of a state's text that step rules can be asked about.

    Of an unfinished one: whole lines of its reasoning, closed as if it ended there. A rule that
    expects an answer would otherwise refute what is not written yet.
    """
    if state.is_finished:
        return state.text
    before, closing, _ = state.text.partition(END_OF_THINKING)
    if closing:
        return before + closing
    lines = state.text[: state.text.rfind("\n") + 1]
    is_thinking = prompt_opens_thinking or START_OF_THINKING in lines
    return lines + END_OF_THINKING if is_thinking else lines


def _score(state: State, steps: Sequence[StepScore], answer: str | None, value: float) -> float:
    if any(step.verdict is Verdict.REFUTED for step in steps):
        return 0.0
    return 0.0 if state.is_finished and answer is None else value


def _posed(question: Question, benchmark: Benchmark) -> Problem:
    return Problem(question.id, question.text, "", benchmark.name, question.text)

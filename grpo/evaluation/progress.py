"""How far an evaluation is, and how well the model does so far."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import fmean

from cotree.grpo.count_progress import CountProgress
from cotree.grpo.evaluation.records import ProblemRecord
from cotree.grpo.evaluation.summary import accuracy, graded_samples


class EvaluationProgress(CountProgress):
    """Counts finished problems of one benchmark.

    Short completions finish first, so the time to go is low at the beginning.
    """

    def __init__(
        self,
        name: str,
        *,
        total: int,
        done: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See `CountProgress`."""
        super().__init__(name, total=total, done=done, clock=clock)
        self._tokens = 0
        self._accuracies: list[float] = []

    def advance(self, record: ProblemRecord) -> None:
        """One more problem is finished."""
        self._tokens += sum(sample.num_tokens for sample in record.samples)
        if graded := graded_samples(record):
            self._accuracies.append(accuracy(graded))
        self.add(1, self.so_far())

    def so_far(self) -> str:
        """Accuracy of the problems finished in this start, and its speed."""
        speed = f"{self._tokens / self.seconds():,.0f} tokens/s"
        return f"{fmean(self._accuracies):.1%} right  {speed}" if self._accuracies else speed

"""How far an evaluation is: a bar on a terminal, lines with a time to go in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import fmean
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cotree.grpo.evaluation.records import ProblemRecord
from cotree.grpo.evaluation.summary import accuracy, graded_samples

LINE_SECONDS = 20.0
"""A log gets a line this often at most."""


class EvaluationProgress:
    """Counts finished problems of one benchmark. A context manager; it writes to stderr."""

    def __init__(
        self,
        name: str,
        *,
        total: int,
        done: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Starts the clock.

        Args:
            name: of the benchmark.
            total: problems.
            done: those that an earlier start finished; they do not count in the time to go.
            clock: seconds.
        """
        self._name, self._total, self._done, self._resumed = name, total, done, done
        self._clock = clock
        self._started = self._last_line = clock()
        self._tokens = 0
        self._accuracies: list[float] = []
        self._bar: Progress | None = None
        console = Console(stderr=True)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.fields[name]}", markup=False),
                MofNCompleteColumn(),
                BarColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.description}", markup=False),
                console=console,
            )
            self._bar.add_task("", name=name, total=total, completed=done)

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def advance(self, record: ProblemRecord) -> None:
        """One more problem is finished."""
        self._done += 1
        self._tokens += sum(sample.num_tokens for sample in record.samples)
        if graded := graded_samples(record):
            self._accuracies.append(accuracy(graded))
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=1, description=self.so_far())
        elif self._clock() - self._last_line >= LINE_SECONDS or self._done == self._total:
            self._last_line = self._clock()
            left = duration(self.seconds_left())
            sys.stderr.write(
                f"{self._name} {self._done}/{self._total}  {self.so_far()}  {left} to go\n"
            )
            sys.stderr.flush()

    def seconds_left(self) -> float:
        """At the speed so far. Short completions finish first, so it is low at the beginning."""
        fresh = self._done - self._resumed
        return (self._clock() - self._started) / max(1, fresh) * (self._total - self._done)

    def so_far(self) -> str:
        """Accuracy of the problems finished in this start, and its speed."""
        seconds = max(1e-9, self._clock() - self._started)
        speed = f"{self._tokens / seconds:,.0f} tokens/s"
        return f"{fmean(self._accuracies):.1%} right  {speed}" if self._accuracies else speed


def duration(seconds: float) -> str:
    """`45 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

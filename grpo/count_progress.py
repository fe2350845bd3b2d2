"""How far long work is: a bar on a terminal, lines with a time to go in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 20.0
"""A log gets a line this often at most."""


class CountProgress:
    """Counts finished pieces of work. A context manager; it writes to stderr."""

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
            name: of the work.
            total: its pieces.
            done: those that an earlier start finished; they do not count in the time to go.
            clock: seconds.
        """
        self._name, self._total, self._done, self._resumed = name, total, done, done
        self._clock = clock
        self._started = self._last_line = clock()
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

    def add(self, count: int, so_far: str) -> None:
        """So many more pieces are finished; `so_far` is shown beside their number."""
        self._done += count
        if self._bar:
            self._bar.update(self._bar.task_ids[0], advance=count, description=so_far)
        elif self._clock() - self._last_line >= LINE_SECONDS or self._done == self._total:
            self._last_line = self._clock()
            left = duration(self.seconds_left())
            sys.stderr.write(f"{self._name} {self._done}/{self._total}  {so_far}  {left} to go\n")
            sys.stderr.flush()

    def seconds(self) -> float:
        """Since the start, more than 0."""
        return max(1e-9, self._clock() - self._started)

    def seconds_left(self) -> float:
        """At the speed so far."""
        fresh = self._done - self._resumed
        return (self._clock() - self._started) / max(1, fresh) * (self._total - self._done)


def duration(seconds: float) -> str:
    """`45 s`, `3 min 05 s` or `2 h 07 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"

"""Wall-clock time by phase of a step: where a step's seconds went."""

import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager


class Phases:
    """Accumulates seconds by name; `take` hands them over and starts again at zero."""

    def __init__(self) -> None:
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Generator[None]:
        """Adds the time spent inside to `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """`seconds/<name>` since the last call."""
        taken = {f"seconds/{name}": seconds for name, seconds in self._seconds.items()}
        self._seconds.clear()
        return taken

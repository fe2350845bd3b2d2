"""CPU seconds of a call: what it costs itself, whatever runs beside it or ran before it."""

import gc
import time
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object]) -> float:
    """The least CPU time that `call` takes in three tries, in seconds.

    A collection of what all earlier tests left behind takes half a second, so none runs meanwhile;
    a busy machine adds to a call's CPU time (cold caches), so the least of three is taken.
    """
    gc.disable()
    try:
        return min(_once(call) for _ in range(3))
    finally:
        gc.enable()


def _once(call: Callable[[], object]) -> float:
    started = time.thread_time()
    call()
    return time.thread_time() - started

"""The child process of `isolation`: resolves the reward functions once, then grades items.

It speaks pickled messages over one connection and drops what reward functions print, so that
nothing they write can be mistaken for a result.
"""

import os
import resource
import select
import signal
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

from cotree.rewards.combine import combine
from cotree.rewards.registry import Term, check_signature, resolve
from cotree.rewards.types import Failure, Problem, Reward, RewardFn, Ungraded

Item = tuple[str, Problem]
"""A completion's text and the problem it answers."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child needs to start; the first message it receives."""

    terms: tuple[Term, ...]
    timeout_seconds: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Started:
    """The child's first answer: empty when it is ready, else why it cannot grade."""

    error: str


def main(descriptor: int) -> None:
    """Serves one connection until the parent closes it."""
    connection = Connection(descriptor)
    threading.Thread(target=_die_with_parent, args=(descriptor,), daemon=True).start()
    setup: Setup = connection.recv()
    # Limits come first: importing a reward is part of what they bound.
    resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        functions = resolved(setup.terms)
    except BaseException as error:  # process boundary: the parent raises it
        connection.send(Started(f"{type(error).__name__}: {error}"))
        return
    _drop_output()
    connection.send(Started(""))
    while True:
        try:
            items: Sequence[Item] = connection.recv()
        except EOFError:
            return
        for completion, problem in items:
            _limit_cpu(setup.timeout_seconds)
            try:
                result = graded(functions, completion, problem)
            except MemoryError:
                # What filled the memory may stay: only a new process is surely clean.
                reason = f"MemoryError: grading.memory_bytes = {setup.memory_bytes} is used up"
                connection.send(Ungraded(Failure.CRASH, reason))
                return
            connection.send(result)


def resolved(terms: Sequence[Term]) -> list[tuple[Term, RewardFn]]:
    """Every term with its function, the options checked against the signature.

    Raises:
        RewardLookupError: a name or an option is wrong.
    """
    functions = [(term, resolve(term.name)) for term in terms]
    for term, fn in functions:
        check_signature(fn, term.options)
    return functions


def graded(
    functions: Sequence[tuple[Term, RewardFn]], completion: str, problem: Problem
) -> Reward | Ungraded:
    """The combined reward of one completion; an exception becomes `Ungraded`, never a zero.

    Raises:
        MemoryError: the one exception after which the process should not go on.
    """
    try:
        return combine(
            [
                (term.name, term.weight, fn(completion, problem, **term.options))
                for term, fn in functions
            ]
        )
    except MemoryError:
        raise
    except BaseException as error:  # process boundary: reported, not swallowed
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"in {last.name} at {last.filename}:{last.lineno}"
        return Ungraded(Failure.CRASH, f"{type(error).__name__}: {error} {place}")


def _drop_output() -> None:
    """Sends later prints nowhere; until here they belong in the message of a failed start."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _limit_cpu(timeout_seconds: float) -> None:
    """Lets the kernel end the process if it computes on although nobody waits any more."""
    seconds = int(time.process_time() + timeout_seconds) + 2
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))


def _die_with_parent(descriptor: int) -> None:
    """Ends this process group when the parent's end of the connection closes.

    PR_SET_PDEATHSIG would fire when the *thread* that started the child ends, so it is no use to
    a pool that any thread may call. `_limit_cpu` covers code that never releases the GIL.
    """
    poller = select.poll()
    poller.register(descriptor, 0)  # 0: hang-up and errors only, not incoming messages
    poller.poll()
    os.killpg(0, signal.SIGKILL)

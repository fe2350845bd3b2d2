"""The child process of `isolation`: resolves the reward functions once, then makes calls.

It speaks pickled messages over one connection and drops what reward functions print, so that
nothing they write can be mistaken for a result.
"""

import os
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from cotree.rewards.calls import Caller
from cotree.rewards.channel import Channel
from cotree.rewards.outcomes import Outcome, packed
from cotree.rewards.plan import Call, Form, form_of
from cotree.rewards.registry import Term, bound
from cotree.rewards.signature import Item
from cotree.rewards.types import Failure, Ungraded


@dataclass(frozen=True, slots=True)
class Setup:
    """What a child needs to start; the first message it receives."""

    terms: tuple[Term, ...]
    timeouts: tuple[float, ...]
    """Of one call of each term, in seconds."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Started:
    """The child's first answer: why it cannot grade, or the form of each function."""

    error: str = ""
    forms: tuple[Form, ...] = ()


Work = tuple[Sequence[Item], Sequence[Call], int]
"""What the parent sends, with the number of the first call. Each call is answered by its number
and its outcomes, or `None` in their place when the call failed as a whole and its items should be
tried one by one."""


def main(descriptor: int) -> None:
    """Serves one connection until the parent closes it."""
    os.set_inheritable(descriptor, False)  # programs that a function starts must not hold it open
    channel = Channel(socket.socket(fileno=descriptor))
    threading.Thread(target=_die_with_parent, args=(descriptor,), daemon=True).start()
    setup: Setup = channel.receive()
    # Limits come first: importing a reward is part of what they bound.
    resource.setrlimit(resource.RLIMIT_AS, (setup.memory_bytes, setup.memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        rewards = [bound(term) for term in setup.terms]
    except BaseException as error:  # process boundary: the parent raises it
        channel.send(Started(f"{type(error).__name__}: {error}"))
        return
    _drop_output()
    channel.send(Started(forms=tuple(form_of(reward) for reward in rewards)))
    # Memory that one call filled may stay filled: only a new process is surely clean.
    caller = Caller(rewards, fatal=(MemoryError,))
    while True:
        work: Work = channel.receive()
        _serve(channel, caller, setup, work)


def _serve(channel: Channel, caller: Caller, setup: Setup, work: Work) -> None:
    """Makes the calls in order and answers each; ends the process when it is no longer clean."""
    items, calls, first = work
    pid = os.getpid()
    for number, call in enumerate(calls, start=first):
        timeout_seconds = setup.timeouts[call.reward]
        _limit_cpu(timeout_seconds)
        clean = True
        outcomes: list[Outcome] | None
        try:
            outcomes = caller.outcomes(call, items, timeout_seconds=_told(call, setup))
        except MemoryError:
            reason = f"MemoryError: grading.memory_bytes = {setup.memory_bytes} is used up"
            outcomes = [Ungraded(Failure.CRASH, reason)] if len(call.items) == 1 else None
            clean = False
        if os.getpid() != pid:
            os._exit(0)  # a function forked and returned in both: only the original may answer
        sent = None if outcomes is None else [packed(found) for found in outcomes]
        channel.send((number, sent))
        if caller.has_leftovers or not clean:
            os._exit(0)  # not `return`: a plugin's threads or exit hooks could keep it alive


def _told(call: Call, setup: Setup) -> float | None:
    """The time limit that a call is told; a check is told the one of grading."""
    # Checks always run in a child; a term that runs inline has no limit when it grades.
    if call.is_check and setup.terms[call.reward].executor == "inline":
        return None
    return setup.timeouts[call.reward]


def _drop_output() -> None:
    """Sends later prints nowhere; until here they belong in the message of a failed start."""
    sys.stdout.flush()
    sys.stderr.flush()
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

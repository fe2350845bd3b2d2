"""One child process and the connection to it: start, calls under a time limit, kill."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from tempfile import TemporaryFile

from cotree.rewards.channel import Channel, ChannelClosedError, GarbledError
from cotree.rewards.outcomes import Outcome, short, unpacked
from cotree.rewards.plan import Call, Deliver, Form
from cotree.rewards.signature import Item
from cotree.rewards.types import Failure, Ungraded
from cotree.rewards.worker import Setup, Started

START_SECONDS = 120.0
"""How long importing the reward functions may take."""
GRACE_SECONDS = 1.0
"""An `async` call ends itself at its time limit; this much later the process is killed."""
SEND_SECONDS = 30.0
"""How long a child that is not computing may take to read what it is sent."""

_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",  # its threads reserve address space, which is limited
    "PYTHONHASHSEED": "0",  # sets of strings iterate in the same order in every child and run
}

# The child gets this process's import path before it imports anything of ours.
_BOOTSTRAP = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
    "from cotree.rewards.worker import main; main(int(sys.argv[1]))"
)


class WorkerStartError(RuntimeError):
    """A child could not start: a reward's name, options or imports are wrong."""


class Child:
    """A process that resolves reward functions and makes the calls it is told to make."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._lock = threading.Lock()
        """Held to start a process or to close for good: a closed child never starts another."""
        self._num_calls = 0
        self.forms: tuple[Form, ...] = ()

    def launch(self) -> None:
        """Starts the process and sends the setup; `await_ready` waits for its answer."""
        self._channel, theirs = Channel.pair()
        self._num_calls = 0
        self._start_output = TemporaryFile()  # noqa: SIM115 - `await_ready` closes it
        try:
            with self._lock:
                self._refuse_closed()
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), json.dumps(sys.path)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._start_output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # its own group, so that its children die with it
                    env=os.environ | _ENVIRONMENT,
                )
        finally:
            theirs.close()
        self._channel.send(self._setup, timeout_seconds=START_SECONDS)

    def await_ready(self) -> None:
        """Waits until the functions are resolved.

        Raises:
            WorkerStartError: they cannot be, or the child died or hung while importing them.
        """
        try:
            started: Started = self._channel.receive(timeout_seconds=START_SECONDS)
        except TimeoutError as error:
            self.kill()
            raise WorkerStartError(
                f"importing the reward functions took more than {START_SECONDS:g} s; "
                "move the work out of the module's top level."
            ) from error
        except ChannelClosedError as error:
            status = self.kill()
            self._start_output.seek(0)
            printed = self._start_output.read()[-2000:].decode(errors="replace")
            raise WorkerStartError(
                f"the grading process died while importing the rewards ({status}); if it needs "
                f"more memory, raise grading.memory_bytes. It printed: {printed or 'nothing'}"
            ) from error
        finally:
            self._start_output.close()
        if started.error:
            self.kill()
            raise WorkerStartError(started.error)
        self.forms = started.forms

    def ensure_ready(self) -> bool:
        """Replaces a dead child; True when it is a new one.

        Raises:
            WorkerStartError: as `await_ready`.
            RuntimeError: it was closed.
        """
        self._refuse_closed()
        process = self._process
        if process is not None and process.poll() is None:
            return False
        self.kill()
        self.launch()
        self.await_ready()
        return True

    def make(
        self, calls: Sequence[Call], items: Sequence[Item], deliver: Deliver
    ) -> Ungraded | None:
        """Makes the calls in order; stops at the one that the child does not survive.

        Returns:
            Why it did not survive, or `None` when all calls were answered.
        """
        limit = 0.0
        # Counted over the life of the connection, so that no answer can be taken for a later one.
        first, self._num_calls = self._num_calls, self._num_calls + len(calls)
        try:
            self._channel.send((items, calls, first), timeout_seconds=SEND_SECONDS)
        except (TimeoutError, ChannelClosedError) as error:
            return _crashed(f"{self.kill()}, not reading any more: {error}")
        try:
            for number, call in enumerate(calls, start=first):
                limit = self._setup.timeouts[call.reward]
                grace = GRACE_SECONDS if self.forms[call.reward].is_async else 0.0
                received = self._channel.receive(timeout_seconds=limit + grace)
                deliver(call, _answer(received, number, call))
        except TimeoutError:
            # What a dead child started may hold the connection open.
            process = self._process
            died = process is not None and process.poll() is not None
            status = self.kill()
            return _crashed(status) if died else _timed_out(limit)
        except GarbledError as error:
            self.kill()
            return Ungraded(Failure.CRASH, f"the grading process sent no answer but {error}")
        except ChannelClosedError:
            status = self.kill()
            if status == f"killed by {signal.SIGXCPU.name}":
                return _timed_out(limit)
            return _crashed(status)
        except BaseException:
            self.kill()  # else the next call would read the answers to these
            raise
        return None

    def close(self) -> None:
        """Kills the process for good; a call in flight fails."""
        with self._lock:
            self._closed = True
        self.kill()

    def _refuse_closed(self) -> None:
        if self._closed:
            raise RuntimeError("the grading pool was closed while it was grading")

    def kill(self) -> str:
        """Kills what lives of the process group and says how the process ended."""
        # Taken first: another thread may close the pool while this one is grading.
        process, self._process = self._process, None
        if process is None:
            return "not running"
        if process.returncode is None:
            # Also when the process is dying by itself: its status is fixed by then, and it may
            # have left children of its own.
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        self._channel.close()
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit code {status}"


def _answer(received: object, number: int, call: Call) -> list[Outcome] | None:
    """The outcomes in the message that answers a call.

    Raises:
        GarbledError: it is another message. A function that writes to the connection's descriptor
            can send anything.
    """
    match received:
        case (int() as answered, None) if answered == number and len(call.items) > 1:
            return None
        case (int() as answered, list() as sent) if (answered, len(sent)) == (
            number,
            len(call.items),
        ):
            try:
                return [unpacked(found) for found in sent]
            except (TypeError, ValueError) as error:
                raise GarbledError(f"an outcome that is none ({error})") from error
        case _:
            raise GarbledError(f"{short(received)} to call {number}")


def _timed_out(timeout_seconds: float) -> Ungraded:
    return Ungraded(Failure.TIMEOUT, f"no reward within {timeout_seconds:g} s")


def _crashed(status: str) -> Ungraded:
    return Ungraded(Failure.CRASH, f"the grading process died: {status}")

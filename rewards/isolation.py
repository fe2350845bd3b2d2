"""Reward functions in child processes that can be killed: no completion can hang or crash a run.

Children are separate interpreters (not forks: a fork copies locks that other threads hold) with
limits on memory and CPU time. The parent enforces the wall-clock limit with SIGKILL, which works
from any thread and against code that never returns to Python, where SIGALRM does neither.

What this is not: a sandbox for hostile code. Reward functions are yours; completions are data.
"""

import json
import os
import queue
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import Pipe
from tempfile import TemporaryFile
from types import TracebackType

from cotree.rewards.registry import Term
from cotree.rewards.types import Failure, Reward, Ungraded
from cotree.rewards.worker import Item, Setup, Started

START_SECONDS = 120.0
"""How long importing the reward functions may take."""
CHUNK_ITEMS = 64
"""Items sent at once. Their results come back one by one, so the guilty one is always known."""

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


class IsolatedPool:
    """Child processes that grade completions under time and memory limits, from any thread."""

    def __init__(
        self,
        terms: Sequence[Term],
        *,
        workers: int,
        timeout_seconds: float,
        memory_bytes: int,
    ) -> None:
        """Starts the children and resolves the reward functions in each.

        Args:
            terms: the rewards whose weighted sum is computed.
            workers: child processes; each grades one completion at a time.
            timeout_seconds: wall-clock limit for all terms of one completion together.
            memory_bytes: address-space limit of one child.

        Raises:
            WorkerStartError: a term's name or options are wrong, or its import fails.
        """
        self._closed = False
        self._setup = Setup(tuple(terms), timeout_seconds, memory_bytes)
        self._children = [_Child() for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grading")
        try:
            # Launch all, then wait: they import side by side.
            for child in self._children:
                child.launch(self._setup)
            for child in self._children:
                child.await_ready()
                self._idle.put(child)
        except BaseException:
            self.close()
            raise

    def grade_many(self, items: Sequence[Item]) -> list[Reward | Ungraded]:
        """The reward of each (completion, problem), in the order given.

        An item that hangs, crashes its child or makes a function raise is `Ungraded`; the items
        around it are not affected.

        Raises:
            WorkerStartError: a killed child's replacement could not start.
        """
        share = -(-len(items) // max(1, len(self._children)))
        size = max(1, min(CHUNK_ITEMS, share))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        results = [result for part in self._threads.map(self._grade, chunks) for result in part]
        assert len(results) == len(items), (len(results), len(items))
        return results

    def close(self) -> None:
        """Kills the children. Calls in flight fail; the pool cannot be used afterwards."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        for child in self._children:
            child.kill()

    def __enter__(self) -> "IsolatedPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _grade(self, chunk: Sequence[Item]) -> list[Reward | Ungraded]:
        child = self._idle.get()
        try:
            return self._grade_in(child, chunk)
        finally:
            self._idle.put(child)

    def _grade_in(self, child: "_Child", chunk: Sequence[Item]) -> list[Reward | Ungraded]:
        """Grades the chunk, replacing the child after each item that it does not survive."""
        results: list[Reward | Ungraded] = []
        while len(results) < len(chunk):
            if self._closed:
                raise RuntimeError("the grading pool was closed while it was grading")
            fresh = child.ensure_ready(self._setup)
            before = len(results)
            failed = child.grade(chunk[before:], results, self._setup.timeout_seconds)
            if failed is None:
                break
            first = fresh and len(results) == before
            # The child may have died of what an earlier item left behind, so an item is blamed
            # for a crash only when it is the first in a new child. Else it gets one.
            if failed.failure is Failure.TIMEOUT or first:
                results.append(failed)
        return results


class _Child:
    """One child process and the connection to it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self, setup: Setup) -> None:
        """Starts the process and sends the setup; `await_ready` waits for its answer."""
        self._connection, theirs = Pipe()
        self._start_output = TemporaryFile()  # noqa: SIM115 - `await_ready` closes it
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOTSTRAP, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._start_output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own group, so that its children die with it
                env=os.environ | _ENVIRONMENT,
            )
        self._connection.send(setup)

    def await_ready(self) -> None:
        """Waits until the functions are resolved.

        Raises:
            WorkerStartError: they cannot be, or the child died or hung while importing them.
        """
        try:
            if not self._connection.poll(START_SECONDS):
                self.kill()
                raise WorkerStartError(
                    f"importing the reward functions took more than {START_SECONDS:g} s; "
                    "move the work out of the module's top level."
                )
            started: Started = self._connection.recv()
        except (EOFError, ConnectionError) as error:
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

    def ensure_ready(self, setup: Setup) -> bool:
        """Replaces a dead child; True when it is a new one."""
        if self._process is not None and self._process.poll() is None:
            return False
        self.kill()
        self.launch(setup)
        self.await_ready()
        return True

    def grade(
        self, items: Sequence[Item], results: list[Reward | Ungraded], timeout_seconds: float
    ) -> Ungraded | None:
        """Appends the results of `items`; stops at the item that the child does not survive.

        Returns:
            Why it did not survive, or `None` when all items have a result.
        """
        try:
            self._connection.send(items)
            for _ in items:
                if not self._connection.poll(timeout_seconds):
                    self.kill()
                    return _timed_out(timeout_seconds)
                results.append(self._connection.recv())
        except (EOFError, ConnectionError):
            status = self.kill()
            if status == f"killed by {signal.SIGXCPU.name}":
                return _timed_out(timeout_seconds)
            return Ungraded(Failure.CRASH, f"the grading process died: {status}")
        return None

    def kill(self) -> str:
        """Kills what lives of the process group and says how the process ended."""
        if self._process is None:
            return "never started"
        self._connection.close()
        if self._process.returncode is None:
            # Also when the process is dying by itself: its status is fixed by then, and it may
            # have left children of its own.
            os.killpg(self._process.pid, signal.SIGKILL)
        status = self._process.wait()
        self._process = None
        if status < 0:
            return f"killed by {signal.Signals(-status).name}"
        return f"exit code {status}"


def _timed_out(timeout_seconds: float) -> Ungraded:
    return Ungraded(Failure.TIMEOUT, f"no reward within {timeout_seconds:g} s")

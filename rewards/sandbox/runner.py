"""Runs one program on one input in a fresh sandboxed process, and kills whatever is left of it."""

import marshal
import os
import platform
import resource
import secrets
import select
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

from cotree.rewards.sandbox.interpreter import ENVIRONMENT, interpreter
from cotree.rewards.sandbox.layers import (
    Layer,
    bubblewrap_command,
    bubblewrap_filter,
    confinement,
    interpreter_command,
)
from cotree.rewards.types import GraderError

START_SECONDS = 30.0
"""How long the sandbox may take to start; longer is the machine's fault, not the program's."""
MAX_TASKS = 64
"""Threads of one program, counted every `_TICK_SECONDS`. The kernel's own limit does not hold for
root and counts all other processes of the user, so a busy machine would fail honest programs."""

OUTPUT_BYTES = 1 << 20
"""Standard output, standard error and returned value together."""

_TICK_SECONDS = 0.02
_TAIL_BYTES = 2000
_MAX_PROCESSES = 4096
_MAX_FILES = 64
_CHUNK = 1 << 16


class KilledBy(StrEnum):
    """The limit for which the parent killed a program."""

    TIME = "too slow"
    OUTPUT = "too much output"
    TASKS = "too many threads"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use."""

    timeout_seconds: float
    """Wall clock, from the moment the program itself starts."""
    memory_bytes: int
    """Address space of its only process."""
    output_bytes: int = OUTPUT_BYTES
    """Standard output, standard error and returned value together."""


@dataclass(frozen=True, slots=True)
class Call:
    """A function of the program (or `Class.method`) and its positional arguments."""

    function: str
    arguments: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Execution:
    """What a program left behind. All of it is the program's word, and none of it a verdict."""

    stdout: bytes
    stderr_tail: str
    returned: str | None
    """JSON text of the called function's value; `None` when it did not return."""
    exit: int | None
    """Exit code, negative for a signal, 128 + signal under bubblewrap; `None` when killed."""
    seconds: float
    killed_by: KilledBy | None


def run(
    code: str, *, stdin: str = "", call: Call | None = None, limits: Limits, layer: Layer
) -> Execution:
    """Runs `code` as a script that reads `stdin`, or calls one of its functions.

    Args:
        code: Python source text, trusted in nothing.
        stdin: what the script reads.
        call: run the code as a module and call this instead; ends with the call.
        limits: after which the process is killed.
        layer: what shuts it in.

    Raises:
        GraderError: the sandbox did not start, so nothing can be said about the program.
    """
    if platform.system() != "Linux":
        raise GraderError(f"code rewards need Linux, this is {platform.system()}; use a container")
    nonce = secrets.token_hex(16)
    request: dict[str, object] = {
        "code": code,
        "call": None if call is None else (call.function, list(call.arguments)),
        "nonce": nonce,
        "limits": _resource_limits(limits, layer),
        "confine": None,
    }
    try:
        if layer is Layer.LANDLOCK:
            request["confine"] = {"parent": os.getpid(), **confinement(interpreter())}
        with ExitStack() as stack:
            process, outputs = _start(stack, layer, marshal.dumps(request), stdin)
            watch = _Watch(process, outputs, nonce, limits, ends_with_call=call is not None)
            return watch.execution(layer)
    except OSError as error:
        raise GraderError(f"the {layer} sandbox could not run a program: {error}") from error


def _start(
    stack: ExitStack, layer: Layer, request: bytes, stdin: str
) -> tuple[subprocess.Popen[bytes], tuple[int, int, int]]:
    """The process, and where its standard output, standard error and reports can be read."""
    request_fd = stack.enter_context(_readable(request))
    stdin_fd = stack.enter_context(_readable(stdin.encode()))
    pipes = [stack.enter_context(_pipe()) for _ in range(3)]
    (_, stdout), (_, stderr), (_, report) = pipes
    inherited = [request_fd, report]
    python = interpreter()
    command = interpreter_command(python, _bootstrap(), request_fd, report)
    if layer is Layer.BUBBLEWRAP:
        filter_fd = stack.enter_context(_readable(bubblewrap_filter()))
        copy_fd = stack.enter_context(_readable(stdin.encode()))
        inherited += [filter_fd, copy_fd]
        prefix = bubblewrap_command(python, filter_fd=filter_fd, stdin_fd=copy_fd)
        command = [*prefix, *command]
    process = subprocess.Popen(
        command,
        stdin=stdin_fd,
        stdout=stdout,
        stderr=stderr,
        pass_fds=inherited,
        env=ENVIRONMENT,
        cwd="/",
        start_new_session=True,  # its own group, killed as a whole
    )
    stack.callback(_kill, process)
    for _, write in pipes:
        os.close(write)
    return process, (pipes[0][0], pipes[1][0], pipes[2][0])


class _Watch:
    """Reads what a process writes until it ends or exceeds a limit."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        outputs: tuple[int, int, int],
        nonce: str,
        limits: Limits,
        *,
        ends_with_call: bool,
    ) -> None:
        self._process = process
        self._outputs = outputs
        self._read = {descriptor: bytearray() for descriptor in outputs}
        self._nonce = nonce
        self._limits = limits
        self._ends_with_call = ends_with_call
        self._started: float | None = None

    def execution(self, layer: Layer) -> Execution:
        killed_by = self._until_over()
        if self._started is None:
            # Also when the program's memory limit is too small for the interpreter itself.
            status = _kill(self._process)
            raise GraderError(
                f"the {layer} sandbox did not start (exit {status}): {self._tail() or 'no message'}"
            )
        seconds = time.monotonic() - self._started
        ended = self._process.poll()
        returned = self._returned() if self._ends_with_call and killed_by is None else None
        stdout = bytes(self._read[self._outputs[0]])
        return Execution(stdout, self._tail(), returned, ended, seconds, killed_by)

    def _until_over(self) -> KilledBy | None:
        """Returns at the end of the program or of the call, or names the limit it exceeded."""
        poller = select.poll()
        for descriptor in self._outputs:
            poller.register(descriptor, select.POLLIN)
        end = os.pidfd_open(self._process.pid)
        try:
            poller.register(end, select.POLLIN)
            deadline = time.monotonic() + START_SECONDS
            ended, counted = False, time.monotonic()
            while not ended:
                events = poller.poll(_TICK_SECONDS * 1000)
                ended = any(descriptor == end for descriptor, _ in events)
                self._consume(poller, {descriptor for descriptor, _ in events} - {end})
                if self._started is None and self._is_ready():
                    self._started = time.monotonic()
                    deadline = self._started + self._limits.timeout_seconds
                if self._is_over_output():
                    return KilledBy.OUTPUT
                if self._ends_with_call and self._returned() is not None:
                    return None
                now = time.monotonic()
                if not ended and now > deadline:
                    return KilledBy.TIME
                if now > counted + _TICK_SECONDS:
                    if num_tasks(self._process.pid) > MAX_TASKS:
                        return KilledBy.TASKS
                    counted = now
            # What it wrote last is still in the pipes; what it left behind must not add to it.
            _kill_group(self._process)
            while (events := poller.poll(0)) and not self._is_over_output():
                if {descriptor for descriptor, _ in events} == {end}:
                    break
                self._consume(poller, {descriptor for descriptor, _ in events} - {end})
            self._started = self._started or (time.monotonic() if self._is_ready() else None)
            return KilledBy.OUTPUT if self._is_over_output() else None
        finally:
            os.close(end)

    def _consume(self, poller: select.poll, descriptors: set[int]) -> None:
        for descriptor in descriptors:
            chunk = os.read(descriptor, _CHUNK)
            if not chunk:
                poller.unregister(descriptor)
            self._read[descriptor] += chunk

    def _is_over_output(self) -> bool:
        return sum(map(len, self._read.values())) > self._limits.output_bytes

    def _is_ready(self) -> bool:
        return self._read[self._outputs[2]].startswith(f"{self._nonce} ready\n".encode())

    def _returned(self) -> str | None:
        """The value in the first complete line after `ready` that carries this run's nonce."""
        prefix = f"{self._nonce} returned ".encode()
        for line in bytes(self._read[self._outputs[2]]).split(b"\n")[1:-1]:
            if line.startswith(prefix):
                return line[len(prefix) :].decode(errors="replace")
        return None

    def _tail(self) -> str:
        return self._read[self._outputs[1]][-_TAIL_BYTES:].decode(errors="replace").strip()


def num_tasks(pid: int) -> int:
    """Threads of a process and its descendants; 0 when it has ended."""
    total, pending = 0, [pid]
    while pending and total <= MAX_TASKS:
        tasks = Path(f"/proc/{pending.pop()}/task")
        try:
            for task in tasks.iterdir():
                total += 1
                pending += map(int, (task / "children").read_text().split())
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
    return total


def _resource_limits(limits: Limits, layer: Layer) -> list[tuple[int, int]]:
    """The kernel's limits, (number, most) each, for the bootstrap to set on itself."""
    chosen = [
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_CPU, int(limits.timeout_seconds) + 2),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _MAX_FILES),
        (resource.RLIMIT_CORE, 0),
    ]
    if layer is Layer.LIMITS:  # the others refuse processes altogether
        chosen.append((resource.RLIMIT_NPROC, _MAX_PROCESSES))
    return chosen


@contextmanager
def _readable(content: bytes) -> Generator[int]:
    """A descriptor that can only read `content`, at any length and without a writer thread."""
    writable = os.memfd_create("cotree")
    try:
        with open(writable, "wb", closefd=False) as file:
            file.write(content)
        descriptor = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY)
    finally:
        os.close(writable)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _pipe() -> Generator[tuple[int, int]]:
    """A pipe; the read end is closed afterwards, the write end is the caller's to close."""
    read, write = os.pipe()
    try:
        yield read, write
    finally:
        os.close(read)


def _kill(process: subprocess.Popen[bytes]) -> int:
    """Kills what lives of the process group and waits for its leader."""
    _kill_group(process)
    return process.wait()


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    if process.returncode is None:  # not yet waited for, so the number is still its own
        os.killpg(process.pid, signal.SIGKILL)


@cache
def _bootstrap() -> str:
    return Path(__file__).with_name("bootstrap.py").read_text()

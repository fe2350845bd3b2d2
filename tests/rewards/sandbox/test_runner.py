"""Tests for rewards/sandbox/runner.py: limits, what is left behind, and failures that are ours."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cotree.rewards.sandbox.layers import Layer
from cotree.rewards.sandbox.runner import Call, KilledBy, Limits, num_tasks, run
from cotree.rewards.types import GraderError

LIMITS = Limits(timeout_seconds=5.0, memory_bytes=256 << 20, output_bytes=1 << 18)
SHORT = Limits(timeout_seconds=0.4, memory_bytes=256 << 20)


def test_a_script_reads_and_prints(layer: Layer):
    execution = run("print(int(input()) * 2)", stdin="21\n", limits=LIMITS, layer=layer)
    assert (execution.stdout, execution.exit, execution.killed_by) == (b"42\n", 0, None)


def test_long_input_and_output_pass_whole(layer: Layer):
    # Longer than a pipe holds (64 KiB), so a parent that wrote before it read would hang.
    limits = Limits(timeout_seconds=5.0, memory_bytes=256 << 20, output_bytes=2_000_000)
    execution = run("print(input()[::-1])", stdin="ab" * 500_000, limits=limits, layer=layer)
    assert execution.stdout == b"ba" * 500_000 + b"\n"


def test_a_call_returns_json(layer: Layer):
    call = Call("f", (2, [3, 4]))
    code = "def f(a, b): print('noise'); return {'sum': a + sum(b), 'pair': (a, b)}"
    execution = run(code, call=call, limits=LIMITS, layer=layer)
    assert execution.returned == '{"sum": 9, "pair": [2, [3, 4]]}'


def test_an_exception_is_told_with_its_traceback(layer: Layer):
    execution = run("1/0", limits=LIMITS, layer=layer)
    assert execution.exit == 1
    assert execution.stderr_tail.endswith("ZeroDivisionError: division by zero")
    assert 'File "solution.py", line 1' in execution.stderr_tail


@pytest.mark.parametrize(
    "code",
    [
        "while True: pass",
        "import time\nwhile True: time.sleep(60)",
        "import signal, time\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\ntime.sleep(60)",
        "import os, time\nos.closerange(0, 64)\ntime.sleep(60)",
        "import atexit, time\natexit.register(time.sleep, 60)",
        "import threading, time\nthreading.Thread(target=time.sleep, args=[60]).start()",
        "9**9**9",
        "class A:\n    def __del__(self, sleep=__import__('time').sleep): sleep(60)\na = A()",
    ],
    ids=["spin", "sleep", "ignores_signals", "closes_all", "atexit", "thread", "power", "del"],
)
def test_what_does_not_end_is_killed_in_time(code: str, layer: Layer):
    start = time.monotonic()
    execution = run(code, limits=SHORT, layer=layer)
    # `9**9**9` may fill the memory first.
    assert execution.killed_by is KilledBy.TIME or execution.exit not in (0, None)
    assert time.monotonic() - start < SHORT.timeout_seconds + 3.0


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1000)",
        "import sys\nwhile True: sys.stderr.write('x' * 1000)",
        "import os\nwhile True:\n    for n in range(1, 9):\n        try: os.write(n, b'x' * 1000)\n"
        "        except OSError: pass",
    ],
    ids=["stdout", "stderr", "every_descriptor"],
)
def test_floods_are_cut_off(code: str, layer: Layer):
    execution = run(code, limits=LIMITS, layer=layer)
    assert execution.killed_by is KilledBy.OUTPUT
    assert len(execution.stdout) <= LIMITS.output_bytes + (1 << 18)  # one more read of each pipe


@pytest.mark.parametrize(
    "code",
    ["bytearray(1 << 30)", "x = []\nwhile True: x.append(bytearray(1 << 20))", "'x' * (1 << 40)"],
)
def test_memory_is_bounded(code: str, layer: Layer):
    execution = run(code, limits=LIMITS, layer=layer)
    assert "MemoryError" in execution.stderr_tail
    assert execution.exit == 1


def test_limits_cannot_be_raised_again(layer: Layer):
    code = (
        "import resource as r\n"
        "for limit in (r.RLIMIT_AS, r.RLIMIT_CPU, r.RLIMIT_NOFILE, r.RLIMIT_FSIZE):\n"
        "    soft, hard = r.getrlimit(limit)\n"
        "    try: r.setrlimit(limit, (hard + 1, hard + 1))\n"
        "    except (OSError, ValueError): print(soft == hard)\n"
    )
    assert run(code, limits=LIMITS, layer=layer).stdout == b"True\n" * 4


def test_threads_are_bounded(layer: Layer):
    code = (
        "import threading, time\nthreading.stack_size(1 << 16)\n"
        "while True: threading.Thread(target=time.sleep, args=[60]).start()"
    )
    assert run(code, limits=LIMITS, layer=layer).killed_by is KilledBy.TASKS


def test_deep_recursion_ends_the_program_only(layer: Layer):
    # Through C (sorted's key) it runs out of stack, in Python alone out of memory or time.
    for body in ("sorted([1], key=lambda x: f())", "[f()]"):
        code = f"import sys\nsys.setrecursionlimit(10**9)\ndef f(): return {body}\nf()"
        execution = run(code, limits=SHORT, layer=layer)
        assert execution.killed_by is KilledBy.TIME or execution.exit not in (0, None)


@pytest.mark.parametrize("ending", ["os._exit(0)", "sys.exit(0)", "exit()", "raise SystemExit"])
def test_a_call_that_ends_early_returns_nothing(ending: str, layer: Layer):
    code = f"import os, sys\ndef f():\n    {ending}\n"
    for source in (code, f"{code}f()\n"):
        execution = run(source, call=Call("f", ()), limits=LIMITS, layer=layer)
        assert (execution.returned, execution.exit) == (None, 0)


def test_nothing_is_left_running(layer: Layer):
    # A mark in the command line would not survive exec, so the whole table of processes counts.
    before = _processes()
    run("import time\ntime.sleep(60)", limits=SHORT, layer=layer)
    deadline = time.monotonic() + 5.0
    while (left := _sandboxed(_processes() - before)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


def test_a_sandboxed_process_dies_with_the_grading_process(layer: Layer):
    program = (
        "from cotree.rewards.sandbox.runner import *\n"
        "limits = Limits(timeout_seconds=60.0, memory_bytes=256 << 20)\n"
        f"run('import time; time.sleep(60)', limits=limits, layer=Layer({str(layer)!r}))"
    )
    grading = subprocess.Popen([sys.executable, "-c", program])
    try:
        deadline = time.monotonic() + 20.0
        while not (left := _sandboxed(_descendants(grading.pid))) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert left, "the program never started"
        time.sleep(0.2)
        left = _descendants(grading.pid)
    finally:
        grading.kill()
        grading.wait()
    while (alive := _sandboxed(left)) and time.monotonic() < deadline + 5.0:
        time.sleep(0.02)
    assert not alive


def test_a_vanished_bubblewrap_is_no_verdict(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GraderError, match="apt install bubblewrap"):
        run("print(1)", limits=LIMITS, layer=Layer.BUBBLEWRAP)


@pytest.mark.parametrize("script", ["exit 1", "kill -9 $$", "echo no namespaces >&2; exit 1"])
def test_a_sandbox_that_fails_to_start_is_no_verdict(
    script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    broken = tmp_path / "bwrap"
    broken.write_text(f"#!/bin/sh\n{script}\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(GraderError, match="bubblewrap sandbox did not start") as error:
        run("print(1)", limits=LIMITS, layer=Layer.BUBBLEWRAP)
    assert "no namespaces" in str(error.value) or "echo" not in script


def test_it_runs_in_a_process_whose_own_memory_is_limited(layer: Layer):
    # As grading workers are: the smaller of the two limits holds.
    program = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "from cotree.rewards.sandbox.runner import *\n"
        "limits = Limits(timeout_seconds=5.0, memory_bytes=4 << 30)\n"
        "code = 'import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0])'\n"
        f"print(run(code, limits=limits, layer=Layer({str(layer)!r})).stdout.decode())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == str(1 << 30), done.stderr


def test_tasks_of_an_ended_process_are_none():
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert num_tasks(ended.pid) == 0
    assert num_tasks(os.getpid()) >= 1


COUNT_DESCRIPTORS = """
import os, sys
from cotree.rewards.sandbox.layers import Layer
from cotree.rewards.sandbox.runner import Limits, run

counts = []
for _ in range(4):
    run("print(1)", limits=Limits(5.0, 256 << 20), layer=Layer(sys.argv[1]))
    counts.append(len(os.listdir("/proc/self/fd")))
print(*counts)
"""


def test_descriptors_do_not_leak(layer: Layer):
    # In a process of its own: the threads of other tests open and close files meanwhile.
    command = [sys.executable, "-c", COUNT_DESCRIPTORS, layer.value]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(set(shown.split())) == 1, shown


def test_it_runs_in_many_threads_at_once(layer: Layer):
    def doubled(number: int) -> bytes:
        return run(f"print({number} * 2)", limits=LIMITS, layer=layer).stdout

    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(doubled, range(12)))
    assert found == [f"{2 * number}\n".encode() for number in range(12)]


def _processes() -> set[int]:
    return {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}


def _descendants(pid: int) -> set[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return set()
    found = {int(child) for child in children}
    return found.union(*map(_descendants, found))


def _sandboxed(pids: set[int]) -> set[int]:
    """Those that run our bootstrap and are not dead."""
    found: set[int] = set()
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if state not in "ZX" and b"The first code in the sandboxed process" in command:
            found.add(pid)
    return found


def test_the_signals_of_this_process_are_untouched(layer: Layer):
    before = signal.getsignal(signal.SIGTERM)
    run("import os; os.abort()", limits=LIMITS, layer=layer)
    assert signal.getsignal(signal.SIGTERM) is before

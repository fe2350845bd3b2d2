"""Tests for rewards/isolation.py, with reward functions that misbehave in every way."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cotree.rewards.isolation import CHUNK_ITEMS, IsolatedPool, WorkerStartError
from cotree.rewards.registry import RewardLookupError, Term
from cotree.rewards.types import Failure, Problem, Reward, Ungraded

PLUGIN = '''
import ctypes, os, signal, subprocess, sys, time
from cotree.rewards.types import GraderError, Reward

KEPT = []

def obey(completion, problem, *, where=""):
    """Does what the completion says; a number is its own reward."""
    name, _, argument = completion.partition(" ")
    return globals()[name](argument)

def number(argument): return float(argument)
def sleep(_): time.sleep(1e6)
def spin(_):
    while True: pass
def tower(_): return len(str(9 ** 9 ** 9))  # one C call that keeps the GIL
def exit(argument): os._exit(int(argument))
def leave(_): sys.exit(0)
def segfault(_): ctypes.string_at(0)
def eat(_): return len(bytearray(1 << 40))
def hoard(argument): KEPT.append(bytearray(int(argument))); return float(len(KEPT))
def fragile(_):
    if KEPT: os._exit(9)
    return 1.0
def spam(argument):
    for stream in (sys.stdout, sys.stderr):
        stream.write("Reward(1.0)\\n" * 100_000); stream.flush()
    os.write(1, b"x" * 1_000_000)
    return float(argument)
def throw(_): raise ValueError("no such rule")
def lost(_): raise GraderError("sandbox lost")
def recurse(_): return recurse(_)
def nothing(_): return None
def word(_): return "high"
def spawn(argument):
    child = subprocess.Popen(["sleep", "1000"])
    open(argument, "w").write(str(child.pid)); time.sleep(1e6)
def loaded(argument): return float(argument in sys.modules)
def pid(_): return float(os.getpid())
'''
PROBLEM = Problem("p", "", "1", "test")
TIMEOUT_SECONDS = 0.5


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "rude.py"
    path.write_text(PLUGIN)
    return f"{path}:obey"


def make_pool(plugin: str, *, workers: int = 1, memory_bytes: int = 512 << 20) -> IsolatedPool:
    return IsolatedPool(
        [Term(plugin)],
        workers=workers,
        timeout_seconds=TIMEOUT_SECONDS,
        memory_bytes=memory_bytes,
    )


@pytest.fixture
def pool(plugin: str) -> Iterator[IsolatedPool]:
    with make_pool(plugin) as running:
        yield running


def values(results: list[Reward | Ungraded]) -> list[float | str]:
    return [r.value if isinstance(r, Reward) else r.failure.value for r in results]


def grade(pool: IsolatedPool, *completions: str) -> list[Reward | Ungraded]:
    return pool.grade_many([(completion, PROBLEM) for completion in completions])


@pytest.mark.parametrize(
    ("order", "failure", "says"),
    [
        ("sleep", Failure.TIMEOUT, "no reward within 0.5 s"),
        ("spin", Failure.TIMEOUT, "no reward within 0.5 s"),
        ("tower", Failure.TIMEOUT, "no reward within 0.5 s"),
        ("exit 3", Failure.CRASH, "the grading process died: exit code 3"),
        ("exit 0", Failure.CRASH, "exit code 0"),
        ("segfault", Failure.CRASH, "killed by SIGSEGV"),
        ("leave", Failure.CRASH, "SystemExit: 0"),
        ("eat", Failure.CRASH, "MemoryError: grading.memory_bytes = 536870912 is used up"),
        ("throw", Failure.CRASH, "ValueError: no such rule in throw at"),
        ("lost", Failure.CRASH, "GraderError: sandbox lost in lost at"),
        ("recurse", Failure.CRASH, "RecursionError"),
        ("nothing", Failure.SKIPPED, "every function returned None"),
        ("word", Failure.INVALID, "it returned 'high'; a reward is a finite number"),
    ],
)
def test_only_the_guilty_item_is_ungraded(
    pool: IsolatedPool, order: str, failure: Failure, says: str
):
    results = grade(pool, "number 1", order, "number 2", "number 3")
    assert values(results) == [1.0, failure.value, 2.0, 3.0]
    guilty = results[1]
    assert isinstance(guilty, Ungraded)
    assert says in guilty.reason


def test_many_failures_in_one_call_each_keep_their_place(pool: IsolatedPool):
    orders = ["exit 1", "number 1", "sleep", "exit 1", "exit 1", "throw", "number 2", "eat"]
    expected = ["crash", 1.0, "timeout", "crash", "crash", "crash", 2.0, "crash"]
    assert values(grade(pool, *orders)) == expected


def test_what_functions_print_is_never_taken_for_a_result(pool: IsolatedPool):
    assert values(grade(pool, "spam 1", "number 2", "spam 3")) == [1.0, 2.0, 3.0]


def test_an_item_is_not_blamed_for_what_an_earlier_one_left_behind(pool: IsolatedPool):
    # `fragile` dies only in a process in which `hoard` ran; alone it is fine.
    assert values(grade(pool, "hoard 1", "fragile", "number 2")) == [1.0, 1.0, 2.0]
    # 300 MB are kept twice under a limit of 512 MiB: the second fails, and a new child follows.
    orders = ["hoard 300000000", "hoard 300000000", "number 4", "hoard 1"]
    assert values(grade(pool, *orders)) == [1.0, "crash", 4.0, 1.0]


def test_order_and_length_are_kept_over_chunks_and_workers(plugin: str):
    count = 3 * CHUNK_ITEMS + 7
    with make_pool(plugin, workers=2) as pool:
        assert values(grade(pool, *[f"number {i}" for i in range(count)])) == list(range(count))
        assert len(set(values(grade(pool, *["pid"] * count)))) == 2
        assert grade(pool) == []


def test_any_number_of_threads_may_call_at_once(plugin: str):
    results: dict[int, list[float | str]] = {}
    with make_pool(plugin, workers=2) as pool:

        def call(start: int) -> None:
            orders = [f"number {start + i}" for i in range(50)]
            orders[25] = "exit 1"
            results[start] = values(grade(pool, *orders))

        threads = [threading.Thread(target=call, args=(start,)) for start in (0, 100, 200, 300)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for start in (0, 100, 200, 300):
        expected = [float(start + i) for i in range(50)]
        assert results[start] == [*expected[:25], "crash", *expected[26:]]


def test_a_killed_item_takes_its_own_processes_along(pool: IsolatedPool, tmp_path: Path):
    assert values(grade(pool, f"spawn {tmp_path}/pid")) == ["timeout"]
    grandchild = int((tmp_path / "pid").read_text())
    assert_ends(grandchild)


def test_a_child_that_died_between_two_calls_is_replaced(pool: IsolatedPool):
    (pid,) = values(grade(pool, "pid"))
    os.kill(int(pid), signal.SIGKILL)
    assert values(grade(pool, "number 1")) == [1.0]


def test_children_import_no_engine(pool: IsolatedPool):
    orders = [f"loaded {name}" for name in ("torch", "ray", "vllm", "cotree.rewards.worker")]
    assert values(grade(pool, *orders)) == [0.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize(
    ("term", "says"),
    [
        (Term("answerx"), "did you mean 'answer'"),
        (Term("answer", options={"limit": 3}), "answer has no option 'limit'"),
    ],
)
def test_a_wrong_configuration_reaches_the_parent(term: Term, says: str):
    with pytest.raises(WorkerStartError, match=says):
        IsolatedPool([term], workers=2, timeout_seconds=1, memory_bytes=512 << 20)


def test_a_missing_file_is_told_before_any_child_starts():
    with pytest.raises(RewardLookupError, match=r"no reward file .*missing\.py"):
        make_pool("missing.py:f")


def test_a_child_that_dies_while_importing_says_what_it_printed(tmp_path: Path):
    path = tmp_path / "dies.py"
    path.write_text("import os; print('license expired', flush=True); os._exit(7)")
    with pytest.raises(WorkerStartError, match=r"exit code 7.*license expired"):
        IsolatedPool([Term(f"{path}:f")], workers=1, timeout_seconds=1, memory_bytes=512 << 20)


def test_terms_are_summed_with_options_and_weights(plugin: str):
    terms = [Term(plugin, weight=2.0, options={"where": "x"}), Term("answer", weight=1.0)]
    with IsolatedPool(terms, workers=1, timeout_seconds=1, memory_bytes=512 << 20) as pool:
        (result,) = grade(pool, "number 3")
    assert isinstance(result, Reward)
    assert result.value == 6.0  # 2 * 3 + 1 * 0: the answer finds none in "number 3"
    assert result.breakdown == {plugin: 3.0, "answer": 0.0}


def test_a_closed_pool_has_no_children_and_refuses_work(plugin: str):
    pool = make_pool(plugin)
    (pid,) = values(grade(pool, "pid"))
    pool.close()
    assert_ends(int(pid))
    with pytest.raises(RuntimeError, match="shutdown"):
        grade(pool, "number 1")


@pytest.mark.parametrize(
    ("order", "timeout_seconds"), [("pid", 600), ("sleep", 600), ("spin", 600), ("tower", 1)]
)
def test_children_die_with_a_parent_that_is_killed(plugin: str, order: str, timeout_seconds: int):
    # The parent has no chance to clean up: SIGKILL. Its child is idle, asleep or computing. Code
    # that keeps the GIL also blocks the thread that watches the parent; there the limit on CPU
    # time ends it, hence the short timeout.
    script = (
        "import sys; from cotree.rewards.isolation import IsolatedPool, Term\n"
        "from cotree.rewards.types import Problem\n"
        f"pool = IsolatedPool([Term({plugin!r})], workers=1, "
        f"timeout_seconds={timeout_seconds}, memory_bytes=512 << 20)\n"
        "problem = Problem('p', '', '1', 'test')\n"
        "print(int(pool.grade_many([('pid', problem)])[0].value), flush=True)\n"
        f"pool.grade_many([({order!r}, problem)]); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.2)  # long enough for the order to have begun
        assert psutil.pid_exists(child)
        parent.kill()
    assert_ends(child)


def test_plain_grading_costs_well_below_a_millisecond(record_property):
    with IsolatedPool(
        [Term("answer")], workers=1, timeout_seconds=5, memory_bytes=512 << 20
    ) as pool:
        items = [
            (f"<think>\n{'1+1 ' * 40}\n</think>\n\\boxed{{{i}}}", PROBLEM) for i in range(2000)
        ]
        pool.grade_many(items[:100])
        start = time.perf_counter()
        pool.grade_many(items)
        milliseconds = (time.perf_counter() - start) / len(items) * 1000
    record_property("milliseconds_per_item", milliseconds)
    # 0.06 ms on a quiet core; the bound only catches a process or an import per item.
    assert milliseconds < 5.0


def assert_ends(pid: int) -> None:
    """Waits until the process is gone; a zombie that nobody has reaped yet is gone too."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return
        except psutil.NoSuchProcess:
            return
        time.sleep(0.02)
    raise AssertionError(f"process {pid} is still alive")

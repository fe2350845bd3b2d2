"""Tests for rewards/isolation.py: plugins of every form, several terms, and rude ones."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cotree.rewards.combine import RewardFailedError
from cotree.rewards.isolation import CHUNK_ITEMS, IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.types import Failure, Problem, Reward, Ungraded

PLUGIN = """
import asyncio, ctypes, os, signal, sys, threading, time
import numpy
from cotree.rewards.types import checked_by

class Odd(BaseException): pass

def act(text):
    if text == "sleep": ctypes.CDLL(None).sleep(1000)
    if text == "exit": os._exit(3)
    if text == "odd": raise Odd("outside Exception")
    if text == "fork": os.fork()
    if text == "forked daemon" and os.fork() == 0: time.sleep(1000)
    if text == "orphan" and os.fork() == 0: os.setsid(); time.sleep(3); os._exit(0)
    if text == "orphan": os._exit(4)
    if text == "deaf":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGXCPU, signal.SIGALRM):
            signal.signal(number, signal.SIG_IGN)
        while True: pass
    if text == "alarm": signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(1000)
    if text == "fds": os.closerange(3, 100)
    if text == "shout":
        os.write(1, b"{}" * 100_000); print("Reward(1.0)" * 100_000); sys.stderr.write("x" * 1000)
    if text == "close out": sys.stdout.close()
    if text == "nan": return float("nan")
    if text == "numpy": return numpy.float32(2.0)
    if text == "huge": return 10 ** 5000
    if text == "long": return "x" * 10_000_000
    if text == "none": return None
    if text == "hog thread":
        threading.Thread(target=time.sleep, args=(1000,)).start(); return 1.0
    return float(text) if text.replace(".", "").isdigit() else 1.0

def one(completion): return act(completion)
def twice(completion): return 2.0
async def later(completion):
    if completion == "wait": await asyncio.sleep(1000)
    if completion == "stubborn":
        while True:
            try: await asyncio.sleep(1000)
            except asyncio.CancelledError: pass
    await asyncio.sleep(0)
    return act(completion)
def together(completions): return [act(text) for text in completions]
def column(completions, tests, *, scale): return [scale * sum(t) for t in tests]
async def pid(completion): return float(os.getpid())

def refuse(problem):
    if problem.reference == "hang": time.sleep(1000)
    if problem.reference == "die": os._exit(5)
    if problem.reference == "bug": raise KeyError("x")
    if not problem.reference.isdigit(): raise ValueError("the reference is no number")

@checked_by(refuse)
def checked(completion, problem): return 1.0
"""
PROBLEM = Problem("p", "", "1", "test")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "forms.py"
    path.write_text(PLUGIN)
    return str(path)


def make_pool(*terms: Term, workers: int = 1, timeout_seconds: float = 0.3) -> IsolatedPool:
    return IsolatedPool(
        terms, workers=workers, timeout_seconds=timeout_seconds, memory_bytes=1 << 30
    )


@pytest.fixture(scope="module", params=["one", "later", "together"])
def pool(request: pytest.FixtureRequest, file: str) -> Iterator[IsolatedPool]:
    with make_pool(Term(f"{file}:{request.param}")) as running:
        yield running


def values(results: list[Reward | Ungraded]) -> list[float | str]:
    return [r.value if isinstance(r, Reward) else r.failure.value for r in results]


def grade(pool: IsolatedPool, *completions: str) -> list[float | str]:
    return values(pool.grade_many([(completion, PROBLEM) for completion in completions]))


ACTS = {
    "sleep": "timeout",
    "deaf": "timeout",
    "exit": "crash",
    "odd": "crash",
    "alarm": "crash",
    "fds": "crash",
    "orphan": "crash",
    "nan": "invalid",
    "huge": "invalid",
    "long": "invalid",
    "none": "skipped",
    "fork": 1.0,
    "forked daemon": 1.0,
    "shout": 1.0,
    "close out": 1.0,
    "hog thread": 1.0,
    "numpy": 2.0,
}


@pytest.mark.parametrize("act", ACTS)
def test_a_rude_plugin_costs_its_own_item_alone(file: str, act: str):
    with make_pool(Term(f"{file}:one")) as pool:
        assert grade(pool, "5", act, "6", "7") == [5.0, ACTS[act], 6.0, 7.0]


def test_a_batch_or_coroutines_that_are_lost_are_graded_one_by_one(pool: IsolatedPool):
    for acts in (["5", "sleep", "6"], ["5", "alarm", "6", "numpy"], ["5", "fork", "orphan", "6"]):
        assert grade(pool, *acts) == [ACTS.get(act) or float(act) for act in acts]


def test_a_failing_item_never_shifts_the_rewards_after_it(pool: IsolatedPool):
    acts = ["1", "odd", "2", "nan", "3", "none", "exit", "4", "odd", "odd", "5"]
    shown = [1.0, "crash", 2.0, "invalid", 3.0, "skipped", "crash", 4.0, "crash", "crash", 5.0]
    assert grade(pool, *acts) == shown


def test_coroutines_that_never_end_are_given_up_without_the_others(file: str):
    with make_pool(Term(f"{file}:later")) as pool:
        started = time.monotonic()
        orders = ["1", "wait", "2", "stubborn", "wait", "3"]
        assert grade(pool, *orders) == [1.0, "timeout", 2.0, "timeout", "timeout", 3.0]
        assert time.monotonic() - started < 5  # three waits at once, not one after the other
        assert grade(pool, "4") == [4.0]


def test_a_hang_in_one_term_keeps_the_results_of_the_other(file: str):
    terms = [
        Term(f"{file}:twice"),
        Term(f"{file}:one", weight=0.5, on_error="value", error_value=-1.0),
    ]
    with make_pool(*terms) as pool:
        results = pool.grade_many([(text, PROBLEM) for text in ("1", "sleep", "exit", "3")])
        outcomes = pool.outcomes([("sleep", PROBLEM)])
    assert values(results) == [2.5, 1.5, 1.5, 3.5]  # 2 + 0.5 * value, -1 for a failure
    failed = [dict(r.failed) for r in results if isinstance(r, Reward)]
    name = terms[1].name
    assert failed == [{}, {name: Failure.TIMEOUT}, {name: Failure.CRASH}, {}]
    assert isinstance(outcomes[0][0], Reward)
    assert isinstance(outcomes[0][1], Ungraded)


def test_each_term_has_its_own_time_limit(file: str):
    terms = [Term(f"{file}:twice"), Term(f"{file}:one", timeout_seconds=0.2)]
    with make_pool(*terms, timeout_seconds=600) as pool:
        (result,) = pool.grade_many([("sleep", PROBLEM)])
    assert isinstance(result, Ungraded)
    assert result.term == terms[1].name
    assert "no reward within 0.2 s" in result.reason


def test_a_failure_can_stop_the_run(file: str):
    with (
        make_pool(Term(f"{file}:one", on_error="raise")) as pool,
        pytest.raises(RewardFailedError, match=r"one failed \(crash\): Odd: outside Exception"),
    ):
        grade(pool, "1", "odd")


def test_a_batch_gets_columns_as_lists_and_options_as_they_are(file: str):
    problems = [Problem("p", "", "", "", columns={"tests": [i, 1]}) for i in range(3)]
    with make_pool(Term(f"{file}:column", options={"scale": 0.5})) as pool:
        results = pool.grade_many([("x", problem) for problem in problems])
    assert values(results) == [0.5, 1.0, 1.5]


def test_batches_and_coroutines_are_spread_over_the_workers(file: str):
    with make_pool(Term(f"{file}:pid"), workers=2) as pool:
        results = grade(pool, *["x"] * (3 * CHUNK_ITEMS))
    assert len(results) == 3 * CHUNK_ITEMS
    assert len(set(results)) == 2


def test_references_are_checked_and_the_wrong_ones_named(file: str):
    references = ["1", "x", "2", "hang", "die", "3", "bug"]
    problems = [Problem(f"gold/{i}", "", text, "test") for i, text in enumerate(references)]
    with make_pool(Term("answer"), Term(f"{file}:checked"), workers=2) as pool:
        told = pool.check(problems)
        assert grade(pool, "1") == [1.0]
    assert [message.split(",")[0] for message in told] == ["gold/1", "gold/3", "gold/4", "gold/6"]
    for message, says in zip(
        told,
        (
            "reference 'x': {}: the reference is no number",
            "reference 'hang': {}: no reward within 0.3 s",
            "reference 'die': {}: the grading process died: exit code 5",
            "reference 'bug': {}: KeyError: 'x' in refuse",
        ),
        strict=True,
    ):
        assert says.format(f"{file}:checked") in message


def test_a_plugin_file_that_changes_or_vanishes_does_not_change_the_run(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("import os\ndef f(completion):\n    if completion: os._exit(1)\n    return 1")
    with make_pool(Term(f"{path}:f")) as pool:
        path.unlink()
        assert grade(pool, "", "die", "") == [1.0, "crash", 1.0]  # a new process, the old text


def test_the_parents_other_threads_keep_running_while_hostile_text_is_graded(file: str):
    gaps: list[float] = []
    stop = threading.Event()

    def beat() -> None:
        before = time.monotonic()
        while not stop.wait(0.01):
            now = time.monotonic()
            gaps.append(now - before)
            before = now

    heart = threading.Thread(target=beat)
    found: list[list[float | str]] = []
    with make_pool(Term(f"{file}:one"), workers=2, timeout_seconds=0.3) as pool:
        heart.start()
        orders = ["sleep", "1", "deaf", "exit", "2", "fork", "shout", "3"]
        callers = [
            threading.Thread(target=lambda: found.append(grade(pool, *orders))) for _ in range(4)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        stop.set()
        heart.join()
    assert found == [["timeout", 1.0, "timeout", "crash", 2.0, 1.0, 1.0, 3.0]] * 4
    assert len(gaps) > 20
    assert max(gaps) < 5.0  # a frozen process would give one gap as long as the whole test

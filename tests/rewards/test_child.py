"""Tests for rewards/child.py: nothing a child does passes for an answer that it is not."""

import os
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from cotree.rewards.child import Child
from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.types import Problem, Reward
from cotree.rewards.worker import Setup

PLUGIN = '''
import os, pickle, signal, stat, struct, time

def write(content):
    """Writes where the child answers, as a library does that mistakes a descriptor for its own."""
    os.write(next(fd for fd in range(3, 64) if os.path.exists(f"/proc/self/fd/{fd}")
                  and stat.S_ISSOCK(os.fstat(fd).st_mode)), content)

def send(message):
    body = pickle.dumps(message)
    write(struct.pack("!Q", len(body)) + body)

def act(completion):
    name, _, argument = completion.partition(" ")
    if name == "unreadable": write(struct.pack("!Q", 4) + b"\\x80\\x63ab")
    if name == "endless": write(struct.pack("!Q", 1 << 40))
    if name == "cut": write(struct.pack("!Q", 1000) + b"x")
    if name == "send": send(eval(argument))
    if name == "stop": os.kill(os.getpid(), signal.SIGSTOP)
    if name == "program": os.system("sleep 1000 &"); os._exit(3)
    if name == "slow": time.sleep(float(argument))
    return 1.0
'''
PROBLEM = Problem("p", "", "1", "test")


@pytest.fixture(scope="module")
def term(tmp_path_factory: pytest.TempPathFactory) -> Term:
    path = tmp_path_factory.mktemp("plugin") / "sender.py"
    path.write_text(PLUGIN)
    return Term(f"{path}:act")


@pytest.fixture
def pool(term: Term) -> Iterator[IsolatedPool]:
    with IsolatedPool([term], workers=1, timeout_seconds=1.0, memory_bytes=1 << 30) as running:
        yield running


def grade(pool: IsolatedPool, *completions: str) -> list[float | str]:
    results = pool.grade_many([(completion, PROBLEM) for completion in completions])
    return [r.value if isinstance(r, Reward) else r.reason for r in results]


@pytest.mark.parametrize(
    ("act", "says"),
    [
        ("unreadable", "sent no answer but 4 bytes that are no message: ValueError"),
        ("endless", "sent no answer but a message of 1099511627776 bytes was announced"),
        ("cut", "no reward within 1 s"),
        ("send 5", "sent no answer but 5 to call 0"),
        ("send (0, [])", r"sent no answer but (0, []) to call 0"),
        ("send (0, None)", r"sent no answer but (0, None) to call 0"),
        ("send (0, [7])", "sent no answer but an outcome that is none"),
        ("send (0, [(1.0, '', {}, (), 'bogus')])", "sent no answer but an outcome that is none"),
        ("send (1, [(9.0, '', {}, (), 'ok')])", "to call 0"),
        ("stop", "no reward within 1 s"),
        ("program", "the grading process died: exit code 3"),
    ],
)
def test_what_is_no_answer_fails_its_own_item_alone(pool: IsolatedPool, act: str, says: str):
    # Sent before the answer: the item's own failure, and nothing of it reaches a later call.
    (failed,) = grade(pool, act)
    assert re.search(re.escape(says), str(failed))
    assert grade(pool, "fine", act, "fine")[::2] == [1.0, 1.0]


def test_an_answer_too_many_is_never_that_to_the_next_call(pool: IsolatedPool):
    assert grade(pool, "send (0, [(9.0, '', {}, (), 'ok')])") == [9.0]
    assert grade(pool, "fine") == [1.0]


def test_a_closed_child_never_starts_a_process(term: Term):
    child = Child(Setup((term,), (1.0,), 1 << 30))
    child.close()
    before = set(psutil.Process().children())
    for start in (child.launch, child.ensure_ready):
        with pytest.raises(RuntimeError, match="was closed while it was grading"):
            start()
    assert set(psutil.Process().children()) == before


def test_closing_while_a_replacement_starts_leaves_no_process(tmp_path: Path):
    path = tmp_path / "slow_import.py"
    path.write_text("import os, time\ntime.sleep(0.3)\ndef act(completion):\n    os._exit(3)\n")
    before = set(psutil.Process().children())
    pool = IsolatedPool([Term(f"{path}:act")], workers=1, timeout_seconds=5.0, memory_bytes=1 << 30)
    errors: list[BaseException] = []

    def graded() -> None:
        try:
            grade(pool, *["die"] * 20)  # 0.3 s each, nearly all of it spent starting
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    thread = threading.Thread(target=graded)
    thread.start()
    time.sleep(0.5)
    pool.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert len(errors) == 1
    assert set(psutil.Process().children()) <= before


def test_a_fork_neither_grades_with_the_pool_nor_ends_its_children(pool: IsolatedPool):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            grade(pool, "fine")
        except RuntimeError as error:
            os.write(write, str(error).encode())
        finally:
            pool.close()
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(write)
    said = os.read(read, 1000).decode()
    os.close(read)
    assert f"make a pool in process {pid}" in said
    assert grade(pool, "slow 0.01") == [1.0]

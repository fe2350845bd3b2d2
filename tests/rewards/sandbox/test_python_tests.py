"""Tests for rewards/sandbox/python_tests.py: honest programs earn, and forged results do not."""

import json
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.sandbox.layers import Layer
from cotree.rewards.sandbox.probe import probe
from cotree.rewards.sandbox.python_tests import (
    CallTest,
    OutputTest,
    UnitTest,
    check_tests,
    fenced_python,
    graded,
    parse_tests,
    python_tests,
)
from cotree.rewards.sandbox.runner import Limits
from cotree.rewards.types import Failure, Problem, Reward, Status, Ungraded

LIMITS = Limits(timeout_seconds=5.0, memory_bytes=512 << 20)
SQUARE = [{"call": "square", "args": [42], "expected": 1764}]
DOUBLE = [{"input": "21\n", "output": "42\n"}, {"input": "-4\n", "output": "-8\n"}]

needs_sandbox = pytest.mark.skipif(
    probe().best is None, reason=f"no sandbox works here: {probe().refused}"
)


def fenced(code: str) -> str:
    return f"<think>hm</think>\nHere:\n```python\n{code}\n```\n"


def problem(tests: object) -> Problem:
    return Problem("p0", "prompt", "", "code", columns={"tests": tests})


def reward(code: str, tests: list[dict[str, object]], layer: Layer) -> Reward:
    unit_tests = parse_tests(tests)
    return graded(code, unit_tests, limits=LIMITS, layer=layer, form="all", tolerance=0.0)


HONEST: dict[str, tuple[str, UnitTest]] = {
    "input": ("print(int(input()) * 2)", OutputTest("21\n", "42")),
    "stdin": ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", OutputTest("1 2", "3")),
    "open_0": ("print(len(open(0).readlines()))", OutputTest("a\nb\n", "2")),
    "dev_stdin": ("print(len(open('/dev/stdin').readlines()))", OutputTest("a\nb\n", "2")),
    "dev_null": ("print(3, file=open('/dev/null', 'w'))\nprint(4)", OutputTest("", "4")),
    "main": (
        "def main(): print(input())\nif __name__ == '__main__': main()",
        OutputTest("x", "x"),
    ),
    "exit": ("print(1)\nexit()\nprint(2)", OutputTest("", "1")),
    "sys_exit": ("import sys\nprint(1)\nsys.exit(0)", OutputTest("", "1")),
    "recursion_in_a_thread": (
        "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 26)\n"
        "def depth(n): return 0 if n == 0 else 1 + depth(n - 1)\n"
        "t = threading.Thread(target=lambda: print(depth(10**5)))\nt.start()\nt.join()",
        OutputTest("", "100000"),
    ),
    "asyncio": (
        "import asyncio\nasync def f():\n    await asyncio.sleep(0.001)\n    return 7\n"
        "print(asyncio.run(f()))",
        OutputTest("", "7"),
    ),
    "libraries": (
        "import bisect, collections, copy, dataclasses, datetime, decimal, enum, fractions\n"
        "import functools, hashlib, heapq, itertools, json, math, operator, queue, random, re\n"
        "import statistics, string, struct, time, typing, uuid, zlib, sqlite3, io, array, cmath\n"
        "print(hashlib.md5(b'x').hexdigest()[:4])",
        OutputTest("", "9dd4"),
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass(frozen=True, slots=True)\n"
        "class P:\n    x: int\nprint(P(3))",
        OutputTest("", "P(x=3)"),
    ),
    "unicode": ("print(input()[::-1])", OutputTest("añ日", "日ña")),
    "call": ("def f(a, b=1): return [a, b]", CallTest("f", (5, 6), [5, 6])),
    "tuple": ("def f(): return 1, (2.5, None, 'x')", CallTest("f", (), [1, [2.5, None, "x"]])),
    "prints_too": ("def f(): print('noise'); return 1", CallTest("f", (), 1)),
    "method": (
        "class Solution:\n    def add(self, a: int, b: int) -> int: return a + b",
        CallTest("Solution.add", (2, 3), 5),
    ),
    "main_is_not_run": (
        "def f(): return 2\nif __name__ == '__main__': print(f(int(input())))",
        CallTest("f", (), 2),
    ),
    "big_integer": ("def f(n): return 7 ** n", CallTest("f", (900,), 7**900)),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_earn_the_reward(name: str, layer: Layer):
    code, test = HONEST[name]
    result = graded(code, [test], limits=LIMITS, layer=layer, form="all", tolerance=0.0)
    assert result == Reward(1.0, "1 of 1 passed")


# Each would earn something from a grader that runs in the same process, reads an exit code, or
# believes a line that the program prints. 1764 is what `square(42)` must return.
FORGED = {
    "exit_0": "import os; os._exit(0)",
    "sys_exit_0": "import sys; sys.exit(0)",
    "raise_exit": "def square(x): raise SystemExit(0)",
    "always_equal": (
        "class Any:\n    def __eq__(self, other): return True\n"
        "    def __repr__(self): return '1764x'\n    __hash__ = None\n"
        "def square(x): return Any()"
    ),
    "always_equal_integer": (
        "class Any(int):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "def square(x): return Any(3)"
    ),
    "always_equal_list": (
        "class Any(list):\n    def __eq__(self, other): return True\n    __hash__ = None\n"
        "def square(x): return Any([3])"
    ),
    "builtins": (
        "import builtins, json, marshal, operator\n"
        "for module in (builtins, json, marshal, operator):\n"
        "    for name in ('all', 'any', 'isinstance', 'len', 'loads', 'eq', 'compile', 'exec'):\n"
        "        if hasattr(module, name): setattr(module, name, lambda *a, **k: True)\n"
        "def square(x): return True"
    ),
    "json": "import json\njson.dumps = lambda *a, **k: 'true'\ndef square(x): return 0",
    "json_nan": "def square(x): return float('nan')",
    "lines": (
        "import os\nfor fd in range(64):\n"
        "    for line in (b'passed\\n', b'{\"passed\": true, \"value\": 1.0}\\n', b'1 of 1\\n'):\n"
        "        try: os.write(fd, line)\n        except OSError: pass\n"
        "def square(x): return 0"
    ),
    "lines_with_the_nonce": (
        "import os, sys\nframe, known = sys._getframe(), {}\n"
        "while frame: known.update(frame.f_locals); frame = frame.f_back\n"
        "for word in ('true', '1.0', '\"passed\"', '{\"passed\": 1}', '*', 'NaN'):\n"
        "    os.write(known['report_fd'], f\"{known['nonce']} returned {word}\\n\".encode())\n"
        "    os.write(known['report_fd'], f\"{known['nonce']} ready\\n\".encode())\n"
        "def square(x): return 0"
    ),
    "closed_descriptors": "import os\nos.closerange(0, 64)\ndef square(x): return x * x",
    "atexit": "import atexit\natexit.register(print, 'passed')\nraise SystemExit(0)",
    "hooks": (
        "import sys\nsys.excepthook = lambda *a: None\nsys.settrace(lambda *a: None)\n"
        "sys.modules.clear()\n1/0"
    ),
    "huge_integer": "def square(x): return 10 ** 100_000",
    "nested": (
        "def square(x):\n    out = []\n    for _ in range(10**6): out = [out]\n    return out"
    ),
    "cycle": "def square(x):\n    out = []\n    out.append(out)\n    return out",
    "a_string": "def square(x): return '1764'",
    "none": "def square(x): pass",
    "nothing": "",
    "no_function": "print(1764)",
    "not_a_function": "square = 1764",
    "syntax": "def square(x: return x",
    "nul": "\0",
    "surrogate": "'\ud800'",
    "deep_source": "(" * 50_000,
    "kill_itself": "import ctypes\nctypes.string_at(0)",
    "cotree": "from cotree.rewards.types import Reward\ndef square(x): return Reward(1.0, '')",
}


@pytest.mark.parametrize("name", FORGED)
def test_forged_results_earn_nothing(name: str, layer: Layer):
    result = reward(FORGED[name], SQUARE, layer)
    assert result.value == 0.0
    assert result.reason.startswith("0 of 1 passed; test 0: ")


@pytest.mark.parametrize("name", ["exit_0", "sys_exit_0", "atexit", "hooks", "nothing", "cotree"])
def test_forged_scripts_earn_nothing(name: str, layer: Layer):
    assert reward(FORGED[name], DOUBLE, layer).value == 0.0


def test_a_right_output_does_not_make_up_for_a_failed_exit(layer: Layer):
    result = reward("print(int(input()) * 2)\nraise ValueError('late')", DOUBLE, layer)
    assert result.value == 0.0
    assert result.reason == "0 of 2 passed; test 0: exit 1 (ValueError: late)"


def test_a_run_leaves_nothing_for_the_next(layer: Layer):
    # Each test has a fresh process in which nothing can be written.
    code = (
        "import builtins, os\nseen = hasattr(builtins, 'seen')\nbuiltins.seen = True\n"
        "os.environ['seen'] = '1'\nprint(int(input()) * 2 if not seen else 'again')"
    )
    assert reward(code, DOUBLE, layer).value == 1.0


def test_the_share_counts_every_test_and_all_stops_at_the_first_failure(layer: Layer):
    tests = parse_tests([{"input": f"{n}", "output": f"{n % 2}"} for n in (1, 2, 3, 4)])
    run = {"limits": LIMITS, "layer": layer, "tolerance": 0.0}
    share = graded("print(1)", tests, form="share", **run)
    assert (share.value, share.reason) == (0.5, "2 of 4 passed; test 1: printed '1\\n'")
    assert graded("print(1)", tests, form="all", **run).reason == (
        "1 of 4 passed; test 1: printed '1\\n'"
    )


def test_the_time_is_that_of_all_tests_together(layer: Layer):
    tests = parse_tests([{"input": "", "output": "x"}] * 5)
    limits = Limits(timeout_seconds=1.1, memory_bytes=256 << 20)
    code = "import time\ntime.sleep(0.6)\nprint('x')"
    result = graded(code, tests, limits=limits, layer=layer, form="share", tolerance=0.0)
    assert result == Reward(0.2, "1 of 5 passed; test 1: killed after 1.1 s in all")


@pytest.mark.parametrize(
    ("completion", "code"),
    [
        ("```python\na\n```", "a"),
        ("```python\na\n```\n```py\nb\nc\n```", "b\nc"),
        ("```python\na\n```\n```\nb\n```\n```json\n{}\n```", "a"),
        ("```python\na\n```\n```python\ncut off", "a"),
        ("<think>```python\na\n```</think> none", None),
        ("<think>```python\na</think>\n```Python\nb\n```", "b"),
        ("```text\n```python\na\n```", None),
        ("  ```python \na\n  ``` ", "a"),
        ("```python a\n```", ""),
        ('```python title="a.py"\na\n```', "a"),
        ("``` Py\r\na\n```\r", "a"),
        ("```{.python}\na\n```", "a"),
        ("```pythonic\na\n```", None),
        ("~~~python\n```\na\n~~~", "```\na"),
        ("````python\n```\na\n```\n`````", "```\na\n```"),
        ("```python\na\n````python\nb\n```", "a\n````python\nb"),
        ("```python\na\n~~~\nb\n```", "a\n~~~\nb"),
        ("```x = 1``` is code\n```python\na\n```", "a"),
        ("1. So:\n   ```python\n   if a:\n     b\n c\n   ```", "if a:\n  b\nc"),
        ("\t```python\n\ta\n\t\tb\n\t```", "a\n\tb"),
        ("```python\n```", ""),
        ("print(1)", None),
        ("", None),
        ("```" * 10_000, None),
    ],
)
def test_the_program_is_the_last_closed_python_block_of_the_answer(
    completion: str, code: str | None
):
    assert fenced_python(completion) == code


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        (None, "at least one"),
        ([], "at least one"),
        ("", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ('"x"', "at least one"),
        ([1], "test 0 is 1"),
        ([{"input": "1"}], "test 0"),
        ([{"input": "1", "output": 2}], "test 0"),
        ([DOUBLE[0], {"input": "", "output": "x", "timeout": 3}], "test 1"),
        ([{"call": "f", "args": 1, "expected": 1}], "test 0"),
        ([{"call": "f(1)", "args": [], "expected": 1}], "calls 'f\\(1\\)'"),
        ([{"call": "a.b.c", "args": [], "expected": 1}], "calls"),
        ([{"call": "f", "args": [], "expected": float("nan")}], "no JSON"),
        ([{"call": "f", "args": [{1}], "expected": 1}], "no JSON"),
        ([{"input": "\ud800", "output": "x"}], "no valid text"),
        ([{"input": "1", "output": " \n"}], "an empty program passes"),
        ([{"call": "f", "args": [], "expected": None}], "an empty program passes"),
        ([{"call": "f", "args": [], "expected": {1: 2}}], "keys must be strings"),
        ([{"call": "f", "args": [], "expected": "x" * (1 << 20)}], "so none passes"),
        ([{"input": "", "output": "x\n" * (1 << 19)}], "so none passes"),
    ],
)
def test_bad_tests_are_refused_when_they_are_loaded(tests: object, message: str):
    with pytest.raises(ValueError, match=message):
        check_tests(problem(tests))


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'tests'; it has \\[\\]"):
        check_tests(Problem("p0", "", "", "code"))


def test_the_check_at_load_is_the_reward_s_own():
    assert python_tests.check_problem is check_tests
    check_tests(problem(json.dumps(SQUARE + DOUBLE)))


@pytest.mark.parametrize(
    ("num_tests", "options", "limit", "needed"),
    [
        (10, {}, 4.6, None),
        (10, {}, 4.4, 5),
        (150, {}, 5.0, 19),
        (150, {}, None, None),
        (10, {"timeout_seconds": 1.0}, 4.4, None),
        (10, {"timeout_seconds": 9}, 10.0, 11),
    ],
)
def test_a_time_limit_that_a_slow_program_could_use_up_is_refused(
    num_tests: int, options: dict[str, object], limit: float | None, needed: int | None
):
    # needed = the program's own 3 s, 0.1 s for each test and 0.5 s for the first, rounded up
    wanted = (
        nullcontext()
        if needed is None
        else pytest.raises(ValueError, match=f"masked instead of wrong.* to {needed}\\.")
    )
    with wanted:
        check_tests(problem(SQUARE * num_tests), options=options, timeout_seconds=limit)


@needs_sandbox
def test_the_pool_tells_the_check_its_time_limit():
    many = problem(SQUARE * 40)
    name = "cotree.rewards.sandbox.python_tests:python_tests"
    for term, refused in [
        (Term(name), 1),
        (Term(name, timeout_seconds=9.0), 0),
        (Term(name, options={"timeout_seconds": 0.4}), 0),
        (Term(name, executor="inline"), 0),  # nothing is masked for its time there
    ]:
        with IsolatedPool([term], workers=1, timeout_seconds=5.0, memory_bytes=2 << 30) as pool:
            assert len(pool.check([many])) == refused


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_seconds": 0.0},
        {"timeout_seconds": float("nan")},
        {"memory_bytes": 1},
        {"form": "most"},
        {"tolerance": 0.5},
        {"tolerance": float("nan")},
    ],
)
def test_unusable_options_are_refused(options: dict[str, object]):
    with pytest.raises(ValueError, match=next(iter(options))):
        python_tests("", problem(SQUARE), tests=SQUARE, **options)


@needs_sandbox
def test_no_program_is_no_answer_and_a_huge_one_is_not_run():
    result = python_tests("I cannot.", problem(SQUARE), tests=SQUARE)
    assert (result.value, result.status) == (0.0, Status.NO_ANSWER)
    result = python_tests(fenced("#" * 200_000), problem(SQUARE), tests=SQUARE)
    assert (result.value, result.status) == (0.0, Status.PARSE_ERROR)


@needs_sandbox
def test_the_smallest_memory_allowed_runs_a_program():
    code = fenced("def square(x): return x * x")
    result = python_tests(code, problem(SQUARE), tests=SQUARE, memory_bytes=64 << 20)
    assert result.value == 1.0


@needs_sandbox
def test_it_grades_in_the_killable_workers_as_an_installed_reward():
    term = Term(
        "cotree.rewards.sandbox.python_tests:python_tests", options={"timeout_seconds": 1.0}
    )
    programs: list[tuple[str, Callable[[Reward | Ungraded], bool]]] = [
        ("def square(x): return x * x", lambda graded: _value(graded) == 1.0),
        ("def square(x): return x + x", lambda graded: _value(graded) == 0.0),
        ("def square(x):\n    while True: pass", lambda graded: _value(graded) == 0.0),
        ("x = bytearray(1 << 40)", lambda graded: _value(graded) == 0.0),
    ]
    items = [(fenced(code), problem(SQUARE)) for code, _ in programs]
    items.append((fenced(programs[0][0]), problem([])))
    with IsolatedPool([term], workers=2, timeout_seconds=30.0, memory_bytes=2 << 30) as pool:
        *results, bad = pool.grade_many(items)
    for result, (code, is_right) in zip(results, programs, strict=True):
        assert is_right(result), (code, result)
    assert isinstance(bad, Ungraded)
    assert bad.failure is Failure.CRASH


def _value(graded: Reward | Ungraded) -> float | None:
    return graded.value if isinstance(graded, Reward) else None

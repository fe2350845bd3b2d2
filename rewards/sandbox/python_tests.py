"""Reward for generated Python: the share of unit tests it passes, run where it can do no harm.

The promise, under bubblewrap or Landlock (`layers`; chosen by running a program in each):

- no network: no socket but a pair with itself;
- no host files: only the interpreter's own can be read, none can be written or created (under
  Landlock a path's metadata and the names of installed packages can still be seen);
- one process, at most 64 threads, bounded address space, CPU time, wall-clock time and output;
- no signal, trace or memory access to any other process; nothing is left running;
- what is expected is never sent to the program, which gets one input in one fresh process; the
  comparison happens in this process, on bytes. A forged "passed" therefore means nothing.

It is not a defense against exploits of the kernel: for code from people who mean harm, use a
virtual machine. And a program that solves only the tests' inputs passes the tests: use many.
"""

import json
import marshal
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from cotree.rewards.extract import END_OF_THINKING
from cotree.rewards.sandbox.comparison import MAX_TOLERANCE, same_output, same_value
from cotree.rewards.sandbox.layers import Layer
from cotree.rewards.sandbox.probe import chosen_layer, probe
from cotree.rewards.sandbox.runner import OUTPUT_BYTES, Call, Execution, KilledBy, Limits, run
from cotree.rewards.types import Problem, Reward, Status, checked_by

Form = Literal["share", "all"]

COLUMN = "tests"
MAX_CODE_CHARS = 100_000
"""Longer programs are not run."""

_START_SECONDS = 0.1
"""Of the sandbox, for each test. On an idle machine it takes 0.03 s."""
_FIRST_SECONDS = 0.5
"""Once more, where a new process looks for a sandbox that works."""
_TIMEOUT_SECONDS = 3.0

# A line that can open or close a block: indentation, the mark, and what follows it.
_FENCE = re.compile(r"([ \t]*)(`{3,}|~{3,})[ \t]*(.*)", re.DOTALL)
# The first word of what follows; `{.python}` and `python title="a"` are seen too.
_LANGUAGE = re.compile(r"\{?\.?([\w.+#-]*)")
_PYTHON = frozenset({"python", "python3", "py", "py3"})
_PATH = re.compile(r"[A-Za-z_]\w{0,99}(?:\.[A-Za-z_]\w{0,99})?")


@dataclass(frozen=True, slots=True)
class OutputTest:
    """A script that reads `stdin` must print `stdout`."""

    stdin: str
    stdout: str


@dataclass(frozen=True, slots=True)
class CallTest:
    """`function(*arguments)` must return `expected`; `Class.method` is called on `Class()`."""

    function: str
    arguments: tuple[object, ...]
    expected: object


UnitTest = OutputTest | CallTest


def check_tests(
    problem: Problem,
    *,
    options: Mapping[str, object] | None = None,
    timeout_seconds: float | None = None,
) -> None:
    """Refuses a problem whose tests cannot be read, test nothing, or may not end in time.

    Where the reward's time limit can run out before the program's, a policy that expects to fail
    can make its program slow: it would be masked instead of wrong.

    Args:
        problem: its column `tests` is checked.
        options: of the reward.
        timeout_seconds: the time limit of the reward; `None` where there is none.

    Raises:
        ValueError: what is wrong with the tests.
    """
    if COLUMN not in problem.columns:
        raise ValueError(
            f"problem {problem.id} has no column {COLUMN!r}; it has {sorted(problem.columns)}. "
            'Give each row a list of {"input", "output"} or {"call", "args", "expected"}.'
        )
    tests = parse_tests(problem.columns[COLUMN])
    own = (options or {}).get("timeout_seconds", _TIMEOUT_SECONDS)
    if timeout_seconds is None or not isinstance(own, int | float):
        return
    needed = own + _START_SECONDS * len(tests) + _FIRST_SECONDS
    if needed > timeout_seconds:
        raise ValueError(
            f"{len(tests)} tests may take {needed:.1f} s ({own:g} s of the program's own and the "
            f"start of a sandbox for each), but the reward's time limit is {timeout_seconds:g} s, "
            "so a slow program would be masked instead of wrong. Set timeout_seconds of the "
            f"reward (not of its options) to {math.ceil(needed)}."
        )


@checked_by(check_tests)
def python_tests(
    completion: str,
    problem: Problem,  # noqa: ARG001 - the signature of a reward; the tests are its column
    *,
    tests: object,
    timeout_seconds: float = _TIMEOUT_SECONDS,
    memory_bytes: int = 512 << 20,
    form: Form = "all",
    tolerance: float = 0.0,
    allow_unsafe: bool = False,
) -> Reward:
    r"""Runs the last fenced Python block of the answer on every test.

    Args:
        completion: its last closed ```` ```python ```` block after `</think>` is the program; see
            `fenced_python`.
        problem: the task; only its column `tests` is used.
        tests: a list of `{"input": stdin, "output": stdout}` or `{"call": "f", "args": [...],
            "expected": value}`, or its JSON text.
        timeout_seconds: wall clock of all tests together, without the sandbox's own start (about
            30 ms a test). The time limit of the reward must be longer, see `check_tests`.
        memory_bytes: address space of the program.
        form: `all` gives 1 when every test passes and else 0, and stops at the first failure;
            `share` gives the share that passes, which a constant answer can earn a part of.
        tolerance: for floats, relative above 1 and absolute below; 0 is exact.
        allow_unsafe: run with resource limits only where no sandbox works.

    Returns:
        The value with the first failure as reason; `no_answer` without a program.

    Raises:
        ValueError: the tests or an option cannot be used.
        GraderError: no sandbox works, or it failed to start; never the program's doing.
    """
    unit_tests = parse_tests(tests)
    _check_options(timeout_seconds, memory_bytes, form, tolerance)
    code = fenced_python(completion)
    if code is None:
        return Reward(0.0, "no_answer", status=Status.NO_ANSWER)
    if len(code) > MAX_CODE_CHARS:
        reason = f"a program of {len(code)} characters; {MAX_CODE_CHARS} are allowed"
        return Reward(0.0, reason, status=Status.PARSE_ERROR)
    layer = chosen_layer(probe(), allow_unsafe=allow_unsafe)
    limits = Limits(timeout_seconds, memory_bytes)
    return graded(code, unit_tests, limits=limits, layer=layer, form=form, tolerance=tolerance)


def graded(
    code: str,
    unit_tests: Sequence[UnitTest],
    *,
    limits: Limits,
    layer: Layer,
    form: Form,
    tolerance: float,
) -> Reward:
    """The reward of a program.

    Args:
        code: the program.
        unit_tests: at least one.
        limits: the time is that of all tests together, the rest holds for each.
        layer: what shuts the program in.
        form: see `python_tests`.
        tolerance: see `python_tests`.

    Raises:
        GraderError: the sandbox did not start.
    """
    num_passed, first = 0, ""
    for index, failure in enumerate(_failures(code, unit_tests, limits, layer, tolerance)):
        if not failure:
            num_passed += 1
            continue
        first = first or f"; test {index}: {failure}"
        if form == "all":
            break
    value = num_passed / len(unit_tests) if form == "share" else float(not first)
    return Reward(value, f"{num_passed} of {len(unit_tests)} passed{first}")


def parse_tests(tests: object) -> tuple[UnitTest, ...]:
    """The tests of a column.

    Raises:
        ValueError: one is malformed; there is none; or a program that does nothing passes all.
    """
    if isinstance(tests, str):
        try:
            tests = json.loads(tests)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the tests are no JSON: {error}: {tests[:80]!r}") from error
    if not isinstance(tests, Sequence) or isinstance(tests, str | bytes) or not tests:
        raise ValueError(f"tests must be a list with at least one test, got {_short(tests)}")
    parsed = tuple(_parsed(test, index) for index, test in enumerate(tests))
    if all(_asks_nothing(test) for test in parsed):
        raise ValueError(
            "every test expects no output or None, so an empty program passes; add a test that "
            "expects something."
        )
    return parsed


def fenced_python(completion: str) -> str | None:
    """The last closed block of the answer that says it is Python, or `None`.

    Blocks as CommonMark has them: the closing mark is as long as the opening one or longer, and
    the code loses the indentation of the opening mark, as in a list. Blocks of other languages do
    not count, and neither does one that was cut off.

    Source: CommonMark 0.31.2, section 4.5 (fenced code blocks).
    """
    block: list[str] = []
    opening: re.Match[str] | None = None
    found: str | None = None
    for line in completion.rpartition(END_OF_THINKING)[2].split("\n"):
        fence = _FENCE.match(line)
        if opening is None:
            if fence is not None and not _is_inline(fence):
                opening, block = fence, []
        elif fence is not None and fence[2].startswith(opening[2]) and not fence[3].strip():
            found = "\n".join(block) if _is_python(opening[3]) else found
            opening = None
        else:
            block.append(_outdented(line, len(opening[1])))
    return found


def _is_inline(fence: re.Match[str]) -> bool:
    """Whether it is code within a sentence: another backtick follows on the line."""
    return fence[2].startswith("`") and "`" in fence[3]


def _is_python(after_mark: str) -> bool:
    language = _LANGUAGE.match(after_mark)
    return language is not None and language[1].lower() in _PYTHON


def _outdented(line: str, width: int) -> str:
    """The line without its first white space, up to a width."""
    return line[:width].lstrip(" \t") + line[width:]


def _failures(
    code: str, tests: Sequence[UnitTest], budget: Limits, layer: Layer, tolerance: float
) -> Iterator[str]:
    """For each test why it failed, or "" when it passed."""
    left = budget.timeout_seconds
    for test in tests:
        if left <= 0.0:
            yield f"no time left of {budget.timeout_seconds:g} s"
            continue
        limits = replace(budget, timeout_seconds=left)
        if isinstance(test, OutputTest):
            execution = run(code, stdin=test.stdin, limits=limits, layer=layer)
            failure = _ended_badly(execution, budget)
            if not failure and not same_output(execution.stdout, test.stdout, tolerance=tolerance):
                failure = f"printed {_short(execution.stdout.decode(errors='replace'))}"
        else:
            call = Call(test.function, test.arguments)
            execution = run(code, call=call, limits=limits, layer=layer)
            if execution.returned is None:
                failure = _ended_badly(execution, budget) or "the call did not return"
            else:
                right = same_value(execution.returned, test.expected, tolerance=tolerance)
                failure = "" if right else f"returned {_short(execution.returned)}"
        left -= execution.seconds
        yield failure


def _ended_badly(execution: Execution, budget: Limits) -> str:
    if execution.killed_by is KilledBy.TIME:
        return f"killed after {budget.timeout_seconds:g} s in all"
    if execution.killed_by is not None:
        return f"killed: {execution.killed_by}"
    if execution.exit == 0:
        return ""
    last = execution.stderr_tail.rpartition("\n")[2]
    return f"exit {execution.exit}{f' ({last[:200]})' if last else ''}"


def _parsed(test: object, index: int) -> UnitTest:
    if isinstance(test, Mapping):
        match dict(test):
            case {"input": str(stdin), "output": str(stdout), **rest} if not rest:
                _check_text(stdin + stdout, index)
                _check_size(stdout, index)
                return OutputTest(stdin, stdout)
            case {"call": str(function), "args": list(arguments), "expected": expected, **rest} if (
                not rest
            ):
                if not _PATH.fullmatch(function):
                    raise ValueError(
                        f"test {index} calls {function!r}; write `f` or `Class.method`"
                    )
                _check_plain(arguments, expected, index)
                return CallTest(function, tuple(arguments), expected)
            case _:
                pass
    raise ValueError(
        f"test {index} is {_short(test)}; it must have exactly the texts input and output, or "
        "call (a name), args (a list) and expected."
    )


def _check_text(text: str, index: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"test {index} is no valid text: {error}") from error


def _check_plain(arguments: list[object], expected: object, index: int) -> None:
    """Refuses what JSON cannot carry: the program's value will come as JSON."""
    try:
        marshal.dumps(arguments)  # how they reach the program; it allows less depth than JSON
        json.dumps(arguments, allow_nan=False)
        written = json.dumps(expected, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"test {index} holds what is no JSON: {error}") from error
    if not same_value(written, expected, tolerance=0.0):
        raise ValueError(
            f"test {index} expects {_short(expected)}, which does not equal itself once written "
            "as JSON; keys must be strings."
        )
    _check_size(written, index)


def _check_size(expected: str, index: int) -> None:
    if len(expected.encode()) >= OUTPUT_BYTES:
        raise ValueError(
            f"test {index} expects {len(expected)} characters of output; a program is ended at "
            f"{OUTPUT_BYTES} bytes, so none passes."
        )


def _asks_nothing(test: UnitTest) -> bool:
    if isinstance(test, OutputTest):
        return not test.stdout.strip()
    return test.expected is None


def _check_options(timeout_seconds: float, memory_bytes: int, form: str, tolerance: float) -> None:
    if not (math.isfinite(timeout_seconds) and timeout_seconds > 0):
        raise ValueError(f"timeout_seconds must be positive and finite, got {timeout_seconds}")
    if memory_bytes < 64 << 20:
        raise ValueError(
            f"memory_bytes = {memory_bytes} is too little for an interpreter; give 64 MiB or more"
        )
    if form not in get_args(Form):
        raise ValueError(f"form must be one of {get_args(Form)}, got {form!r}")
    if not 0.0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(f"tolerance must be between 0 and {MAX_TOLERANCE}, got {tolerance}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}…"

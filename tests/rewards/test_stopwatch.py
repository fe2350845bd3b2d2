"""Tests for rewards/stopwatch.py, in real child processes."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cotree.rewards.isolation import WorkerStartError
from cotree.rewards.registry import Term
from cotree.rewards.stopwatch import graded_one_by_one
from cotree.rewards.types import Failure, Problem, Reward, Status, Ungraded

REWARDS = """
import time
time.sleep(0.7)  # an import that is slower than the limit of a completion

from cotree.rewards.types import Reward, Status, StepScore, Verdict, checked_by


def slow(completion, problem, *, scale=1.0):
    time.sleep(scale * float(completion))
    return Reward(1.0, f"slept {completion}", status=Status.PARSE_ERROR)


def column(completion, unit):
    return float(completion == unit)


async def batch(completions, references):
    return [float(c == "yes") for c in completions]


def batch_of_references(completions, reference):
    return [float(c == r) for c, r in zip(completions, reference, strict=True)]


async def later(completion):
    return 0.25


def slow_check(problem):
    time.sleep(0.2)
    if not problem.reference:
        raise ValueError("no reference")


@checked_by(slow_check)
def checked(completion, reference):
    return Reward(1.0, "fine")


def nothing(completion):
    return None


def nonsense(completion):
    return "good"


def raises(completion):
    raise KeyError(completion)


def too_many(completions):
    return [1.0] * (len(completions) + 1)
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rewards") / "mine.py"
    path.write_text(REWARDS)
    return path


def run(
    name: str, completions: Sequence[str], *, timeout: float = 0.5, **options: float
) -> list[tuple[Reward | Ungraded, float]]:
    problem = Problem("p", "", "yes", "t", columns={"unit": "cm"})
    items = [(completion, problem) for completion in completions]
    limits = {"workers": 1, "timeout_seconds": timeout, "memory_bytes": 2 << 30}
    return list(graded_one_by_one(Term(name, options=options), items, **limits))


def test_the_time_is_that_of_the_function_and_the_result_as_without_a_stopwatch(file: Path):
    rows = run(f"{file}:slow", ["0.3", "0.0"], scale=0.5)
    (first, slow_seconds), (second, fast_seconds) = rows
    assert first == Reward(1.0, "slept 0.3", status=Status.PARSE_ERROR)
    assert second == Reward(1.0, "slept 0.0", status=Status.PARSE_ERROR)
    assert 0.15 <= slow_seconds < 0.9
    assert fast_seconds < 0.1


def test_a_check_of_problems_is_made_before_the_time_is_taken(file: Path):
    items = [("a", Problem(str(i), "", reference, "t")) for i, reference in enumerate(("7", ""))]
    (fine, seconds), (refused, _) = graded_one_by_one(
        Term(f"{file}:checked"),
        items,
        workers=1,
        timeout_seconds=2.0,
        memory_bytes=2 << 30,
    )
    assert (fine.reason, refused.reason) == (
        "fine",
        "fine; its problem would be refused: no reference",
    )
    assert seconds < 0.1


def test_a_hanging_completion_is_killed_and_the_next_one_is_graded(file: Path):
    (late, seconds), (after, _) = run(f"{file}:slow", ["60", "0"])
    assert isinstance(late, Ungraded)
    assert late.failure is Failure.TIMEOUT
    assert 0.5 <= seconds < 5.0
    assert isinstance(after, Reward)


@pytest.mark.parametrize(
    ("function", "values"),
    [("column", [1.0, 0.0]), ("batch_of_references", [0.0, 1.0]), ("later", [0.25, 0.25])],
)
def test_every_form_of_reward_function_can_be_timed(file: Path, function: str, values: list[float]):
    rows = run(f"{file}:{function}", ["cm", "yes"])
    assert [result.value for result, _ in rows if isinstance(result, Reward)] == values


@pytest.mark.parametrize(
    ("function", "failure", "reason"),
    [
        ("nothing", Failure.SKIPPED, "returned None"),
        ("nonsense", Failure.INVALID, "'good'"),
        ("raises", Failure.CRASH, "KeyError: 'x' in raises at"),
        ("too_many", Failure.CRASH, "for 1 completion"),
        ("batch", Failure.CRASH, "no column 'references'"),
    ],
)
def test_a_failure_is_reported_as_that_of_the_function(
    file: Path, function: str, failure: Failure, reason: str
):
    ((result, _),) = run(f"{file}:{function}", ["x"])
    assert isinstance(result, Ungraded)
    assert result.failure is failure
    assert reason in result.reason
    assert "stopwatch.py:timed" not in result.reason


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("no_such_reward", {}, "no installed reward is named 'no_such_reward'"),
        ("answer", {"nonsense": 1.0}, "has no option 'nonsense'"),
    ],
)
def test_a_wrong_name_or_option_is_told_before_anything_is_graded(
    name: str, options: dict[str, float], message: str
):
    with pytest.raises(WorkerStartError, match=message):
        run(name, ["x"], **options)


def test_results_keep_their_order_with_several_workers(file: Path):
    problem = Problem("p", "", "", "t")
    completions = ["0.2", "0", "0.1", "0", "0", "0.05"]
    rows = graded_one_by_one(
        Term(f"{file}:slow"),
        [(completion, problem) for completion in completions],
        workers=2,
        timeout_seconds=5.0,
        memory_bytes=2 << 30,
    )
    reasons = [result.reason for result, _ in rows]
    assert reasons == [f"slept {completion}" for completion in completions]

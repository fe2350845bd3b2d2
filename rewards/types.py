"""What a reward function receives and returns. Imports nothing, so plugins can import it freely."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Problem:
    """One task: the question shown to the policy and the reference used to grade it."""

    id: str
    """Unique within the task; seeds and resume order are derived from it."""
    prompt: str
    """The text the policy sees, after the prompt template."""
    reference: str
    """The right answer. Graders see it; generators and searches never do."""
    task: str
    """Name of the task or data set the problem came from."""
    question: str = ""
    """The question before the prompt template; step scorers parse this."""
    columns: Mapping[str, object] = field(default_factory=dict[str, object])
    """The row's other fields, by name; a reward function may ask for any of them."""


class Verdict(StrEnum):
    """What a rule can say about one reasoning step."""

    VERIFIED = "verified"
    REFUTED = "refuted"
    UNCHECKED = "unchecked"


@dataclass(frozen=True, slots=True)
class StepScore:
    """A score for one step of the completion's text."""

    span: tuple[int, int]
    """Characters [start, end) of the completion's text."""
    value: float
    verdict: Verdict
    reason: str
    left: str = ""
    """What was compared, as the scorer read it: `2+12`, say."""
    right: str = ""


class Status(StrEnum):
    """Whether there was an answer to judge. Anything but `ok` is the policy's own doing."""

    OK = "ok"
    NO_ANSWER = "no_answer"
    """The completion commits to none."""
    PARSE_ERROR = "parse_error"
    """It commits to something that cannot be read as an answer, or is larger than the bounds."""


class Failure(StrEnum):
    """Why a completion has no reward. None of these is the policy's fault."""

    CRASH = "crash"
    """The reward function raised, or its process died."""
    TIMEOUT = "timeout"
    """It ran past its time limit and was killed."""
    INVALID = "invalid"
    """It returned something that is no reward."""
    SKIPPED = "skipped"
    """Every reward function returned `None`: none applies to this completion."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A score and the reason for it; the reason is what people read in the logs."""

    value: float
    reason: str
    breakdown: Mapping[str, float] = field(default_factory=dict[str, float])
    """Value of each reward function by name, before weights. Filled by `combine`."""
    steps: tuple[StepScore, ...] = ()
    """In the order of the text, spans disjoint. Empty when no scorer looks at steps."""
    status: Status = Status.OK
    """Counted and logged: a policy that stops answering looks different from one that errs."""
    failed: Mapping[str, Failure] = field(default_factory=dict[str, Failure])
    """Reward functions that failed and count with their `error_value`. Filled by `combine`."""


@dataclass(frozen=True, slots=True)
class Ungraded:
    """The third outcome: could not grade. It is dropped, counted and shown; never a zero."""

    failure: Failure
    reason: str
    term: str = ""
    """Name of the reward function that failed."""


class GraderError(Exception):
    """A reward function may raise this to say: I could not grade (a lost sandbox, say)."""


Returned = Reward | float | Sequence[StepScore] | None
"""What a reward function may return for one completion.

A sequence of step scores has the smallest of their values, 0 when it is empty. `None` says that
the function does not apply to this completion: it is left out of the sum and of the breakdown.
"""

RewardFn = Callable[..., Any]
"""`f(completion, …) -> Returned`, or `f(completions, …) -> Sequence[Returned]`; `async` or not.

Other parameters are bound by name, see `signature`. Pure: no side effects, and the same verdict
whatever was graded before or beside it.
"""

CheckFn = Callable[..., None]
"""Raises `ValueError` for a problem that cannot be graded: a reference that cannot be read.

`f(problem)`, or with any of the keywords `options` (those of the reward in the configuration) and
`timeout_seconds` (the limit of one call, `None` where there is none).
"""

_Fn = TypeVar("_Fn", bound=RewardFn)


def checked_by(check: CheckFn) -> Callable[[_Fn], _Fn]:
    """Decorates a reward function with a check of each problem, made before a run starts.

        @checked_by(refuse_unreadable)
        def math_equal(completion: str, problem: Problem) -> Reward: ...

    Args:
        check: called once for every problem, in a process that is killed if it hangs. What it
            raises is shown with the problem's id and reference.
    """

    def mark(fn: _Fn) -> _Fn:
        fn.check_problem = check  # pyright: ignore[reportFunctionMemberAccess]
        return fn

    return mark

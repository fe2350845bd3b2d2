"""What a reward function returned, as an outcome of plain, finite numbers.

Done in the process that ran the function, so that nothing of its own types has to travel.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Real

from cotree.rewards.types import Failure, Reward, Status, StepScore, Ungraded, Verdict

Outcome = Reward | Ungraded | None
"""Of one reward function for one completion; `None`: the function does not apply to it."""

Packed = tuple[float, str, Mapping[str, float], tuple[StepScore, ...], str] | Ungraded | None
"""An outcome for sending: pickling a `Reward` takes twenty times as long as its fields."""

MAX_REASON_CHARS = 1000
"""Reasons are logged and sent between processes, so a function cannot make them endless."""


class _InvalidRewardError(Exception):
    """What a reward function returned is not a reward."""


def outcome(returned: object, completion: str) -> Outcome:
    """The outcome of a call that returned.

    Args:
        returned: what the function returned: a number (a bool, a NumPy scalar), a `Reward`, a
            sequence of `StepScore` (the value is their minimum, 0 for none) or `None`.
        completion: the text that step spans must lie in.

    Returns:
        `Ungraded` with `Failure.INVALID` and the reason when it is none of these, a number is not
        finite, or steps overlap.
    """
    try:
        return None if returned is None else _reward(returned, completion)
    except _InvalidRewardError as error:
        return Ungraded(Failure.INVALID, f"it returned {error}")
    except (AttributeError, TypeError, ValueError) as error:
        # A span that is no pair, a verdict that is none: fields of the wrong type.
        return Ungraded(Failure.INVALID, f"it returned a malformed reward: {_shown(error)}")


def packed(found: Outcome) -> Packed:
    """The outcome as `unpacked` takes it."""
    if isinstance(found, Reward):
        return found.value, found.reason, found.breakdown, found.steps, found.status.value
    return found


def unpacked(sent: Packed) -> Outcome:
    """The outcome that was packed.

    Raises:
        TypeError: it was not packed by `packed`, as for the next.
        ValueError: it has other fields.
    """
    if sent is None or isinstance(sent, Ungraded):
        return sent
    value, reason, breakdown, steps, status = sent
    return Reward(value, reason, breakdown, steps, Status(status))


def failed(error: BaseException) -> Ungraded:
    """The outcome of a call that raised: could not grade, with the place."""
    trace = error.__traceback__
    place = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        place = f" in {code.co_name} at {code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    return Ungraded(Failure.CRASH, _text(f"{type(error).__name__}: {_shown(error)}{place}"))


def _shown(error: BaseException) -> str:
    try:
        return str(error)
    except Exception as second:  # a foreign `__str__`; what it raises replaces the message
        return f"(its message cannot be shown: {type(second).__name__})"


def _reward(returned: object, completion: str) -> Reward:
    if isinstance(returned, Reward):
        parts = {str(name): _finite(part, "a part") for name, part in returned.breakdown.items()}
        return Reward(
            _finite(returned.value, "a value"),
            _text(returned.reason),
            parts,
            _checked_steps(returned.steps, completion),
            Status(returned.status),
        )
    number = _number(returned)
    if number is not None:
        return Reward(number, f"{number:g}")
    if isinstance(returned, list | tuple) and all(isinstance(s, StepScore) for s in returned):
        steps = _checked_steps(returned, completion)
        value = min((step.value for step in steps), default=0.0)
        return Reward(value, f"minimum of {len(steps)} steps", steps=steps)
    raise _InvalidRewardError(
        f"{short(returned)}; a reward is a finite number, a Reward, a list of StepScore or None"
    )


def _checked_steps(steps: Sequence[object], completion: str) -> tuple[StepScore, ...]:
    checked = sorted((_checked_step(step, completion) for step in steps), key=lambda s: s.span)
    for first, second in pairwise(checked):
        if second.span[0] < first.span[1]:
            raise _InvalidRewardError(
                f"steps that overlap, {first.span} and {second.span}; a token would count twice"
            )
    return tuple(checked)


def _checked_step(step: object, completion: str) -> StepScore:
    if not isinstance(step, StepScore):
        raise _InvalidRewardError(f"the step {short(step)}; a step is a StepScore")
    start, end = step.span
    if not 0 <= start <= end <= len(completion):
        raise _InvalidRewardError(
            f"a step with the span {step.span}; 0 <= start <= end <= {len(completion)}, the "
            "completion's length, must hold"
        )
    return replace(
        step,
        span=(int(start), int(end)),
        value=_finite(step.value, "a step's value"),
        verdict=Verdict(step.verdict),
        reason=_text(step.reason),
        left=_text(step.left),
        right=_text(step.right),
    )


def _number(returned: object) -> float | None:
    """A number's value; `None` for what is no number."""
    if getattr(returned, "shape", None) == ():
        # NumPy's bool and 0-dimensional arrays are no `Real`; `item` gives what they hold.
        returned = getattr(returned, "item", lambda: None)()
    return _finite(returned, "a value") if isinstance(returned, Real) else None


def _finite(number: object, what: str) -> float:
    if isinstance(number, Real):
        try:
            value = float(number)
        except OverflowError:  # an integer beyond 1e308
            value = math.inf
        if math.isfinite(value):
            return value
        number = value
    raise _InvalidRewardError(f"{what} of {short(number)}; it must be a finite number")


def _text(reason: object) -> str:
    text = reason if type(reason) is str else str(reason)
    return text if len(text) <= MAX_REASON_CHARS else f"{text[:MAX_REASON_CHARS]}…"


def short(value: object) -> str:
    """`repr`, cut to a length for messages."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:120]}…"

"""A reward function tried out before a run: on labelled cases, and on text nobody would write."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from cotree.rewards.cases import json_rows, text_field
from cotree.rewards.types import Failure, Problem, Reward, Ungraded

_FIELDS = ("completion", "prompt", "reference", "question", "task", "id", "expected")
_TOLERANCE = 1e-9

_PROBES: Mapping[str, object] = {
    "None, never in a run": None,
    "empty": "",
    "white space": " \n\t ",
    "1 MB of text": "the answer is 4 " * 65_536,
    "1 MB without a space": "7" * (1 << 20),
    "NUL and control characters": "\x00\x01\x1b[2J\\boxed{\x00}",
    "emoji, accents, right to left": "\\boxed{\U0001f468\u200d\U0001f467 e\u0301 \u202e\u0664}",
    "a lone surrogate": "\\boxed{\ud800}",
    "unclosed boxes": "\\boxed{" * 2_000,
    "an unclosed <think>": "<think>\n2 + 2",
}
"""Completions by what they are. A run samples text; `None` shows what a bug elsewhere would do."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One completion to try a reward function on."""

    name: str
    completion: str
    problem: Problem
    expected: tuple[float, float] | None = None
    """Least and greatest reward that is as expected; `None` when any is."""
    is_probe: bool = False
    """Whether nobody wrote it: one of `probes`."""
    unreal: bool = False
    """Whether a run never passes such a completion."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial and what came of it."""

    trial: Trial
    result: Reward | Ungraded
    seconds: float

    @property
    def consequence(self) -> str:
        """What the framework does with such a completion in a run."""
        if isinstance(self.result, Ungraded):
            return f"masked, counted as {self.result.failure.value}"
        return f"reward {self.result.value:g}"

    @property
    def complaint(self) -> str:
        """Why this is not as it should be; empty when it is."""
        expected = self.trial.expected
        if isinstance(self.result, Ungraded):
            if self.result.failure is not Failure.SKIPPED and not self.trial.unreal:
                return "could not grade"
            return "" if expected is None else _expectation(*expected)
        if expected is None:
            return ""
        low, high = expected
        fits = low - _TOLERANCE <= self.result.value <= high + _TOLERANCE
        return "" if fits else _expectation(low, high)


def _expectation(low: float, high: float) -> str:
    return f"expected {low:g}" if low == high else f"expected {low:g} to {high:g}"


def read_trials(path: Path) -> list[Trial]:
    """The cases of a JSONL file, in its order.

    Fields of a row: `completion`; optionally `reference`, `prompt`, `question`, `task`, `id`
    (text), and `expected` (a number, true or false, or a pair `[least, greatest]`). All other
    fields are the problem's columns.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a field is missing or of the wrong type; the message has the row's number.
            Or there are no rows.
    """
    trials: list[Trial] = []
    for place, row in json_rows(path):
        number = place.rpartition(" ")[2]
        problem = Problem(
            id=text_field(row, "id", place, number),
            prompt=text_field(row, "prompt", place, ""),
            reference=text_field(row, "reference", place, ""),
            task=text_field(row, "task", place, "trial"),
            question=text_field(row, "question", place, ""),
            columns={name: value for name, value in row.items() if name not in _FIELDS},
        )
        completion = text_field(row, "completion", place)
        expected = _expected(row.get("expected"), place)
        trials.append(Trial(f"row {number}", completion, problem, expected))
    if not trials:
        raise ValueError(f"{path} has no rows.")
    return trials


def probes(problem: Problem) -> list[Trial]:
    """Hostile and degenerate completions, as answers to this problem."""
    problem = replace(problem, id=f"{problem.id}/probe")
    return [
        Trial(name, cast(str, text), problem, is_probe=True, unreal=text is None)
        for name, text in _PROBES.items()
    ]


def options_from(pairs: Sequence[str]) -> dict[str, bool | int | float | str]:
    """Options of a reward from `key=value` texts; values read as TOML would, else as text.

    Raises:
        ValueError: a pair has no `=`, or a key occurs twice.
    """
    options: dict[str, bool | int | float | str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{pair!r} is no option; write key=value.")
        if key in options:
            raise ValueError(f"the option {key!r} is given twice.")
        options[key] = _scalar(pair, value)
    return options


def _scalar(pair: str, text: str) -> bool | int | float | str:
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"{pair!r}: an option is true, false, a number or text.")
    return value


def _expected(value: object, place: str) -> tuple[float, float] | None:
    if value is None:
        return None
    pair: list[object] = value if isinstance(value, list) else [value, value]
    bounds = [float(bound) for bound in pair if isinstance(bound, int | float)]
    if len(pair) == len(bounds) == 2 and bounds[0] <= bounds[1]:
        return bounds[0], bounds[1]
    raise ValueError(
        f"{place}: 'expected' is {value!r}; it must be a number or a pair [least, greatest]."
    )

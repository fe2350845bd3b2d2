"""Labelled cases for graders: read from a file, and how well and how fast a grader does on them."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotree.rewards.types import Problem, Reward, Ungraded

RIGHT_FROM = 0.5
"""A reward of at least this accepts the answer; graders that answer -1 or 1 fit as well."""

HOSTILE = frozenset({"hang", "injection"})
"""Tags of rows that try to hang the grader or to execute code in it."""


@dataclass(frozen=True, slots=True)
class Case:
    """One completion and whether a grader ought to accept it."""

    completion: str
    problem: Problem
    expected: bool
    disputed: bool
    """Its right verdict is a matter of policy; left out of all rates."""
    tags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Judged:
    """A case with what the grader said and how long it took."""

    case: Case
    result: Reward | Ungraded
    seconds: float

    @property
    def accepted(self) -> bool | None:
        """The grader's verdict; `None` where it could not grade."""
        if isinstance(self.result, Ungraded):
            return None
        return self.result.value >= RIGHT_FROM

    @property
    def right(self) -> bool:
        """Whether the verdict is the expected one. Could not grade never is."""
        return self.accepted is self.case.expected


@dataclass(frozen=True, slots=True)
class Summary:
    """How a grader did on `n` cases. A rate over no cases and a time of none are `None`."""

    n: int
    accuracy: float | None
    """Cases with the expected verdict / all. One that could not be graded is not right."""
    false_positive_rate: float | None
    """Accepted cases that ought to be refused / cases that ought to be refused."""
    false_negative_rate: float | None
    """Refused cases that ought to be accepted / cases that ought to be accepted."""
    could_not_grade: int
    """Cases without a verdict (crash, timeout, invalid); in neither of the two rates above."""
    median_ms: float | None
    p99_ms: float | None
    """The smallest time that 99 % of the cases do not exceed."""
    max_ms: float | None


def summarized(judged: Sequence[Judged]) -> Summary:
    """Rates and times of all the cases given; drop the disputed ones before."""
    verdicts = [(row.case.expected, row.accepted) for row in judged]
    times = sorted(row.seconds * 1000.0 for row in judged)
    return Summary(
        n=len(judged),
        accuracy=_share(sum(row.right for row in judged), len(judged)),
        false_positive_rate=_share(
            verdicts.count((False, True)), sum(not row.case.expected for row in judged)
        ),
        false_negative_rate=_share(
            verdicts.count((True, False)), sum(row.case.expected for row in judged)
        ),
        could_not_grade=sum(row.accepted is None for row in judged),
        median_ms=_quantile(times, 0.5),
        p99_ms=_quantile(times, 0.99),
        max_ms=_quantile(times, 1.0),
    )


def read_cases(path: Path) -> list[Case]:
    r"""The labelled cases of a JSONL file, in its order.

    Fields of a row: `kind` (`answer`: `pred` is a bare answer and becomes `\boxed{pred}`;
    `response`: `pred` is a whole completion), `gold`, `pred`, `expected` (true or false), and
    optionally `id`, `question`, `disputed` (default false) and `tags` (default none).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row lacks a field or a field has the wrong type; the message has the row's
            number. Or there are no rows.
    """
    cases = [_case(row, place) for place, row in json_rows(path)]
    if not cases:
        raise ValueError(f"{path} has no rows.")
    return cases


def json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Each object of a JSONL file with its place for messages: `file, row 3`, counted from 1.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        ValueError: a line is no JSON object.
    """
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.jsonl"))
        raise IsADirectoryError(
            f"{str(path)!r} is a folder; give a file. Its .jsonl files: {inside or 'none'}."
        )
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r} in {str(Path.cwd())!r}.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            # Some editors open a file with a byte-order mark.
            line = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if not line.strip():
                continue
            place = f"{path}, row {number}"
            try:
                text = line.decode()
                row = json.loads(text)
            except UnicodeDecodeError as error:
                raise ValueError(f"{place}: not UTF-8 ({error}).") from error
            except (ValueError, RecursionError) as error:  # also 5000 digits, 5000 brackets
                raise ValueError(f"{place}: not JSON ({error}).") from error
            if not isinstance(row, dict):
                raise ValueError(f"{place}: {text[:80]!r} is not a JSON object.")
            yield place, row


def text_field(
    row: Mapping[str, object], field: str, place: str, default: str | None = None
) -> str:
    """The text in a row's field.

    Raises:
        ValueError: it is missing and there is no default, or it is not text.
    """
    value = row.get(field, default)
    if value is None:
        raise ValueError(f"{place}: there is no field {field!r}; it has {sorted(row)}.")
    if not isinstance(value, str):
        raise ValueError(f"{place}: {field!r} is {value!r}; it must be text.")
    return value


def _case(row: Mapping[str, object], place: str) -> Case:
    kind = text_field(row, "kind", place)
    if kind not in ("answer", "response"):
        raise ValueError(f"{place}: kind is {kind!r}; it must be 'answer' or 'response'.")
    pred, question = text_field(row, "pred", place), text_field(row, "question", place, "")
    tags = row.get("tags", [])
    if not isinstance(tags, list):
        raise ValueError(f"{place}: tags is {tags!r}; it must be a list.")
    return Case(
        completion=rf"\boxed{{{pred}}}" if kind == "answer" else pred,
        problem=Problem(
            id=text_field(row, "id", place, place.rpartition(" ")[2]),
            prompt=question,
            reference=text_field(row, "gold", place),
            task="cases",
            question=question,
        ),
        expected=_flag(row, "expected", place, None),
        disputed=_flag(row, "disputed", place, False),
        tags=frozenset(str(tag) for tag in tags),
    )


def _flag(row: Mapping[str, object], field: str, place: str, default: bool | None) -> bool:
    value = row.get(field, default)
    if not isinstance(value, bool):
        raise ValueError(f"{place}: {field!r} is {value!r}; it must be true or false.")
    return value


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None

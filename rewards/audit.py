"""A run's sampled completions, graded a second time by another grader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotree.rewards.cases import RIGHT_FROM, json_rows, text_field
from cotree.rewards.types import Problem, Reward, Ungraded

RIGHT, WRONG, COULD_NOT_GRADE = "right", "wrong", "could not grade"
VERDICTS = (RIGHT, WRONG, COULD_NOT_GRADE)


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of a run's samples.jsonl and what its reward said at the time."""

    step: int
    problem: Problem
    completion: str
    verdict: str
    """One of `VERDICTS`."""
    reason: str


@dataclass(frozen=True, slots=True)
class SecondOpinion:
    """A sample and the second grader's opinion."""

    sample: Sample
    second: Reward | Ungraded

    @property
    def verdict(self) -> str:
        """The second grader's verdict, one of `VERDICTS`."""
        if isinstance(self.second, Ungraded):
            return COULD_NOT_GRADE
        return _verdict(self.second.value)

    @property
    def disagrees(self) -> bool:
        """Whether one calls right what the other calls wrong."""
        return {self.sample.verdict, self.verdict} == {RIGHT, WRONG}


def read_samples(path: Path, *, term: str | None, limit: int | None) -> list[Sample]:
    """The samples of a run, in the order of the file.

    Args:
        path: a samples.jsonl.
        term: name of the reward whose value is the run's verdict; `None` is the first one of the
            run, which decides there what counts as correct.
        limit: read no more than this many.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is no sample, no graded row has the term, or there are no rows.
    """
    samples: list[Sample] = []
    seen: set[str] = set()
    for place, row in json_rows(path):
        if len(samples) == limit:
            break
        breakdown = _breakdown(row, place)
        seen |= set(breakdown)
        samples.append(_sample(row, place, breakdown, term))
    if not samples:
        raise ValueError(f"{path} has no rows.")
    if term is not None and seen and term not in seen:
        raise ValueError(f"{path}: no row has a reward {term!r}; they have {sorted(seen)}.")
    return samples


def agreement(opinions: Sequence[SecondOpinion]) -> Counter[tuple[str, str]]:
    """How often each pair of (the run's verdict, the second grader's verdict) occurs."""
    return Counter((row.sample.verdict, row.verdict) for row in opinions)


def disagreement_share(opinions: Sequence[SecondOpinion]) -> float | None:
    """Samples on which the two disagree / samples that both could grade; `None` where none."""
    both = [row for row in opinions if COULD_NOT_GRADE not in (row.sample.verdict, row.verdict)]
    return sum(row.disagrees for row in both) / len(both) if both else None


def _sample(
    row: Mapping[str, object], place: str, breakdown: Mapping[str, float], term: str | None
) -> Sample:
    step = row.get("step")
    if not isinstance(step, int):
        raise ValueError(f"{place}: 'step' is {step!r}; it must be a number.")
    value = breakdown.get(term) if term is not None else next(iter(breakdown.values()), None)
    return Sample(
        step=step,
        problem=Problem(
            id=text_field(row, "problem", place),
            prompt=text_field(row, "prompt", place),
            reference=text_field(row, "reference", place),
            task=text_field(row, "task", place),
            question=text_field(row, "question", place, ""),
        ),
        completion=text_field(row, "completion", place),
        verdict=COULD_NOT_GRADE if value is None else _verdict(value),
        reason=_reason(row),
    )


def _breakdown(row: Mapping[str, object], place: str) -> dict[str, float]:
    """Each reward's value by name; empty where the row could not be graded."""
    reward = row.get("reward")
    if reward is None and isinstance(row.get("ungraded"), dict):
        return {}
    values = reward.get("breakdown") if isinstance(reward, dict) else None
    if not isinstance(values, dict):
        raise ValueError(
            f"{place}: 'reward' has no 'breakdown' and 'ungraded' is empty, so this is no line of "
            "a run's samples.jsonl."
        )
    wrong = {name: value for name, value in values.items() if not isinstance(value, int | float)}
    if wrong:
        raise ValueError(f"{place}: rewards that are no numbers: {wrong}.")
    return {str(name): float(value) for name, value in values.items()}


def _reason(row: Mapping[str, object]) -> str:
    for key in ("reward", "ungraded"):
        given = row.get(key)
        if isinstance(given, dict):
            return str(given.get("reason", ""))
    return ""


def _verdict(value: float) -> str:
    return RIGHT if value >= RIGHT_FROM else WRONG

"""Searches as curves read them: what the preferred answer was worth, token by token.

One rule of reading for all: a search is as right at a budget as what it preferred once at most so
many generated tokens had been told. A completion counts when its last token is told, and before the
first choice the answer is wrong. So one search gives its whole curve, and the budget is hard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol, TypeVar

from cotree.grpo.config_file import ConfigError


@dataclass(frozen=True, slots=True)
class Anytime:
    """One search of one problem, with what its answer was worth at any time."""

    spent: int
    """Generated tokens at its end."""
    choices: tuple[tuple[int, bool], ...]
    """(tokens told so far, is the preferred answer right?) at each change, tokens rising."""

    def __post_init__(self) -> None:
        told = [0, *(tokens for tokens, _ in self.choices), self.spent]
        if told != sorted(told):
            raise ConfigError(
                f"choices at {told[1:-1]} tokens of a search that spent {self.spent}: list them "
                "in rising order, from 0 to what was spent."
            )

    def is_right_at(self, budget: int) -> bool:
        """Whether it is right when stopped at a budget of tokens."""
        made = [right for tokens, right in self.choices if tokens <= budget]
        return bool(made) and made[-1]


@dataclass(frozen=True, slots=True)
class Run:
    """Searches of many problems by one strategy."""

    name: str
    problems: Mapping[str, Sequence[Anytime]]
    """Problem id -> its searches, which differ in their seed; none empty."""
    questions: Mapping[str, str] = field(default_factory=dict[str, str])
    """Problem id -> text, as far as known: runs are compared on equal questions only."""
    budget: int | None = None
    """Tokens that a search was allowed; None: the most that one spent."""
    num_ungraded: int = 0
    """Searches left out because an answer could not be graded."""
    prompt_tokens: float | None = None
    """Read by the engine and not from its cache, mean of a search."""
    seconds: float | None = None
    """Wall-clock time of the run, over the number of its searches: many went on at once."""

    def __post_init__(self) -> None:
        if not self.problems or not all(self.problems.values()):
            raise ConfigError(
                f"{self.name}: {len(self.problems)} problems, "
                f"{sum(not s for s in self.problems.values())} of them without a graded search; "
                f"a curve needs one for each ({self.num_ungraded} could not be graded)."
            )
        if self.budget is not None and self.budget < self._most_spent:
            raise ConfigError(
                f"{self.name}: a search spent {self._most_spent} tokens of a budget of "
                f"{self.budget}; give the budget of the run."
            )

    @property
    def _most_spent(self) -> int:
        return max(one.spent for searches in self.problems.values() for one in searches)

    @property
    def end(self) -> int:
        """The largest budget that it says anything about."""
        return self._most_spent if self.budget is None else self.budget

    @property
    def mean_spent(self) -> float:
        """Generated tokens of a search; searches of one problem are averaged first."""
        return fmean(fmean(one.spent for one in searches) for searches in self.problems.values())

    def flops(self, parameters: int) -> float | None:
        """Mean of a search, 2 * parameters * (generated + uncached prompt tokens); attention aside.

        Source: Kaplan et al. 2020, arXiv:2001.08361, sec. 2.1.
        """
        if self.prompt_tokens is None:
            return None
        return 2.0 * parameters * (self.mean_spent + self.prompt_tokens)


# --- from records of searches ----------------------------------------------------------------


class Choice(Protocol):
    """A change of what a strategy preferred."""

    @property
    def num_tokens(self) -> int: ...
    @property
    def node(self) -> int | None: ...


class Record(Protocol):
    """What is read of a finished search. `tokens` are the counts of its `Ledger`."""

    @property
    def problem_id(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def history(self) -> Sequence[Choice]: ...
    @property
    def tokens(self) -> Mapping[str, int]: ...


R = TypeVar("R", bound=Record)


def run_of(name: str, records: Iterable[R], correct: Callable[[R, int], bool | None]) -> Run:
    """The run of a strategy, from the records of its searches.

    Args:
        name: for the reader.
        records: of finished searches; several of one problem are its repetitions.
        correct: whether what ends in a node is right; None: it could not be graded, which leaves
            the search out, and counts it.

    Raises:
        ConfigError: one problem id has two questions, or no search could be graded, or
            budgets differ.
    """

    def choices(record: R) -> tuple[tuple[int, bool], ...] | None:
        made: list[tuple[int, bool]] = []
        for choice in record.history:
            right = False if choice.node is None else correct(record, choice.node)
            if right is None:
                return None
            made.append((choice.num_tokens, right))
        return tuple(made)

    return _run(name, records, choices)


def oracle_of(
    name: str,
    records: Iterable[R],
    leaves: Callable[[R], Sequence[tuple[int, bool]] | None],
) -> Run:
    """What a run would be if whoever knows the answers chose among its finished completions.

    Its accuracy at t tokens is pass@t: no strategy's, and a bound of every selection rule's.

    Args:
        name: of the run.
        records: as for `run_of`.
        leaves: (tokens told once it was finished, right?) of every finished completion; None: some
            could not be graded, which leaves the search out, and counts it.

    Raises:
        ConfigError: as `run_of`.
    """

    def choices(record: R) -> tuple[tuple[int, bool], ...] | None:
        ends = leaves(record)
        if ends is None:
            return None
        right = [tokens for tokens, is_right in ends if is_right]
        return ((min(right), True),) if right else ()

    return _run(name, records, choices)


def _run(
    name: str,
    records: Iterable[R],
    choices: Callable[[R], tuple[tuple[int, bool], ...] | None],
) -> Run:
    problems: dict[str, list[Anytime]] = {}
    questions: dict[str, str] = {}
    counts: list[Mapping[str, int]] = []
    num_ungraded = 0
    for record in records:
        known = questions.setdefault(record.problem_id, record.question)
        if known != record.question:
            raise ConfigError(
                f"{name}: problem {record.problem_id!r} is {known[:60]!r} in one search and "
                f"{record.question[:60]!r} in another; the records are of two benchmarks."
            )
        made = choices(record)
        if made is None:
            num_ungraded += 1
            continue
        counts.append(record.tokens)
        problems.setdefault(record.problem_id, []).append(Anytime(record.tokens["spent"], made))
    budgets = sorted({spent["budget"] for spent in counts})
    if len(budgets) > 1:
        raise ConfigError(
            f"{name}: searches with budgets of {budgets} tokens; what the shorter ones would have "
            "answered later is not known. Search again with one budget."
        )
    prompts = [spent["prompt_tokens"] - spent["cached_tokens"] for spent in counts]
    return Run(
        name=name,
        problems=problems,
        questions=questions,
        budget=max(budgets, default=None),
        num_ungraded=num_ungraded,
        prompt_tokens=fmean(prompts) if prompts else None,
    )

"""Accuracy of strategies at equal generated tokens, from the samples that an evaluation has drawn.

A strategy over whole, independent completions need not be run again: it is replayed on the
recorded samples in random orders. One budget of tokens a problem holds for all strategies.

The rule: a replay draws samples in its order until the next one would exceed the budget, which is
hard; only the first sample is always drawn, because without one there is no answer. A run that
cannot foresee lengths would begin that next sample and cut it at the budget. What is cut does not
vote, so it would give the same answer, and spend the rest of the budget.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from itertools import permutations
from math import factorial
from statistics import fmean
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.candidates import StepJudge, recorded_candidates
from cotree.grpo.evaluation.definition import Benchmark
from cotree.grpo.evaluation.intervals import mean_interval
from cotree.grpo.evaluation.job import Job
from cotree.grpo.evaluation.page import PageTable
from cotree.grpo.evaluation.records import Estimate, ProblemRecord
from cotree.grpo.evaluation.summary import graded_samples
from cotree.grpo.evaluation.tables import percent, tokens, with_interval
from cotree.grpo.seeds import derive
from cotree.search.strategies import STRATEGIES
from cotree.search.strategy import Candidate, Question, Selection, Strategy

MIN_SAMPLES = 4
"""Samples a problem from which the table says something: fewer leave nothing to reorder."""
NUM_ORDERS = 50
"""Orders of one problem's samples, at least, where there are as many."""
REPLAYED = ("first", "majority", "vetoed-majority", "resample")

_HEADER = ("strategy", "budget", "accuracy", "tokens", "samples", "oracle")


@dataclass(frozen=True, slots=True)
class EqualTokensRow:
    """A strategy at a budget. Means are over problems, and over the orders of each."""

    strategy: str
    multiple: int
    """The budget in mean samples."""
    budget: int
    """Generated tokens that a problem may take."""
    accuracy: Estimate
    """Of the selected samples, with the 95 % interval over problems."""
    mean_tokens: float
    """Really spent on a problem."""
    mean_samples: float
    """Drawn for a problem."""
    oracle: float
    """Share of right answers if whoever knows them chose among the drawn samples: no strategy."""
    ran_out: float
    """Share of replays that would have drawn more samples than were recorded. They are a lower
    bound of what the strategy does with the budget."""


@dataclass(frozen=True, slots=True)
class EqualTokens:
    """The table of one benchmark."""

    benchmark: str
    num_problems: int
    """With a graded sample."""
    step_reward: str | None
    """Refutes steps; None: nothing does, and strategies that look at verdicts are left out."""
    num_judged: int
    """Samples."""
    num_failed: int
    """Samples that could not be judged, and count as not refuted."""
    rows: tuple[EqualTokensRow, ...]
    """By budget, then strategy."""


class Recorded(NamedTuple):
    """The graded samples of one problem: as a strategy sees them, and whether they are right."""

    id: str
    candidates: Sequence[Candidate]
    correct: Sequence[bool]


class Replay(NamedTuple):
    """A run of a strategy on recorded samples."""

    selection: Selection
    num_drawn: int
    ran_out: bool
    """It wanted more than there are."""


def replayed(strategy: Strategy, samples: Sequence[Candidate], *, budget: int) -> Replay:
    """Runs a strategy on samples in this order; the rule is this file's.

    Args:
        strategy: fresh.
        samples: at least one.
        budget: tokens of all samples together; only the first may exceed it.
    """
    spent = num_drawn = 0
    ran_out = False
    while wanted := strategy.ask():
        drawn: list[Candidate] = []
        for one in samples[num_drawn : num_drawn + wanted]:
            if (num_drawn or drawn) and spent + one.num_tokens > budget:
                break
            drawn.append(one)
            spent += one.num_tokens
        strategy.tell(drawn)
        num_drawn += len(drawn)
        if len(drawn) < wanted:
            ran_out = num_drawn == len(samples)
            break
    return Replay(Selection(strategy.best(), spent), num_drawn, ran_out)


def sample_orders(count: int, *, seed: int) -> list[tuple[int, ...]]:
    """Orders of samples to replay: all of them where they are at most `NUM_ORDERS`.

    Otherwise random ones, each with its rotations, so that every sample comes first equally often
    (up to `NUM_ORDERS` samples) and `first` has exactly the evaluation's avg@k.

    Args:
        count: samples.
        seed: of the problem.
    """
    if factorial(count) <= NUM_ORDERS:
        return list(permutations(range(count)))
    rng = random.Random(seed)
    found: list[tuple[int, ...]] = []
    while len(found) < NUM_ORDERS:
        order = tuple(rng.sample(range(count), count))
        found += [order[start:] + order[:start] for start in range(min(count, NUM_ORDERS))]
    return found


def budget_multiples(k: int) -> tuple[int, ...]:
    """Budgets in mean samples: 1, 2, 4, … up to k / 2.

    Not up to k: a problem with short completions fits more samples into the budget than the mean
    problem, and would run out of recorded ones.
    """
    return tuple(2**power for power in range(k.bit_length()) if 2 * 2**power <= k)


def equal_tokens_rows(
    problems: Sequence[Recorded], *, k: int, strategies: Sequence[str], seed: int
) -> tuple[EqualTokensRow, ...]:
    """Replays strategies on all problems at all budgets.

    Args:
        problems: each with a sample.
        k: samples that were drawn for each, those that could not be graded too.
        strategies: names among `STRATEGIES`; all see the same orders.
        seed: of the orders.

    Returns:
        Rows by budget, then strategy. Takes a few seconds for 1,000 problems of 8 samples.
    """
    mean = fmean(one.num_tokens for problem in problems for one in problem.candidates)
    budgets = {multiple: round(multiple * mean) for multiple in budget_multiples(k)}
    places = [(multiple, name) for multiple in budgets for name in strategies]
    means: dict[tuple[int, str], list[_Means]] = {place: [] for place in places}
    for problem in problems:
        orders = sample_orders(
            len(problem.candidates), seed=derive(seed, "equal tokens", problem.id)
        )
        for multiple, name in places:
            means[multiple, name].append(_means(problem, orders, name, budgets[multiple]))
    rows: list[EqualTokensRow] = []
    for multiple, name in places:
        of_place = means[multiple, name]
        rows.append(
            EqualTokensRow(
                strategy=name,
                multiple=multiple,
                budget=budgets[multiple],
                accuracy=mean_interval([one.accuracy for one in of_place]),
                mean_tokens=fmean(one.tokens for one in of_place),
                mean_samples=fmean(one.samples for one in of_place),
                oracle=fmean(one.oracle for one in of_place),
                ran_out=fmean(one.ran_out for one in of_place),
            )
        )
    return tuple(rows)


class _Means(NamedTuple):
    """Over the orders of one problem."""

    accuracy: float
    oracle: float
    tokens: float
    samples: float
    ran_out: float


def _means(problem: Recorded, orders: Sequence[tuple[int, ...]], name: str, budget: int) -> _Means:
    # One more than there are: a strategy that has drawn them all still shows that it wants more.
    size = len(problem.candidates) + 1
    found: list[_Means] = []
    for order in orders:
        samples = [problem.candidates[index] for index in order]
        replay = replayed(STRATEGIES[name].build(size), samples, budget=budget)
        drawn = order[: replay.num_drawn]
        # By identity: two samples may be equal in all that a strategy sees.
        chosen = next(i for i in drawn if problem.candidates[i] is replay.selection.candidate)
        found.append(
            _Means(
                accuracy=problem.correct[chosen],
                oracle=any(problem.correct[index] for index in drawn),
                tokens=replay.selection.num_tokens,
                samples=replay.num_drawn,
                ran_out=replay.ran_out,
            )
        )
    return _Means(*(fmean(column) for column in zip(*found, strict=True)))


# --- of an evaluation ------------------------------------------------------------------------


def equal_tokens_tables(
    jobs: Sequence[Job], records: Mapping[str, Sequence[ProblemRecord]], settings: Benchmarks
) -> list[EqualTokens]:
    """The table of each benchmark, where there are samples enough.

    Args:
        jobs: of the evaluation.
        records: job name -> its problems, one of them at least with a graded sample.
        settings: of the evaluation.

    Returns:
        None for an evaluation with fewer than `MIN_SAMPLES` samples a problem, or whose samples
        were selected by a strategy: those are no single completions.
    """
    if settings.samples < MIN_SAMPLES or settings.strategy is not None:
        return []
    return [_table(job.benchmark, records[job.name], settings) for job in jobs]


def _table(
    benchmark: Benchmark, records: Sequence[ProblemRecord], settings: Benchmarks
) -> EqualTokens:
    sys.stderr.write(f"{benchmark.name}: strategies at equal tokens, on the recorded samples\n")
    judging = (
        StepJudge(
            benchmark,
            workers=settings.grading_workers,
            timeout_seconds=settings.grading_timeout_seconds,
            max_failed_frac=1.0,  # what has been sampled and graded is not given up for this table
        )
        if benchmark.step_reward is not None
        else nullcontext()
    )
    problems: list[Recorded] = []
    with judging as judge:
        for record in records:
            if samples := graded_samples(record):
                question = Question(record.id, record.question)
                candidates = recorded_candidates(samples, question, judge)
                correct = [bool(sample.correct) for sample in samples]
                problems.append(Recorded(record.id, candidates, correct))
    usable = [name for name in REPLAYED if judge or not STRATEGIES[name].needs_verdicts]
    return EqualTokens(
        benchmark=benchmark.name,
        num_problems=len(problems),
        step_reward=benchmark.step_reward,
        num_judged=judge.num_judged if judge else 0,
        num_failed=judge.num_failed if judge else 0,
        rows=equal_tokens_rows(problems, k=settings.samples, strategies=usable, seed=settings.seed),
    )


# --- to read ---------------------------------------------------------------------------------


def equal_tokens_json(table: EqualTokens) -> dict[str, Any]:
    """The table under stable keys, ready for JSON; an estimate has `value`, `low` and `high`."""
    rows = [asdict(row) | {"accuracy": row.accuracy._asdict()} for row in table.rows]
    return asdict(table) | {"rows": rows}


def to_page_table(table: EqualTokens) -> PageTable:
    """The table for the page of an evaluation."""
    title = f"{table.benchmark}: strategies at equal generated tokens"
    return PageTable(title, _HEADER, [_cells(row) for row in table.rows], _note(table))


def to_terminal_table(table: EqualTokens) -> Table:
    """The table for the terminal."""
    shown = Table(
        title=f"{escape(table.benchmark)}: strategies at equal generated tokens",
        title_style="bold",
        title_justify="left",
        caption="oracle: whoever knows the answers chooses; strategies share their samples",
        caption_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for header in _HEADER:
        shown.add_column(header, justify="left" if header == "strategy" else "right")
    for row in table.rows:
        shown.add_row(*_cells(row))
    return shown


def _cells(row: EqualTokensRow) -> tuple[str, ...]:
    return (
        row.strategy,
        f"{row.budget:,} (×{row.multiple})",
        with_interval(row.accuracy),
        tokens(row.mean_tokens),
        f"{row.mean_samples:.1f}",
        percent(row.oracle),
    )


def _note(table: EqualTokens) -> str:
    most = max(row.ran_out for row in table.rows)
    said = [
        "The budget is of a problem, in tokens and in mean samples. Strategies are replayed on the "
        "recorded samples in random orders, which all of them share, so the intervals say nothing "
        "about the difference of two rows. A sample that would exceed the budget is not drawn, but "
        "for the first. Oracle: whoever knows the answers chooses among the same samples; no "
        "strategy can.",
        f"Steps are judged by {table.step_reward}, from the question alone."
        if table.step_reward
        else "No rule judges steps here, so strategies that need verdicts are left out.",
    ]
    if table.num_failed:
        said.append(
            f"{table.num_failed:,} of {table.num_judged:,} samples could not be judged, and count "
            "as not refuted."
        )
    if most:
        said.append(f"In up to {percent(most)} of the replays the recorded samples ran out.")
    return " ".join(said)

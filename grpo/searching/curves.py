"""Accuracy against generated tokens for several searches of the same problems.

    a_i(t) = mean over the searches of problem i of 1[right at t tokens]
    accuracy(t) = mean over problems of a_i(t)
    area = 1 / ln(high / low) * integral from low to high of accuracy(t) dt / t

Problems are the independent unit: the searches of one problem are one cluster. Points have the
intervals of `mean_interval`. What compares two runs draws problems again, with replacement and the
same for both runs, `RESAMPLES` times, and takes the 2.5 and 97.5 % quantiles (the percentile
interval). For differences it covers 92 to 97 % in simulation (30 to 200 problems, 1 or 3 searches
each); it closes where no problem differs, which is no proof that none would. The p-value is that of
another test, because a bootstrap's is too small where few problems differ: the share of random sign
flips of the problems' differences that give a mean at least as far from 0.

Source: Efron 1979, "Bootstrap methods: another look at the jackknife"; Koehn 2004, "Statistical
    significance tests for machine translation evaluation" (paired); Riezler and Maxwell 2005, "On
    some pitfalls in automatic evaluation and significance testing for MT" (sign flips instead).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.intervals import mean_interval
from cotree.grpo.evaluation.records import Estimate
from cotree.grpo.searching.anytime import Run

RESAMPLES = 10_000
"""Draws behind an interval and a p-value: a p-value of 0.05 has a standard error of 0.002."""

_BLOCK = 200
"""Draws at a time; divides `RESAMPLES`."""
_ROUNDING = 1e-9
"""Shares that are closer than this are equal."""

_Floats = NDArray[np.float64]


class Point(NamedTuple):
    """Accuracy at a budget."""

    budget: int
    accuracy: Estimate


@dataclass(frozen=True, slots=True)
class Difference:
    """Run minus baseline, mean over problems. Shares of 1; positive: the run is better."""

    value: float
    low: float
    """95 % interval: paired bootstrap, percentiles."""
    high: float
    p_value: float
    """Two-sided, by random sign flips."""
    num_better: int
    """Problems on which the run has the higher value."""
    num_worse: int


@dataclass(frozen=True, slots=True)
class TokenRatio:
    """Tokens that a run needs for the baseline's best accuracy, as a share of the baseline's.

    The best of a noisy curve is noisy, and so is the place where it is first reached: read the
    interval, not the ratio alone.
    """

    target: float
    """The baseline's highest accuracy at any budget; each resample has its own."""
    baseline_tokens: int
    """Budget at which the baseline first reaches it."""
    tokens: int | None
    """Budget at which the run first does; None: it never does."""
    ratio: float | None
    low: float | None
    """95 % percentile interval; never is infinitely many tokens, which None stands for."""
    high: float | None
    never: float
    """Share of resamples in which the run never reaches the target."""


# --- one run ---------------------------------------------------------------------------------


def accuracy_at(run: Run, budget: int) -> dict[str, float]:
    """Share of each problem's searches that are right at a budget of tokens.

    Raises:
        ValueError: the run was stopped before that.
    """
    _check_reached([run], budget)
    ids = sorted(run.problems)
    shares = _Steps(run, ids).at([budget])[:, 0]
    return dict(zip(ids, shares.tolist(), strict=True))


def curve(run: Run, budgets: Sequence[int]) -> tuple[Point, ...]:
    """Accuracy with its 95 % interval over problems, at those of the budgets that the run reaches.

    Args:
        run: one.
        budgets: tokens a problem, rising.
    """
    reached = [budget for budget in budgets if budget <= run.end]
    table_NK = _Steps(run, sorted(run.problems)).at(reached)
    return tuple(
        Point(budget, mean_interval(column.tolist()))
        for budget, column in zip(reached, table_NK.T, strict=True)
    )


def budget_grid(runs: Sequence[Run]) -> tuple[int, ...]:
    """Budgets to show, rising: powers of sqrt(2) as whole numbers, and the end of each run.

    The first is not after the tokens at which some run is first right, nor after half of the
    shortest run.
    """
    ends = {run.end for run in runs}
    right = [
        tokens
        for run in runs
        for searches in run.problems.values()
        for one in searches
        for tokens, is_right in one.choices
        if is_right
    ]
    first = max(1, min([*right, min(ends) // 2]))
    powers = range(math.floor(2 * math.log2(first)), math.floor(2 * math.log2(max(ends))) + 1)
    return tuple(sorted(ends | {math.floor(2 ** (power / 2)) for power in powers}))


def tokens_to_reach(run: Run, target: float) -> int | None:
    """The least budget at which the run's accuracy is at least `target`; None: it never is.

    Raises:
        ValueError: the target is not above 0 and at most 1.
    """
    if not 0.0 < target <= 1.0:
        raise ValueError(f"target = {target} must be an accuracy, above 0 and at most 1.")
    steps = _Steps(run, sorted(run.problems))
    once = np.ones((1, len(run.problems)))
    (tokens,) = steps.first_reaching(steps.accuracies(once), np.array([target]))
    return int(tokens) if math.isfinite(tokens) else None


def area_under(run: Run, *, low: int, high: int) -> Estimate:
    """Mean accuracy over the budgets from `low` to `high`, where each doubling counts alike.

    Raises:
        ValueError: not 1 <= low < high, or the run ends before `high`.
    """
    _check_reached([run], high)
    return mean_interval(_Steps(run, sorted(run.problems)).areas(low, high).tolist())


# --- two runs --------------------------------------------------------------------------------


def shared_problems(runs: Sequence[Run]) -> list[str]:
    """Sorted ids of the problems that all of the runs have.

    Raises:
        ConfigError: there is none, or one has another question in another run.
    """
    shared = sorted(set[str].intersection(*(set(run.problems) for run in runs)))
    names = ", ".join(run.name for run in runs)
    if not shared:
        raise ConfigError(
            f"{names} share no problem, so nothing can be compared. Search the same benchmark with "
            "all of them."
        )
    for id_ in shared:
        texts = sorted({run.questions[id_] for run in runs if id_ in run.questions})
        if len(texts) > 1:
            shown = " and ".join(repr(text[:60]) for text in texts)
            raise ConfigError(
                f"problem {id_!r} has different questions in {names}: {shown}. Search the same "
                "version of the benchmark with all of them."
            )
    return shared


def paired_differences(
    run: Run, baseline: Run, budgets: Sequence[int], *, seed: int
) -> tuple[Difference, ...]:
    """Differences of accuracy at the same budgets, on the problems that both runs have.

    Args:
        run: what may be better.
        baseline: what it is held against.
        budgets: tokens a problem, rising.
        seed: of the draws.

    Raises:
        ValueError: a run ends before a budget.
        ConfigError: as `shared_problems`.
    """
    _check_reached([run, baseline], max(budgets))
    ids = shared_problems([run, baseline])
    return _differences(_Steps(run, ids).at(budgets) - _Steps(baseline, ids).at(budgets), seed)


def area_difference(run: Run, baseline: Run, *, low: int, high: int, seed: int) -> Difference:
    """Difference of the areas under two curves, on the problems that both runs have.

    It needs no budget to be chosen: all from `low` to `high` count, each doubling alike.

    Raises:
        ValueError: not 1 <= low < high, or a run ends before `high`.
        ConfigError: as `shared_problems`.
    """
    _check_reached([run, baseline], high)
    ids = shared_problems([run, baseline])
    areas = _Steps(run, ids).areas(low, high) - _Steps(baseline, ids).areas(low, high)
    return _differences(areas[:, None], seed)[0]


def token_ratio(run: Run, baseline: Run, *, seed: int) -> TokenRatio | None:
    """How many of the baseline's tokens a run needs to be as accurate as the baseline ever is.

        target = max over t of baseline(t)
        ratio = min{t: run(t) >= target} / min{t: baseline(t) >= target}

    Each resample of the problems has its own target and its own two budgets. Those in which the
    baseline is never right have neither, and are left out.

    Returns:
        None when the baseline is never right.

    Raises:
        ConfigError: as `shared_problems`.
    """
    ids = shared_problems([run, baseline])
    both = _Steps(run, ids), _Steps(baseline, ids)
    once = np.ones((1, len(ids)))
    if not both[1].accuracies(once).max() > _ROUNDING:
        return None
    target, tokens, baseline_tokens = (column[0] for column in _reaching(*both, once))
    drawn = [_reaching(*both, counts) for counts in _resampled_counts(len(ids), seed)]
    ratios = np.concatenate([ours / theirs for _, ours, theirs in drawn])
    ratios = ratios[~np.isnan(ratios)]
    low, high = _percentiles(ratios[:, None])[:, 0].tolist()
    return TokenRatio(
        target=float(target),
        baseline_tokens=int(baseline_tokens),
        tokens=int(tokens) if math.isfinite(tokens) else None,
        ratio=_finite(tokens / baseline_tokens),
        low=_finite(low),
        high=_finite(high),
        never=float(np.isinf(ratios).mean()),
    )


# --- draws -----------------------------------------------------------------------------------


class _Steps:
    """A run's accuracy as a step function: where it jumps, on which problem, and how far.

    Shapes: N problems, J jumps in the order of their tokens, S sets of weights, K budgets.
    """

    def __init__(self, run: Run, ids: Sequence[str]) -> None:
        """Of the problems `ids`, in that order."""
        jumps = [(0, 0, 0)]  # so that there is a first one
        for place, id_ in enumerate(ids):
            for one in run.problems[id_]:
                was_right = False
                for tokens, is_right in one.choices:
                    jumps.append((tokens, place, is_right - was_right))
                    was_right = is_right
        table = np.array(sorted(jumps), dtype=np.int64)
        self._tokens, self._places, self._changes = table.T
        self._repeats = np.array([len(run.problems[id_]) for id_ in ids], dtype=np.int64)
        self._is_last = np.append(np.diff(self._tokens) > 0, True)
        """Of those at the same tokens: between them there is no accuracy."""

    def at(self, budgets: Sequence[int]) -> _Floats:
        """[N, K] share of each problem's searches that are right; budgets rising."""
        columns = np.searchsorted(np.asarray(budgets), self._tokens, side="left")
        seen = columns < len(budgets)
        counts_NK = np.zeros((len(self._repeats), len(budgets)), dtype=np.int64)
        np.add.at(counts_NK, (self._places[seen], columns[seen]), self._changes[seen])
        return counts_NK.cumsum(axis=1) / self._repeats[:, None]

    def areas(self, low: int, high: int) -> _Floats:
        """[N] mean over budgets on the logarithmic axis, exact.

        Raises:
            ValueError: not 1 <= low < high.
        """
        if not 1 <= low < high:
            raise ValueError(f"the area from {low} to {high} tokens needs 1 <= low < high.")
        after = np.log(high / np.clip(self._tokens, low, high)) / math.log(high / low)
        sums = np.bincount(self._places, self._changes * after, minlength=len(self._repeats))
        return np.clip(sums / self._repeats, 0.0, 1.0)  # rounding alone leaves the range

    def accuracies(self, weights_SN: _Floats) -> _Floats:
        """[S, J'] mean over weighted problems after each of the J' distinct numbers of tokens."""
        weights_SN = weights_SN / weights_SN.sum(axis=1, keepdims=True)
        jumps_SJ = weights_SN[:, self._places] * (self._changes / self._repeats[self._places])
        return jumps_SJ.cumsum(axis=1)[:, self._is_last]

    def first_reaching(self, accuracies: _Floats, targets: _Floats) -> _Floats:
        """[S] fewest tokens at which an accuracy is at least its target; infinity: never."""
        reached = accuracies >= targets[:, None] - _ROUNDING
        tokens = self._tokens[self._is_last][reached.argmax(axis=1)].astype(np.float64)
        return np.where(reached.any(axis=1), tokens, np.inf)


def _reaching(run: _Steps, baseline: _Steps, weights_SN: _Floats) -> tuple[_Floats, ...]:
    """[S] each: the baseline's best accuracy, and the tokens at which run and baseline reach it.

    Tokens of the baseline are NaN where it is never right.
    """
    accuracies = baseline.accuracies(weights_SN)
    targets = accuracies.max(axis=1)
    baseline_tokens = baseline.first_reaching(accuracies, targets)
    return (
        targets,
        run.first_reaching(run.accuracies(weights_SN), targets),
        np.where(targets > _ROUNDING, baseline_tokens, np.nan),
    )


def _differences(values_NK: _Floats, seed: int) -> tuple[Difference, ...]:
    """One for each of K columns of problems' differences; all see the same draws."""
    n = len(values_NK)
    means = values_NK.mean(axis=0)
    drawn = np.concatenate([counts @ values_NK / n for counts in _resampled_counts(n, seed)])
    low, high = _percentiles(drawn)
    hits = np.zeros(len(means), dtype=np.int64)
    rng = np.random.default_rng([seed, 1])
    for _ in range(RESAMPLES // _BLOCK):
        signs_SN = 2.0 * rng.integers(0, 2, size=(_BLOCK, n)) - 1.0
        hits += (np.abs(signs_SN @ values_NK / n) >= np.abs(means) - _ROUNDING).sum(axis=0)
    return tuple(
        Difference(
            value=float(means[k]),
            low=float(low[k]),
            high=float(high[k]),
            p_value=(1 + int(hits[k])) / (1 + RESAMPLES),
            num_better=int((values_NK[:, k] > _ROUNDING).sum()),
            num_worse=int((values_NK[:, k] < -_ROUNDING).sum()),
        )
        for k in range(len(means))
    )


def _resampled_counts(n: int, seed: int) -> Iterator[_Floats]:
    """[S, N] how often each of n problems is drawn, n of them at a time; `RESAMPLES` in blocks."""
    rng = np.random.default_rng([seed, 0])
    rows = np.arange(_BLOCK)[:, None] * n
    for _ in range(RESAMPLES // _BLOCK):
        drawn = rng.integers(0, n, size=(_BLOCK, n)) + rows
        counts = np.bincount(drawn.ravel(), minlength=_BLOCK * n)
        yield counts.reshape(_BLOCK, n).astype(np.float64)


def _percentiles(drawn_SK: _Floats) -> _Floats:
    """[2, K] quantiles that are values which were drawn: infinity is one of them."""
    return np.quantile(drawn_SK, (0.025, 0.975), axis=0, method="inverted_cdf")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _check_reached(runs: Sequence[Run], budget: int) -> None:
    for run in runs:
        if budget > run.end:
            raise ValueError(
                f"{run.name} ends at {run.end:,} tokens and says nothing about {budget:,}; compare "
                f"up to {run.end:,}."
            )

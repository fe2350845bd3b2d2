"""Several searches of one benchmark against a baseline: for a page, for JSON and for a terminal."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.compare import holm
from cotree.grpo.evaluation.records import Estimate
from cotree.grpo.evaluation.tables import percent, with_interval
from cotree.grpo.searching.anytime import Run
from cotree.grpo.searching.curves import (
    RESAMPLES,
    Difference,
    Point,
    TokenRatio,
    area_difference,
    area_under,
    budget_grid,
    curve,
    paired_differences,
    shared_problems,
    token_ratio,
)


@dataclass(frozen=True, slots=True)
class Against:
    """A run held against the baseline."""

    at: Mapping[int, Difference]
    """Budget -> difference of accuracy, as far as both runs go."""
    area: Difference
    """Of the areas under the curves."""
    area_p_adjusted: float
    """Holm's correction for the number of runs that are held against the baseline."""
    tokens: TokenRatio | None
    """None: the baseline is never right."""


@dataclass(frozen=True, slots=True)
class RunCurve:
    """A run on the problems that all runs have."""

    name: str
    num_searches: int
    num_ungraded: int
    """Left out, of all the run's problems."""
    end: int
    """Its budget: tokens a problem."""
    mean_spent: float
    """Generated tokens of a search."""
    points: Sequence[Point]
    area: Estimate
    oracle: Sequence[Point] | None
    """pass@tokens: any finished completion is right. None: not graded."""
    flops: float | None
    """Mean of a search; None: not known."""
    seconds: float | None
    """Wall-clock of the run, over the number of its searches; None: not measured."""
    against: Against | None
    """None: it is the baseline."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The curves of all runs."""

    baseline: str
    num_problems: int
    """That all runs have."""
    num_left_out: int
    """That some have."""
    budgets: tuple[int, ...]
    """Of the curves, rising."""
    area_from: int
    area_to: int
    """The end of the shortest run."""
    runs: tuple[RunCurve, ...]

    def at_common_end(self, run: RunCurve) -> Estimate:
        """Its accuracy at the largest budget that all runs reach."""
        return next(point.accuracy for point in run.points if point.budget == self.area_to)


def compared(
    runs: Sequence[Run],
    *,
    baseline: str,
    oracles: Mapping[str, Run],
    parameters: int | None,
    seed: int,
) -> Comparison:
    """Curves of runs on their shared problems, each held against the baseline.

    Args:
        runs: of one benchmark, with names of their own.
        baseline: name of one of them: best-of-n or majority, say.
        oracles: run name -> `oracle_of` the run; may lack some.
        parameters: of the policy, for FLOPs; None leaves them out.
        seed: of the draws; the same for every pair, so that pairs differ by their runs alone.

    Raises:
        ConfigError: a name is there twice or missing, runs share no problem, questions differ, or
            a budget is too small for a curve.
    """
    _check_names([run.name for run in runs], {baseline, *oracles})
    ids = shared_problems(runs)
    kept = [_restricted(run, ids) for run in runs]
    by_name = {run.name: run for run in kept}
    budgets = budget_grid(kept)
    low, high = budgets[0], min(run.end for run in kept)
    if low >= high:
        raise ConfigError(f"the shortest run has a budget of {high} tokens: no curve fits in that.")
    others = [run for run in kept if run.name != baseline]
    pairs = [_against(run, by_name[baseline], budgets, low, high, seed) for run in others]
    adjusted = holm([pair.area.p_value for pair in pairs])
    against = {
        run.name: replace(pair, area_p_adjusted=p)
        for run, pair, p in zip(others, pairs, adjusted, strict=True)
    }
    return Comparison(
        baseline=baseline,
        num_problems=len(ids),
        num_left_out=len({id_ for run in runs for id_ in run.problems}) - len(ids),
        budgets=budgets,
        area_from=low,
        area_to=high,
        runs=tuple(
            RunCurve(
                name=run.name,
                num_searches=sum(map(len, run.problems.values())),
                num_ungraded=run.num_ungraded,
                end=run.end,
                mean_spent=run.mean_spent,
                points=curve(run, budgets),
                area=area_under(run, low=low, high=high),
                oracle=_oracle_points(oracles.get(run.name), ids, budgets),
                flops=None if parameters is None else run.flops(parameters),
                seconds=run.seconds,
                against=against.get(run.name),
            )
            for run in kept
        ),
    )


def _check_names(names: Sequence[str], wanted: Collection[str]) -> None:
    repeated = sorted({name for name in names if names.count(name) > 1})
    unknown = sorted(set(wanted) - set(names))
    if repeated or unknown:
        wrong = f"two runs {repeated}" if repeated else f"no run {unknown}"
        raise ConfigError(f"there are {wrong} among {list(names)}; name each run once.")


def _restricted(run: Run, ids: Sequence[str]) -> Run:
    return replace(run, problems={id_: run.problems[id_] for id_ in ids}, budget=run.end)


def _oracle_points(
    oracle: Run | None, ids: Sequence[str], budgets: Sequence[int]
) -> tuple[Point, ...] | None:
    if oracle is None:
        return None
    missing = [id_ for id_ in ids if id_ not in oracle.problems]
    if missing:
        raise ConfigError(
            f"the oracle of {oracle.name} lacks {len(missing)} of the shared problems, such as "
            f"{missing[0]!r}; grade all finished completions, or leave its oracle out."
        )
    return curve(_restricted(oracle, ids), budgets)


def _against(
    run: Run, baseline: Run, budgets: Sequence[int], low: int, high: int, seed: int
) -> Against:
    reached = [budget for budget in budgets if budget <= min(run.end, baseline.end)]
    differences = paired_differences(run, baseline, reached, seed=seed)
    area = area_difference(run, baseline, low=low, high=high, seed=seed)
    return Against(
        at=dict(zip(reached, differences, strict=True)),
        area=area,
        area_p_adjusted=area.p_value,
        tokens=token_ratio(run, baseline, seed=seed),
    )


# --- to read ---------------------------------------------------------------------------------


def curves_json(comparison: Comparison) -> dict[str, Any]:
    """Everything under stable keys, ready for JSON; an estimate has `value`, `low` and `high`.

    Shares are of 1. `differences` is a list, by budget; so are `points` and `oracle`.
    """
    return {
        "baseline": comparison.baseline,
        "num_problems": comparison.num_problems,
        "num_left_out": comparison.num_left_out,
        "resamples": RESAMPLES,
        "budgets": list(comparison.budgets),
        "area_from": comparison.area_from,
        "area_to": comparison.area_to,
        "runs": [_run_json(run) for run in comparison.runs],
    }


def _run_json(run: RunCurve) -> dict[str, Any]:
    against = run.against
    return {
        "name": run.name,
        "num_searches": run.num_searches,
        "num_ungraded": run.num_ungraded,
        "end": run.end,
        "mean_spent": run.mean_spent,
        "flops": run.flops,
        "seconds": run.seconds,
        "area": run.area._asdict(),
        "points": _points_json(run.points),
        "oracle": None if run.oracle is None else _points_json(run.oracle),
        "against_baseline": None
        if against is None
        else {
            "differences": [{"budget": at} | asdict(one) for at, one in against.at.items()],
            "area": asdict(against.area) | {"p_adjusted": against.area_p_adjusted},
            "tokens": None if against.tokens is None else asdict(against.tokens),
        },
    }


def _points_json(points: Sequence[Point]) -> list[dict[str, Any]]:
    return [{"budget": point.budget} | point.accuracy._asdict() for point in points]


def plain_lines(comparison: Comparison) -> list[str]:
    """For the terminal: one line a run, each complete without the others, then the headlines."""
    lines = [
        f"{run.name}: {with_interval(comparison.at_common_end(run))} right at "
        f"{comparison.area_to:,} tokens a problem, {run.mean_spent:,.0f} spent; area "
        f"{with_interval(run.area)}{_area_words(run, comparison.baseline)}"
        for run in comparison.runs
    ]
    return lines + headlines(comparison)


def _area_words(run: RunCurve, baseline: str) -> str:
    if run.against is None:
        return ""
    return (
        f", {signed(run.against.area)} points against {baseline}, "
        f"{p_text(run.against.area_p_adjusted)}"
    )


def signed(difference: Difference) -> str:
    """A difference in points with its interval, as `+4.2 (-0.3 to +8.6)`."""
    value, low, high = (100 * x for x in (difference.value, difference.low, difference.high))
    return f"{_plus(value)} ({_plus(low)} to {_plus(high)})"


def _plus(points: float) -> str:
    rounded = round(points, 1) + 0.0  # no negative zero
    return f"{rounded:+.1f}" if rounded else "0.0"


def p_text(p_value: float) -> str:
    """A p-value as its draws allow, as `p = 0.012` or `p < 0.001`."""
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def headlines(comparison: Comparison) -> list[str]:
    """One sentence for each run: how many of the baseline's tokens it needs."""
    return [
        f"{run.name} {_headline(run.against.tokens, run, comparison.baseline)}"
        for run in comparison.runs
        if run.against is not None
    ]


def _headline(tokens: TokenRatio | None, run: RunCurve, baseline: str) -> str:
    if tokens is None:
        return f"cannot be held against {baseline}'s best accuracy: {baseline} is never right."
    best = f"{baseline}'s best accuracy ({percent(tokens.target)}, at {tokens.baseline_tokens:,}"
    if tokens.ratio is None:
        return (
            f"does not reach {best} tokens) within its {run.end:,} tokens; in "
            f"{percent(1 - tokens.never)} of the resamples it does."
        )
    low, high = (
        "never" if bound is None else f"{bound:.2f}" for bound in (tokens.low, tokens.high)
    )
    never = f"; in {percent(tokens.never)} of the resamples it never does" if tokens.never else ""
    return (
        f"reaches {best} tokens) with {tokens.ratio:.2f} of its tokens "
        f"(95 % interval {low} to {high}{never})."
    )

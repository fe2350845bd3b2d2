#!/usr/bin/env python
"""What the intervals and tests of evaluations hold: coverage, error and power on simulated ones.

    python scripts/simulate_intervals.py [--benchmarks 2000] [--pairs 1000] [--json FILE]

A benchmark is n problems drawn from a population whose solve rates follow a beta distribution, with
k samples each; the truth is the population's mean. Shapes are named by the sum of the beta's two
parameters: 0.3 is bimodal (most problems always or never solved), 2 spread, 10 narrow. With one
sample a problem the shape is of no effect: values are 0 and 1.

First table, `mean_interval`: how often it holds the truth, beside mean +- 1.96 standard errors.
"fixed": the truth is the regime's mean, the same for all benchmarks. With k = 1 and few problems
that number is a matter of where the mean lies between the multiples of 1/n, so "around" draws the
mean of each benchmark anew, within 0.5 of the regime's in log-odds. `*`: outside of 93.5 to 96.5 %.

Second table, `paired_difference`: two policies on the same problems. The second's solve rates are
the first's, moved in log-odds by noise of standard deviation 1 and by a shift that makes the true
difference 0 ("equal") or the one that the power convention calls detectable ("apart"; "power");
"same" compares the first with itself. Policies above one half are made worse, not better. "rare":
the second policy always solves one problem in twenty, whatever the first does, and is the first on
all others. The benchmark may miss those, and no interval can know: it is here to show the limit.
"plain": Student's interval, of policies "apart". "told": what the comparisons said is detectable.
"""

import argparse
import itertools
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import NormalDist

import numpy as np

from cotree.grpo.evaluation.intervals import Z, mean_interval, student_t_quantile
from cotree.grpo.evaluation.paired import paired_difference

MEANS = (0.1, 0.3, 0.5, 0.8, 0.95)
SHAPES = {0.3: "bimodal", 2.0: "spread", 10.0: "narrow"}
PROBLEMS = (30, 40, 83, 500, 1319)
SAMPLES = (1, 4, 16)
AROUND = 0.5

PAIRED_MEANS = (0.1, 0.3, 0.8)
PAIRED_SHAPES = (0.3, 2.0)
PAIRED_PROBLEMS = (30, 83, 500)
NOISE = 1.0
RARE = 0.05
POPULATION = 200_000
"""Problems that stand for the population when a shift is solved for."""
BLOCK = 250
"""Benchmarks drawn at a time."""


@dataclass(frozen=True)
class Regime:
    """A population of problems and how it is sampled."""

    n: int
    k: int
    shape: float
    mean: float

    def __str__(self) -> str:
        shape = SHAPES[self.shape] if self.k > 1 else "any"
        return f"{self.n:5} {self.k:3} {shape:8} {self.mean:5.2f}"


@dataclass(frozen=True)
class Coverage:
    """Of the interval of a mean; shares of 1."""

    fixed: float
    around: float
    plain_fixed: float
    plain_around: float
    width: float
    plain_width: float


@dataclass(frozen=True)
class Paired:
    """Of the comparison of two policies; shares of 1."""

    same_error: float
    """Share of tests at 5 % that found a difference between a policy and itself."""
    equal_error: float
    """The same between two policies with the same mean."""
    equal_coverage: float
    power: float
    """Share of tests that found the detectable difference."""
    apart_coverage: float
    plain_coverage: float
    """Of Student's interval around the mean difference, between those two."""
    rare_coverage: float
    width: float
    detectable: float
    reported: float
    """Mean of the detectable differences that the comparisons reported."""


def solve_rates(rng, mean, shape, size):
    """Beta-distributed; `mean` is a number, or one for each row."""
    rates = rng.beta(mean * shape, (1.0 - mean) * shape, size=size)
    # Both gamma variates of a bimodal draw may be 0.
    return np.where(np.isnan(rates), rng.random(size) < mean, rates)


def logit(share):
    return np.log(share) - np.log1p(-share)


def expit(odds):
    return 1.0 / (1.0 + np.exp(-odds))


def mean_coverage(rng, regime: Regime, benchmarks: int) -> Coverage:
    found = {}
    for kind, width in (("fixed", 0.0), ("around", AROUND)):
        truths = expit(logit(regime.mean) + rng.uniform(-width, width, size=(benchmarks, 1)))
        hits = plain_hits = 0
        wide = plain_wide = 0.0
        for start in range(0, benchmarks, BLOCK):
            truth = truths[start : start + BLOCK]
            rates = solve_rates(rng, truth, regime.shape, (len(truth), regime.n))
            for values, true in zip(rng.binomial(regime.k, rates) / regime.k, truth, strict=True):
                estimate = mean_interval(values.tolist())
                hits += estimate.low <= true[0] <= estimate.high
                wide += estimate.high - estimate.low
                half = Z * values.std(ddof=1) / math.sqrt(regime.n)
                plain_hits += abs(values.mean() - true[0]) <= half
                plain_wide += 2.0 * half
        found[kind] = [x / benchmarks for x in (hits, plain_hits, wide, plain_wide)]
    fixed, around = found["fixed"], found["around"]
    return Coverage(fixed[0], around[0], fixed[1], around[1], fixed[2], fixed[3])


class Policies:
    """Two policies on one population; the second's log-odds have noise and a shift."""

    def __init__(self, regime: Regime, rng) -> None:
        self.regime = regime
        self.rates = np.clip(solve_rates(rng, regime.mean, regime.shape, POPULATION), 1e-9, None)
        self.rates = np.minimum(self.rates, 1.0 - 1e-9)
        self.noise = rng.normal(scale=NOISE, size=POPULATION)

        self.rare = np.where(rng.random(POPULATION) < RARE, 1.0, self.rates)

    def moved(self, shift: float):
        """The second policy's solve rates."""
        return expit(logit(self.rates) + self.noise + shift)

    def moments(self, second) -> tuple[float, float]:
        """The true difference, and the standard deviation of what a problem shows of it."""
        within = self.rates * (1.0 - self.rates) + second * (1.0 - second)
        gap = second - self.rates
        return float(gap.mean()), math.sqrt(float(gap.var() + within.mean() / self.regime.k))

    def shift_to(self, standard_errors: float) -> float:
        """The shift at which the true difference is that many standard errors of it."""
        low, high = -12.0, 12.0
        for _ in range(40):
            middle = (low + high) / 2.0
            gap, deviation = self.moments(self.moved(middle))
            below = gap < standard_errors * deviation / math.sqrt(self.regime.n)
            low, high = (middle, high) if below else (low, middle)
        return (low + high) / 2.0

    def drawn(self, rng, second, pairs: int):
        """`pairs` pairs of evaluations of the same n problems."""
        n, k = self.regime.n, self.regime.k
        for _ in range(pairs):
            chosen = rng.integers(0, POPULATION, size=n)
            yield (
                (rng.binomial(k, self.rates[chosen]) / k).tolist(),
                (rng.binomial(k, second[chosen]) / k).tolist(),
            )


def plain_holds(differences, truth: float) -> bool:
    half = student_t_quantile(len(differences) - 1) * differences.std(ddof=1)
    return bool(abs(differences.mean() - truth) <= half / math.sqrt(len(differences)))


def paired_figures(rng, regime: Regime, pairs: int) -> Paired:
    policies = Policies(regime, rng)
    reach = (Z + NormalDist().inv_cdf(0.8)) * (1.0 if regime.mean < 0.5 else -1.0)
    seconds = {
        "same": policies.rates,
        "equal": policies.moved(policies.shift_to(0.0)),
        "apart": policies.moved(policies.shift_to(reach)),
        "rare": policies.rare,
    }
    found, covered, truths = {}, {}, {}
    for kind, second in seconds.items():
        truth = truths[kind] = policies.moments(second)[0]
        drawn = list(policies.drawn(rng, second, pairs))
        results = [paired_difference(a, b) for a, b in drawn]
        found[kind] = sum(result.p_value <= 0.05 for result in results) / pairs
        covered[kind] = sum(result.low <= truth <= result.high for result in results) / pairs
        if kind == "apart":
            plain = sum(plain_holds(np.subtract(b, a), truth) for a, b in drawn) / pairs
            width = sum(result.high - result.low for result in results) / pairs
            reported = sum(result.minimum_detectable or 0.0 for result in results) / pairs
    return Paired(
        same_error=found["same"],
        equal_error=found["equal"],
        equal_coverage=covered["equal"],
        power=found["apart"],
        apart_coverage=covered["apart"],
        plain_coverage=plain,
        rare_coverage=covered["rare"],
        width=width,
        detectable=abs(truths["apart"]),
        reported=reported,
    )


def regimes(problems, shapes, means) -> list[Regime]:
    """All of them, with one shape for one sample a problem."""
    found = itertools.product(problems, SAMPLES, shapes, means)
    return [Regime(*parts) for parts in found if parts[1] > 1 or parts[2] == min(shapes)]


def marked(share: float) -> str:
    return f"{100 * share:6.1f}{' ' if 0.935 <= share <= 0.965 else '*'}"


def mean_table(benchmarks: int, seed: int) -> list[dict[str, object]]:
    print(f"mean_interval: coverage in %, {benchmarks} benchmarks a regime")
    print("                          ours            plain              mean width")
    print("    n   k shape     mean  fixed  around   fixed  around    ours    plain")
    rows = []
    for index, regime in enumerate(regimes(PROBLEMS, SHAPES, MEANS)):
        row = mean_coverage(np.random.default_rng([seed, index]), regime, benchmarks)
        shares = (row.fixed, row.around, row.plain_fixed, row.plain_around)
        print(f"{regime} {' '.join(map(marked, shares))}  {row.width:.4f}   {row.plain_width:.4f}")
        rows.append({**asdict(regime), **asdict(row)})
    for name in ("fixed", "around", "plain_fixed", "plain_around"):
        inside = sum(0.935 <= row[name] <= 0.965 for row in rows)
        lowest, highest = (100 * pick(row[name] for row in rows) for pick in (min, max))
        print(f"{name:13} {inside} of {len(rows)} within; {lowest:.1f} to {highest:.1f} %")
    return rows


def paired_table(pairs: int, seed: int) -> list[dict[str, object]]:
    print(f"\npaired_difference: in %, {pairs} pairs of evaluations a regime")
    print("                          found at 5 %             coverage             detectable")
    print(
        "    n   k shape     mean  same equal power  "
        "equal   apart   plain   rare    true  told  width"
    )
    rows = []
    for index, regime in enumerate(regimes(PAIRED_PROBLEMS, PAIRED_SHAPES, PAIRED_MEANS)):
        row = paired_figures(np.random.default_rng([seed, 1000 + index]), regime, pairs)
        found = (row.same_error, row.equal_error, row.power)
        covered = (row.equal_coverage, row.apart_coverage, row.plain_coverage, row.rare_coverage)
        print(
            f"{regime} {' '.join(f'{100 * share:5.1f}' for share in found)}"
            f"{' '.join(map(marked, covered))}{row.detectable:6.3f} {row.reported:.3f} "
            f"{row.width:.3f}",
            flush=True,
        )
        rows.append({**asdict(regime), **asdict(row)})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--benchmarks", type=int, default=2000, help="for each interval's coverage")
    parser.add_argument("--pairs", type=int, default=1000, help="for each paired figure")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    args = parser.parse_args()
    started = time.perf_counter()
    result = {
        "mean": mean_table(args.benchmarks, args.seed),
        "paired": paired_table(args.pairs, args.seed),
    }
    print(f"\n{time.perf_counter() - started:.0f} s")
    if args.json:
        args.json.write_text(json.dumps({**vars(args), "json": None, **result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

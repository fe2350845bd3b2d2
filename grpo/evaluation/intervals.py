"""How far a score over problems may be from the score on all problems of their kind.

Problems are the independent unit: samples of one problem are right or wrong together, so every
interval here is over the problems' own means ("clustered by problem"). `run_error` answers another
question, how much the score moves when the same problems are sampled again.

`scripts/simulate_intervals.py` measures what these intervals cover.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean

from cotree.grpo.evaluation.records import Estimate

Z = NormalDist().inv_cdf(0.975)
"""Quantile of the normal distribution behind every 95 % interval."""


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a share of n independent problems.

        center = (p + z^2 / 2n) / (1 + z^2 / n)
        half   = z / (1 + z^2 / n) * sqrt(p (1 - p) / n + z^2 / 4n^2)

    Args:
        successes: problems solved.
        n: problems.

    Raises:
        ValueError: not 0 <= successes <= n, or n is 0.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"{successes} successes of n = {n}; count them among at least 1 problem.")
    return _wilson(successes / n, n, Z)


def mean_interval(values: Sequence[float]) -> Estimate:
    """Mean over problems and its 95 % interval, for values between 0 and 1.

    Wilson's interval of n / d problems, where d is the design effect: the variance of the values
    over that of 0/1 values with their mean p. Problems that are each solved sometimes spread less
    than 0/1 values do, so d <= 1.

        B = n p (1 - p)
        r = min(1, n / (n - 1) * sum (v - p)^2 / B)
        w = 1 / (1 + 9 B^2)
        d = w + (1 - w) r
        q = z + (t_(n-1) - z) (1 - d)        in place of z

    A score with B near 0 says nothing about its own spread (30 of 30 problems at 1 may hide one
    in twenty that is never solved), so d goes to 1 there: this keeps the interval from closing
    when all values are equal. Student's t pays for estimating r, which 0/1 values do not: for them
    d = 1 and the result is `wilson_interval`'s. One problem counts as d = 1 too.

    Coverage on simulated benchmarks of 30 to 1,319 problems with 1 to 16 samples, whose solve rates
    follow beta distributions of many shapes: 94 to 96.5 % for means near 0.1 to 0.8. Near 0.95 with
    30 or 40 problems, 96 to 98 %, where mean +- z s / sqrt(n) covers 77 to 92 %. That is with the
    true mean drawn anew for each benchmark. For one fixed truth, 0/1 values and 30 problems it is
    anything from 90 to 98 %, depending on where the truth lies between multiples of 1/n.

    Args:
        values: one per problem: avg@k, pass@k, maj@k, or 0 and 1.

    Raises:
        ValueError: there is no value, or one is outside 0 to 1.

    Source: Wilson 1927; Korn and Graubard 1998, "Confidence intervals for proportions with small
        expected number of positive counts estimated from survey data" (effective sample size).
        w and the mixture of z and t are this project's, chosen by simulation.
    """
    check_shares(values)
    n, share = len(values), fmean(values)
    information = n * share * (1.0 - share)
    if n == 1 or information == 0.0:
        return Estimate(share, *_wilson(share, n, Z))
    squares = math.fsum((value - share) ** 2 for value in values)
    spread = min(1.0, n / (n - 1) * squares / information)
    unknown = 1.0 / (1.0 + 9.0 * information * information)
    surplus = (1.0 - unknown) * (1.0 - spread)
    quantile = Z + (student_t_quantile(n - 1) - Z) * surplus
    return Estimate(share, *_wilson(share, n / (1.0 - surplus), quantile))


def run_error(rows: Sequence[Sequence[bool]]) -> float | None:
    """Standard error of avg@k between runs on the same problems.

        sqrt(sum_i s_i^2 / k_i) / n,    s_i^2 = c_i (k_i - c_i) / (k_i (k_i - 1))

    A problem with one sample shows no variance of its own. It is given the mean s_i^2 of the
    others: leaving it out would call it certain.

    Args:
        rows: for each problem, whether each of its k_i graded samples was right; none empty.

    Returns:
        A share of 1; None when no problem has two samples.

    Raises:
        ValueError: there is no problem, or a problem has no sample.
    """
    if not rows or not all(rows):
        raise ValueError(
            f"run_error needs at least one graded sample for every problem, got {len(rows)} "
            f"problems, {sum(not row for row in rows)} of them without. Leave those out."
        )
    counts = [(sum(row), len(row)) for row in rows]
    variances = [c * (k - c) / (k * (k - 1)) for c, k in counts if k > 1]
    if not variances:
        return None
    singles = len(rows) - len(variances)
    within = math.fsum(c * (k - c) / (k * k * (k - 1)) for c, k in counts if k > 1)
    return math.sqrt(within + singles * fmean(variances)) / len(rows)


@lru_cache(maxsize=1024)
def student_t_quantile(degrees: int) -> float:
    """97.5 % quantile of Student's t with a whole number of degrees of freedom.

    With theta = atan(t / sqrt(degrees)), the probability within +-t is a finite sum of powers of
    cos(theta); theta is found by bisection.

    Args:
        degrees: of freedom, at least 1.

    Raises:
        ValueError: there are none: one observation has no spread.

    Source: Abramowitz and Stegun 1964, "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    if degrees < 1:
        raise ValueError(f"degrees = {degrees}; Student's t needs at least two observations.")
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 0.95 else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def check_shares(values: Sequence[float]) -> None:
    """Checks that there are values, all between 0 and 1.

    Raises:
        ValueError: there is none, or one is outside.
    """
    if not values:
        raise ValueError("an interval needs the value of at least one problem, got none.")
    strange = [value for value in values if not 0.0 <= value <= 1.0]
    if strange:
        raise ValueError(
            f"{strange[0]} is not a share: give one value from 0 to 1 for each problem."
        )


def _within(theta: float, degrees: int) -> float:
    """Probability that |t| <= sqrt(degrees) tan(theta)."""
    odd, cosine = degrees % 2, math.cos(theta)
    term, total = (cosine if odd else 1.0), 0.0
    for j in range(1 + odd, degrees, 2):
        total += term
        term *= cosine * cosine * j / (j + 1)
    total *= math.sin(theta)
    return 2.0 / math.pi * (theta + total) if odd else total


def _wilson(share: float, n: float, quantile: float) -> tuple[float, float]:
    """Wilson's interval for any effective number of problems and any quantile."""
    square = quantile * quantile
    center = (share + square / (2 * n)) / (1 + square / n)
    spread = math.sqrt(share * (1 - share) / n + square / (4 * n * n))
    half = quantile / (1 + square / n) * spread
    # Rounding alone could put the share outside, at 0 and at 1.
    return max(0.0, min(share, center - half)), min(1.0, max(share, center + half))

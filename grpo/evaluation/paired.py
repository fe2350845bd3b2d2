"""Whether one evaluation beats another on the same problems, and what it could have seen.

The problems' own differences are compared: what makes a problem hard for both cancels, so this is
far sharper than holding two intervals next to each other.

Interval. Student's, with one problem more that is half better and half worse, by h, the largest
difference seen (1 when none was):

    N = n + 1,  V = (sum d^2 + h^2) / N - (sum d / N)^2
    mean(d) +- t_n sqrt(V / N)

Without that problem the interval closes when few problems differ: between policies that are alike
it covers as little as 70 % at 30 problems with one sample. With it, 93 to 97 % where many problems
differ, and up to 100 % where only a handful do. No interval of useful width is right when a rare
kind of problem carries the whole difference and may be absent from the benchmark: if that is one
problem in twenty, 30 problems with 16 samples cover 78 to 97 %.

Test. Were a and b alike on a problem, its difference would be as likely to have the other sign.
The p-value is the share of sign flips that give a mean at least as far from 0: all of them for up
to `EXACT_UP_TO` differing problems. For values 0 and 1 this is McNemar's exact test, whose p-value
has a closed form for any number. Beyond that, `DRAWS` random flips from a fixed seed,
p = (1 + hits) / (1 + draws). The test may disagree with the interval where p is close to 0.05.

Power. `minimum_detectable` is the textbook's, of a normal test. In simulation that difference is
found 73 to 93 % of the time with 4 samples or more. With one, McNemar's p-values come in large
steps and are never too small: 61 % at 30 problems, 72 to 78 % at 83 and more.

Source: McNemar 1947, "Note on the sampling error of the difference between correlated
    proportions or percentages"; Fisher 1935, "The Design of Experiments", ch. 3 (sign flips).
    Agresti and Min 2005, "Simple improved confidence intervals for comparing matched
    proportions" (added observations; the size h, for values between 0 and 1, is this
    project's, chosen by simulation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cotree.grpo.evaluation.intervals import Z, check_shares, student_t_quantile

Test = Literal["exact McNemar", "exact sign flips", "random sign flips"]

EXACT_UP_TO = 32
"""Differing problems whose 2^32 sign flips are all counted; beyond, some are drawn."""
DRAWS = 20_000
"""Random sign flips: a p-value of 0.05 has a standard error of 0.0015."""

_POWER_Z = Z + NormalDist().inv_cdf(0.8)
_SEED = 0
_BLOCK = 500
"""Flips at a time; divides `DRAWS`."""


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Evaluation b against evaluation a. Shares of 1; positive: b is better."""

    n: int
    """Problems."""
    difference: float
    """Mean over problems of b - a."""
    low: float
    """95 % interval over problems, between -1 and 1."""
    high: float
    p_value: float
    """Two-sided, of the hypothesis that a and b are alike on every problem."""
    test: Test
    num_better: int
    """Problems on which b has the higher value."""
    num_worse: int
    minimum_detectable: float | None
    """Difference that a test at 5 %, two-sided, finds 80 % of the time: (z_.975 + z_.8) s / sqrt(n)
    with s the standard deviation of the differences. None when s = 0 or n = 1: differences that are
    all equal do not tell how far they vary."""


def paired_difference(a: Sequence[float], b: Sequence[float]) -> PairedDifference:
    """Mean difference b - a over problems, with an interval, a test and the test's reach.

    The method, and what it holds, is in this module's description. Same values, same result, in any
    order of the problems.

    Args:
        a: value of each problem in one evaluation, from 0 to 1.
        b: the same problems in the other, in the same order.

    Raises:
        ValueError: the lengths differ, there is no problem, or a value is outside 0 to 1.
    """
    if len(a) != len(b):
        raise ValueError(
            f"a has {len(a)} problems, b has {len(b)}; give the values of the problems that both "
            "evaluations have, in one order."
        )
    check_shares(a)
    check_shares(b)
    differences = [after - before for before, after in zip(a, b, strict=True)]
    n, mean = len(differences), fmean(differences)
    half = _half_width(differences)
    better = sum(d > 0 for d in differences)
    worse = sum(d < 0 for d in differences)
    deviation = stdev(differences) if min(differences) < max(differences) else 0.0
    if all(value in (0.0, 1.0) for value in (*a, *b)):
        test, p_value = "exact McNemar", mcnemar_p_value(better, worse)
    else:
        test, p_value = sign_flip_p_value(differences)
    return PairedDifference(
        n=n,
        difference=mean,
        low=max(-1.0, mean - half),
        high=min(1.0, mean + half),
        p_value=p_value,
        test=test,
        num_better=better,
        num_worse=worse,
        minimum_detectable=_POWER_Z * deviation / math.sqrt(n) if deviation else None,
    )


def mcnemar_p_value(num_better: int, num_worse: int) -> float:
    """Two-sided exact p-value of `num_better` heads among the problems that differ.

        p = min(1, 2 * P(X <= min(better, worse))),    X ~ Binomial(better + worse, 1/2)

    Raises:
        ValueError: a count is negative.

    Source: McNemar 1947.
    """
    if min(num_better, num_worse) < 0:
        raise ValueError(f"{num_better} better and {num_worse} worse; counts start at 0.")
    differing = num_better + num_worse
    tail, ways = 0, 1
    for heads in range(min(num_better, num_worse) + 1):
        tail += ways
        ways = ways * (differing - heads) // (heads + 1)
    return min(1.0, 2 * tail / 2**differing)


def sign_flip_p_value(differences: Sequence[float]) -> tuple[Test, float]:
    """Two-sided p-value of a sum of differences under random signs, and the test that gave it.

    Problems without a difference do not change it. See `paired_difference`.
    """
    # Signs are flipped anyway, so neither theirs nor the order of problems may change a draw.
    sizes = np.sort(np.abs(np.array([d for d in differences if d != 0.0], dtype=np.float64)))
    # Sums that are equal but for rounding are equal.
    reached = abs(math.fsum(differences)) - 1e-9 * float(sizes.sum())
    if len(sizes) <= EXACT_UP_TO:
        return "exact sign flips", _exact_share(sizes, reached)
    rng, hits = np.random.default_rng(_SEED), 0
    for _ in range(DRAWS // _BLOCK):
        packed = rng.integers(0, 256, size=(_BLOCK, -(-len(sizes) // 8)), dtype=np.uint8)
        positive = np.unpackbits(packed, axis=1, count=len(sizes)).astype(np.float64)
        sums = 2.0 * (positive @ sizes) - sizes.sum()
        hits += int(np.count_nonzero(np.abs(sums) >= reached))
    return "random sign flips", (1 + hits) / (1 + DRAWS)


def _exact_share(sizes: NDArray[np.float64], reached: float) -> float:
    """Share of all sign flips whose sum is at least `reached` in size.

    Sums of two halves are listed, and pairs of them counted by binary search: 2^16 entries stand
    for 2^32 flips. The sums are symmetric about 0, so one tail is counted.
    """
    if reached <= 0.0:
        return 1.0
    left, right = _all_sums(sizes[::2]), np.sort(_all_sums(sizes[1::2]))
    below = np.searchsorted(right, reached - left, side="left")
    tail = left.size * right.size - int(below.sum())
    return 2 * tail / (left.size * right.size)


def _all_sums(sizes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of the sizes under all combinations of signs, one of each."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _half_width(differences: Sequence[float]) -> float:
    """Half of the interval's width, before it is cut at -1 and 1."""
    largest = max(map(abs, differences)) or 1.0
    count = len(differences) + 1
    square = math.fsum([largest * largest, *(d * d for d in differences)]) / count
    mean = math.fsum(differences) / count
    return student_t_quantile(count - 1) * math.sqrt((square - mean * mean) / count)

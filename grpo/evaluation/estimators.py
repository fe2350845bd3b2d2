"""What k samples of a problem would have scored, from the n >= k that were drawn. Exact.

Each estimator is the average over all subsets of k of the n samples, so it is unbiased for k new
samples and has less noise than the first k. Counts in, shares of 1 out; integers until the last
division, which rounds once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import comb, lcm
from typing import NamedTuple


class VoteClass(NamedTuple):
    """Samples of one problem whose answers are equal; they vote for one answer."""

    votes: int
    correct: bool


def subset_sizes(k: int) -> tuple[int, ...]:
    """The k' at which curves over k are drawn: 1, 2, 4, ... below k, and k itself.

    Raises:
        ValueError: there is no sample.
    """
    if k < 1:
        raise ValueError(f"k = {k}; a curve over k needs at least one sample.")
    return (*(2**power for power in range((k - 1).bit_length())), k)


def pass_at_k(n: int, c: int, k: int) -> float:
    """Probability that at least one of k samples is right, of n samples of which c are.

        pass@k = 1 - C(n - c, k) / C(n, k)

    Args:
        n: samples drawn of one problem.
        c: right ones among them.
        k: samples allowed.

    Raises:
        ValueError: not 0 <= c <= n, or not 1 <= k <= n.

    Source: Chen et al. 2021, arXiv:2107.03374, eq. 1.
    """
    _check_subset(n, k)
    if not 0 <= c <= n:
        raise ValueError(f"c = {c} right samples of n = {n}; count those among the n graded ones.")
    subsets = comb(n, k)
    return (subsets - comb(n - c, k)) / subsets


def majority_at_k(classes: Sequence[VoteClass], num_abstained: int, k: int) -> float:
    """Probability that the most frequent answer among k samples is right: expected maj@k.

    Averaged over all subsets of k of the n samples. Samples without an answer cast no vote, and a
    subset of only such samples is wrong. Among the classes that share the most votes the winner is
    drawn evenly, so a tie counts the share of right ones in it. With a for the votes of the winner,
    and v_i for the samples of class i,

        maj@k = sum over right j, a, t of  C(v_j, a) * [x^(k-a) y^t] F / (1 + t)  /  C(n, k)
        F     = (1 + x)^m * prod over i != j with v_i >= a of
                (sum over b < a of C(v_i, b) x^b  +  C(v_i, a) x^a y)

    x counts samples and y the t classes that tie with j; m counts the samples that cannot reach a
    votes: abstentions, and classes with v_i < a.

    Args:
        classes: the samples with an answer, by equal answers.
        num_abstained: samples without an answer.
        k: samples that vote, at most all of them.

    Returns:
        A share of 1. Costs milliseconds for n = 64, and grows about as n^4 for many classes.

    Raises:
        ValueError: a class has no vote, `num_abstained` is negative, or not 1 <= k <= n.
    """
    if num_abstained < 0 or any(votes < 1 for votes, _ in classes):
        raise ValueError(
            f"{num_abstained} samples abstained, classes have {[votes for votes, _ in classes]} "
            "votes; leave classes without votes out, and count abstentions from 0."
        )
    n = num_abstained + sum(votes for votes, _ in classes)
    _check_subset(n, k)
    scale = lcm(*range(1, len(classes) + 1))
    wins = 0
    # Right classes of one size win alike.
    for votes, count in Counter(votes for votes, correct in classes if correct).items():
        rivals = [rival for rival, _ in classes]
        rivals.remove(votes)
        for most in range(1, min(votes, k) + 1):
            ways = _shared_wins(rivals, num_abstained, most=most, left=k - most, scale=scale)
            wins += count * comb(votes, most) * ways
    return wins / (scale * comb(n, k))


def _shared_wins(
    rivals: Sequence[int], num_abstained: int, *, most: int, left: int, scale: int
) -> int:
    """`scale` * sum over t of [x^left y^t] F / (1 + t), F as in `majority_at_k`.

    `ties[t]` is the coefficient of y^t, a polynomial in x kept as its value at x = 2^bits. No
    coefficient overlaps the next: each counts subsets of the samples here, so it is below 2^bits.
    """
    bits = num_abstained + sum(rivals) + 1
    idle = num_abstained + sum(votes for votes in rivals if votes < most)
    ties = [(1 + (1 << bits)) ** idle]
    for votes in rivals:
        if votes < most:
            continue
        fewer = sum(comb(votes, b) << (bits * b) for b in range(most))
        equal = comb(votes, most) << (bits * most)
        ties = [
            fewer * same_tie + equal * smaller_tie
            for same_tie, smaller_tie in zip([*ties, 0], [0, *ties], strict=True)
        ][: left // most + 1]
    mask = (1 << bits) - 1
    return sum(
        ((polynomial >> (bits * left)) & mask) * (scale // (1 + tied))
        for tied, polynomial in enumerate(ties)
    )


def _check_subset(n: int, k: int) -> None:
    """Raises unless k samples can be chosen among n."""
    if not 1 <= k <= n:
        raise ValueError(
            f"k = {k} of n = {n} samples; k must be from 1 to n. Lower k, or sample more."
        )

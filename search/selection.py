"""Rules by which a tree search chooses among the children of a node. Pure functions.

Sequences have one entry a child, in one order. A child has visits N (replies backed up through it)
and a value sum W (of their scores, in [0, 1]), jobs in flight O and a prior P. A stands for the
number of children in shapes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

PUCT_C1 = 1.25
PUCT_C2 = 19652.0


def mean_values(
    visits: Sequence[float], value_sums: Sequence[float], *, unvisited: float
) -> list[float]:
    """Q = W / N of each child; `unvisited` where nothing was backed up.

    Args:
        visits: [A] N.
        value_sums: [A] W.
        unvisited: what is believed of a child without a visit. Nothing counts as 0 by default: that
            would be the verdict of a visit that failed.

    Returns:
        [A].
    """
    return [
        total / count if count > 0 else unvisited
        for count, total in zip(visits, value_sums, strict=True)
    ]


def uct(visits: Sequence[float], qvalues: Sequence[float], *, c: float) -> list[float]:
    """Upper confidence bound of each child; the largest is chosen.

        Q(a) + c * sqrt(ln N / N(a)),    N = sum_b N(b);    +inf where N(a) = 0

    Args:
        visits: [A] N(a).
        qvalues: [A] Q(a), in [0, 1]; not read where N(a) = 0.
        c: weight of exploration. sqrt(2) is UCB1.

    Returns:
        [A].

    Source: Kocsis and Szepesvari 2006, "Bandit based Monte-Carlo planning", sec. 2.
    """
    total = sum(visits)
    return [
        q + c * math.sqrt(math.log(total) / count) if count > 0 else math.inf
        for count, q in zip(visits, qvalues, strict=True)
    ]


def wu_uct(
    visits: Sequence[float], qvalues: Sequence[float], inflight: Sequence[float], *, c: float
) -> list[float]:
    """As `uct`, told of what is under way ("watch the unobserved"); the largest is chosen.

        Q(a) + c * sqrt(2 ln(N + O) / (N(a) + O(a))),    N = sum_b N(b),  O = sum_b O(b)

    and +inf where N(a) + O(a) = 0. Jobs in flight make a child less worth exploring and leave its
    value alone. Nothing in flight and `c` smaller by sqrt(2) gives `uct`.

    Args:
        visits: [A] N(a).
        qvalues: [A] Q(a) of what was backed up; a first-play urgency where that is nothing.
        inflight: [A] O(a).
        c: weight of exploration, beta in the paper.

    Returns:
        [A].

    Source: Liu et al. 2020, arXiv:1810.11755, sec. 3.1.
    """
    expected = [count + under_way for count, under_way in zip(visits, inflight, strict=True)]
    return uct(expected, qvalues, c=c * math.sqrt(2.0))


def puct(
    visits: Sequence[float],
    qvalues: Sequence[float],
    priors: Sequence[float],
    *,
    c1: float,
    c2: float,
) -> list[float]:
    """Predictor + upper confidence bound of each child; the largest is chosen.

        Q(a) + (c1 + ln((N + c2 + 1) / c2)) * P(a) * sqrt(max(1, N)) / (1 + N(a))

    N is the sum of the children's visits, as in MuZero. That is 0 before the first visit, where the
    papers' sqrt(N) would make all children equal: from max(1, N) the priors break that tie.

    Args:
        visits: [A] N(a). With jobs in flight added, and Q from what was backed up alone, this is
            WU-UCT's treatment of what is under way.
        qvalues: [A] Q(a), in [0, 1]; some estimate where there is no visit.
        priors: [A] P(a). Of children that were drawn from the policy: `sampled_priors`.
        c1: weight of exploration while visits are few. 1.25 in the papers.
        c2: visits after which that weight grows. 19652 in the papers.

    Returns:
        [A].

    Source: Silver et al. 2018, "A general reinforcement learning algorithm", supplement (search);
        Schrittwieser et al. 2020, arXiv:1911.08265, appendix B, eq. 2.
    """
    total = sum(visits)
    weight = (c1 + math.log((total + c2 + 1.0) / c2)) * math.sqrt(max(1.0, total))
    return [
        q + weight * prior / (1.0 + count)
        for count, q, prior in zip(visits, qvalues, priors, strict=True)
    ]


def with_virtual_losses(
    visits: Sequence[float],
    value_sums: Sequence[float],
    inflight: Sequence[float],
    *,
    losses: float,
    unvisited: float,
) -> tuple[list[float], list[float]]:
    """Visits and values as if each job in flight had been lost already.

        N'(a) = N(a) + losses * O(a),    Q'(a) = W(a) / N'(a)

    Args:
        visits: [A] N(a).
        value_sums: [A] W(a).
        inflight: [A] O(a).
        losses: visits of value 0 that stand in for one job.
        unvisited: value of a child with neither visits nor jobs.

    Returns:
        N' and Q', [A] each: arguments of `uct` and `puct`.

    Source: Chaslot et al. 2008, "Parallel Monte-Carlo tree search", sec. 3.3.
    """
    counts = [count + losses * jobs for count, jobs in zip(visits, inflight, strict=True)]
    return counts, mean_values(counts, value_sums, unvisited=unvisited)


def sampled_priors(counts: Sequence[int], ratios: Sequence[float] | None = None) -> list[float]:
    """Priors of children that were drawn, not listed: the share of draws that each one had.

        P(a) = m(a) / k,    or  P(a) ~ m(a) * pi(a) / beta(a)  for draws from beta instead of pi

    The probability pi(a) of a drawn child is no prior: how often it was drawn counts it already.

    Args:
        counts: [A] m(a), times that each child was drawn.
        ratios: [A] pi(a) / beta(a); None: the draws were pi's own.

    Returns:
        [A] positive, of sum 1.

    Raises:
        ValueError: a child was never drawn, or a ratio is not positive.

    Source: Hubert et al. 2021, arXiv:2104.06303, sec. 4 (Sampled MuZero).
    """
    weights = [1.0] * len(counts) if ratios is None else ratios
    if min(counts, default=1) < 1 or min(weights, default=1.0) <= 0.0:
        raise ValueError(
            f"children drawn {list(counts)} times with ratios {list(weights)}; count each child "
            "once a draw, and give ratios above 0."
        )
    drawn = [count * weight for count, weight in zip(counts, weights, strict=True)]
    total = sum(drawn)
    return [one / total for one in drawn]


def may_widen(num_children: int, visits: int, *, kappa: float, alpha: float) -> bool:
    """Whether a node that was visited so often may have a further child (progressive widening).

        |C(s)| < ceil(kappa * N(s) ** alpha)

    Args:
        num_children: |C(s)|, those that are being drawn too.
        visits: N(s).
        kappa: above 0. Children after the first visit.
        alpha: in [0, 1]. 0 keeps ceil(kappa) children; 1 prefers a new one to any old one.

    Source: Coulom 2007, "Computing Elo ratings of move patterns in the game of Go", sec. 5;
        Couetoux et al. 2011, "Continuous upper confidence trees", sec. 3.
    """
    return num_children < math.ceil(kappa * visits**alpha)


def softmax(logits: Sequence[float]) -> list[float]:
    """[A] probabilities from [A] finite logits, in nats."""
    highest = max(logits)
    weights = [math.exp(logit - highest) for logit in logits]
    total = sum(weights)
    return [weight / total for weight in weights]

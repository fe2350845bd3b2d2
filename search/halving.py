"""Gumbel-Top-k and Sequential Halving: spending a known number of simulations on a few children.

Pure functions. Sequences have one entry a child, in one order; A is their number in shapes.
Values are in [0, 1] as scores are, so they are not rescaled (mctx rescales by default).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import NamedTuple

from cotree.search.selection import softmax

C_VISIT = 50.0
C_SCALE = 0.1


class Phase(NamedTuple):
    """A part of a schedule: its candidates take turns until its simulations are spent."""

    num_candidates: int
    num_simulations: int


def halving_phases(num_candidates: int, num_simulations: int) -> list[Phase]:
    """Sequential Halving: ever fewer candidates get ever more simulations each.

    A phase of m' of the m candidates gives each max(1, floor(n / (ceil(log2 m) m'))) of the n
    simulations; the better half goes on, and two at least. Those two take what is left.

    Args:
        num_candidates: m, at least 1.
        num_simulations: n, at least 0.

    Returns:
        Phases whose simulations sum to n, each of fewer candidates than the one before. Where n
        is small the last phase ends early.

    Raises:
        ValueError: there is no candidate, or n is negative.

    Source: Karnin et al. 2013, "Almost optimal exploration in multi-armed bandits", algorithm 3;
        Danihelka et al. 2022, "Policy improvement by planning with Gumbel", sec. 3.3. The order of
        remainders is that of mctx.
    """
    if num_candidates < 1 or num_simulations < 0:
        raise ValueError(
            f"{num_candidates} candidates and {num_simulations} simulations make no schedule; give "
            "1 candidate or more, and 0 simulations or more."
        )
    phases: list[Phase] = []
    rounds = max(1, math.ceil(math.log2(num_candidates)))
    considered, left = num_candidates, num_simulations
    while left > 0 and considered > 2:
        each = max(1, num_simulations // (rounds * considered))
        phases.append(Phase(considered, min(left, each * considered)))
        left -= phases[-1].num_simulations
        considered = max(2, considered // 2)
    return [*phases, Phase(considered, left)] if left > 0 else phases


def gumbel_noise(rng: random.Random) -> float:
    """A draw from the standard Gumbel distribution: -ln(-ln u), u uniform in (0, 1)."""
    uniform = rng.random()
    while uniform == 0.0:
        uniform = rng.random()
    return -math.log(-math.log(uniform))


def sigma(
    visits: Sequence[float],
    qvalues: Sequence[float],
    *,
    c_visit: float = C_VISIT,
    c_scale: float = C_SCALE,
) -> list[float]:
    """Values on the scale of logits: the more visits, the more they outweigh the policy.

        (c_visit + max_b N(b)) * c_scale * q(a)

    Args:
        visits: [A] N(a).
        qvalues: [A] q(a), in [0, 1], completed where N(a) = 0.
        c_visit: visits that values are worth from the start.
        c_scale: weight of values. 0.1 in mctx, 1 in the paper's Go.

    Returns:
        [A] nats.

    Source: Danihelka et al. 2022, sec. 3.4.
    """
    scale = (c_visit + max(visits)) * c_scale
    return [scale * q for q in qvalues]


def improved_policy(
    visits: Sequence[float], qvalues: Sequence[float], priors: Sequence[float]
) -> list[float]:
    """Probabilities that prefer children by policy and value together.

        pi'(a) = softmax(ln P(a) + sigma(q(a)))

    Args:
        visits: [A] N(a).
        qvalues: [A] completed.
        priors: [A] P(a), above 0.

    Returns:
        [A].

    Source: Danihelka et al. 2022, sec. 4.
    """
    scaled = sigma(visits, qvalues)
    return softmax([math.log(p) + s for p, s in zip(priors, scaled, strict=True)])


def behind_policy(
    visits: Sequence[float], qvalues: Sequence[float], priors: Sequence[float]
) -> list[float]:
    """How far each child's share of visits is behind `improved_policy`; the largest is chosen.

        pi'(a) - N(a) / (1 + sum_b N(b))

    No randomness, and no bonus: visits follow the policy as closely as whole numbers can.

    Args:
        visits: [A] N(a); with jobs in flight, added.
        qvalues: [A] completed.
        priors: [A] P(a), above 0.

    Returns:
        [A].

    Source: Danihelka et al. 2022, sec. 5 (inner nodes).
    """
    policy = improved_policy(visits, qvalues, priors)
    total = sum(visits)
    return [p - count / (1.0 + total) for p, count in zip(policy, visits, strict=True)]


def halving_scores(
    noise: Sequence[float],
    visits: Sequence[float],
    qvalues: Sequence[float],
    priors: Sequence[float],
) -> list[float]:
    """What candidates at the root are ranked by; the larger half goes on.

        g(a) + ln P(a) + sigma(q(a))

    The noise g makes the candidates a draw from the policy without replacement, and it is the same
    in all phases.

    Args:
        noise: [A] g(a), see `gumbel_noise`.
        visits: [A] N(a).
        qvalues: [A] completed.
        priors: [A] P(a), above 0.

    Returns:
        [A].

    Source: Danihelka et al. 2022, algorithm 2.
    """
    scaled = sigma(visits, qvalues)
    return [g + math.log(p) + s for g, p, s in zip(noise, priors, scaled, strict=True)]

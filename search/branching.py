"""Where the chains of a rollout tree branch: chosen without looking at any reward.

A chain is a completion o_1 ... o_n sampled from the prompt. To branch at position p is to keep its
first p tokens and to sample again from there, the token at p included. Every position below lies
in 1 .. n - 2: at 0 nothing is shared, and at the last token hardly anything is left to sample.

What this does to the samples. Given a prefix, its forks are independent draws from the policy, and
nothing that chose the prefix has seen them: their mean reward estimates V(prefix) without bias.
But the rules look at the whole chain (its length, and for `entropy_points` and `step_points` what
comes later in it), so the prefixes are not the policy's own at any fixed depth, and the chain's own
continuation of a prefix is no independent draw: the choice has seen it. No rule sees a reward, and
none leans towards right answers as an adaptive search does.

Source: Hou et al. 2025, arXiv:2506.11902 (TreeRL, whose tree is EPTree); Ji et al. 2025,
    arXiv:2509.21240 (Tree-GRPO); Guo et al. 2025, arXiv:2505.23564 (SPO).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from cotree.search.segments import token_span
from cotree.search.tree_strategy import rng_at


def uniform_points(num_tokens: int, *, count: int, seed: int) -> tuple[int, ...]:
    """Random positions, one from each of `count` equal parts of the chain.

        p_j ~ Uniform{1 + floor(j * m / count), ..., floor((j + 1) * m / count)},  m = n - 2

    Args:
        num_tokens: n, tokens of the chain.
        count: positions wanted, at least 1.
        seed: the chain's; the same seed gives the same positions.

    Returns:
        Distinct positions in order; all of 1 .. n - 2 where there are no more than `count`.

    Source: Guo et al. 2025, arXiv:2505.23564 (segments of equal length), with a random border in
        each so that no position is never tried.
    """
    inner = max(0, num_tokens - 2)
    if inner <= count:
        return tuple(range(1, inner + 1))
    rng = rng_at(seed, "branch")
    borders = [part * inner // count for part in range(count + 1)]
    return tuple(1 + rng.randrange(start, end) for start, end in pairwise(borders))


def entropy_points(entropies: Sequence[float], *, count: int) -> tuple[int, ...]:
    """The positions at which the policy was least sure of the next token.

        the `count` largest H_p, p in 1 .. n - 2;  H_p = -sum_v pi(v | o_<p) * log pi(v | o_<p)

    H_p is a function of the tokens before p. The paper ranks by -log pi(o_p | o_<p) instead, which
    depends on what was sampled at p itself: it would branch where the chain happened to take an
    unlikely token. What remains is the dependence on the rest of the chain: a position wins or
    loses against later ones that are there only because of how the chain went on.

    Args:
        entropies: H_p in nats for each of the chain's tokens, the last included.
        count: positions wanted, at least 1.

    Returns:
        Distinct positions in order; of equal entropies the earlier one. All of 1 .. n - 2 where
        there are no more than `count`.

    Source: Hou et al. 2025, arXiv:2506.11902 (EPTree), changed as said.
    """
    inner = range(1, len(entropies) - 1)
    ranked = sorted(inner, key=lambda position: (-entropies[position], position))
    return tuple(sorted(ranked[:count]))


def step_points(text: str, ends: Sequence[int], *, count: int) -> tuple[int, ...]:
    """First tokens of reasoning steps, the steps taken evenly. A step is a line with text in it.

        p_j = s_i,  i = floor((j + 1/2) * K / count),  for the starts s_0 < ... < s_{K - 1}

    A token that reaches over the border of two steps belongs to the second.

    Args:
        text: the chain's.
        ends: characters of `text` after each token, as `token_ends` returns them.
        count: positions wanted, at least 1.

    Returns:
        Distinct positions in order; all starts in 1 .. n - 2 where there are no more than `count`.

    Source: Ji et al. 2025, arXiv:2509.21240 (a node is a whole step), with lines for the
        agent's turns.
    """
    starts: list[int] = []
    start = 0
    for line in text.split("\n"):
        if line.strip():
            position = token_span((start, start + 1), ends)[0]
            if 1 <= position <= len(ends) - 2 and position not in starts[-1:]:
                starts.append(position)
        start += len(line) + 1
    if len(starts) <= count:
        return tuple(starts)
    return tuple(starts[(2 * j + 1) * len(starts) // (2 * count)] for j in range(count))


def lumped_entropy(logprobs: Sequence[float]) -> float:
    """Entropy of a distribution of which only the most likely tokens are known, in nats.

        H = -sum_k p_k * log p_k - r * log r,   r = 1 - sum_k p_k

    All other tokens count as one. That is a lower bound: it leaves out r times the entropy among
    them. Exact where r = 0.

    Args:
        logprobs: of different tokens, in nats; -inf is a token that cannot be drawn.
    """
    probabilities = [math.exp(value) for value in logprobs]
    rest = max(0.0, 1.0 - math.fsum(probabilities))
    return math.fsum(-p * math.log(p) for p in (*probabilities, rest) if p > 0.0)

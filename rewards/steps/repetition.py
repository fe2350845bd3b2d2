"""A penalty for completions that go round in circles: the share of repeated n-grams."""

import re

from cotree.rewards.types import Problem, Reward

PIECE_CHARS = 12
"""Longer runs of letters are cut into pieces of this length, or one endless word would be free."""

# Letters of scripts without spaces stand alone, so that their texts have n-grams too.
_PIECE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]" rf"|\w{{1,{PIECE_CHARS}}}|[^\w\s]")


def repetition(
    completion: str,
    problem: Problem,  # noqa: ARG001 - the signature of a reward
    *,
    n: int = 12,
    allowed_frac: float = 0.5,
) -> Reward:
    """0 for text that says things once, down to -1 for text that repeats one thing.

        repeated = 1 - (distinct n-grams) / (n-grams)
        value    = -max(0, repeated - allowed_frac) / (1 - allowed_frac)

    Words and single symbols count, in lower case; white space does not, so it cannot hide anything.
    It never pays. Solutions repeat their formulas, hence the allowed share; texts of fewer than
    2 * n pieces are not judged.

    Args:
        completion: any text.
        problem: not used.
        n: pieces in an n-gram, >= 1.
        allowed_frac: share of repeated n-grams that costs nothing, in [0, 1).

    Raises:
        ValueError: an option is out of its range.
    """
    if n < 1 or not 0.0 <= allowed_frac < 1.0:
        raise ValueError(f"n = {n} must be at least 1 and allowed_frac = {allowed_frac} in [0, 1).")
    pieces = _PIECE.findall(completion.lower())
    count = len(pieces) - n + 1
    if len(pieces) < 2 * n:
        return Reward(0.0, f"{len(pieces)} pieces are too few to repeat")
    # Hashes of tuples: equal n-grams collide always, different ones practically never.
    distinct = len({tuple(pieces[start : start + n]) for start in range(count)})
    repeated = 1.0 - distinct / count
    excess = max(0.0, repeated - allowed_frac) / (1.0 - allowed_frac)
    return Reward(-excess if excess else 0.0, f"{repeated:.0%} of {count} {n}-grams are repeated")

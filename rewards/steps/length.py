"""A penalty for long completions, in characters or words: 0 up to a length, then falling to -1."""

import math
from typing import Literal, get_args

from cotree.rewards.types import Problem, Reward

Unit = Literal["characters", "words"]
Ramp = Literal["linear", "cosine"]


def length(
    completion: str,
    problem: Problem,  # noqa: ARG001 - the signature of a reward
    *,
    limit: int,
    buffer: int,
    unit: Unit = "characters",
    ramp: Ramp = "linear",
) -> Reward:
    """The soft overlong punishment: 0 for a completion that leaves the buffer free, else negative.

        excess = (n - (limit - buffer)) / buffer, clipped to [0, 1]
        value  = -excess (linear), or -(1 - cos(pi * excess)) / 2 (cosine)

    It never pays: a short completion gets what any completion within bounds gets. Counts are of the
    text, not of tokens, since rewards have no tokenizer; words are what white space separates, so a
    text without white space is one word, and only characters bound it.

    Args:
        completion: any text.
        problem: not used.
        limit: from here on the value is -1.
        buffer: how much before the limit the penalty starts, in 1..limit.
        unit: what is counted.
        ramp: how the penalty falls; `cosine` starts and ends gently.

    Raises:
        ValueError: an option is out of its range.

    Source: Yu et al. 2025, arXiv:2503.14476, sec. 3.4, eq. 13 (linear, in tokens there).
    """
    if not 1 <= buffer <= limit:
        raise ValueError(f"buffer = {buffer} must be in 1..limit = {limit}.")
    if unit not in get_args(Unit):
        raise ValueError(f'unit = {unit!r} is not "characters" or "words".')
    if ramp not in get_args(Ramp):
        raise ValueError(f'ramp = {ramp!r} is not "linear" or "cosine".')
    count = len(completion) if unit == "characters" else len(completion.split())
    excess = min(max((count - (limit - buffer)) / buffer, 0.0), 1.0)
    penalty = excess if ramp == "linear" else (1.0 - math.cos(math.pi * excess)) / 2.0
    return Reward(-penalty if penalty else 0.0, f"{count} {unit} of {limit}")

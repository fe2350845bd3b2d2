"""Which texts of a corpus are worth the most to a student as it starts. Pure.

A text's value mixes two ranks: the student's mean entropy on it, and the norm of the gradient that
it would give. Ranks, because entropies (nats) and norms have different units, and norms of a few
odd texts would outweigh everything else.

The mixture of entropy and gradient norm at 0.6 to 0.4 is a recipe in use for picking distillation
data. On small students a random choice was better, see docs/distillation.md. The gradient's norm as
the importance of an example: Paul et al. 2021, arXiv:2107.07075, sec. 2 (GraNd).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from cotree.grpo.seeds import derive

if TYPE_CHECKING:
    from cotree.grpo.config_distill import Selection


def ranks(values: Sequence[float]) -> list[float]:
    """Place of each value among all: 0 the lowest, 1 the highest.

        rank = (number of lower values + (number of equal ones - 1) / 2) / (N - 1)

    Args:
        values: [N], finite. One value alone is in the middle, 0.5, as are N equal ones.

    Returns:
        [N], ties averaged, so that their order in the corpus does not matter.

    Raises:
        ValueError: a value is not finite, and has no place.
    """
    _check_finite(values)
    if len(values) < 2:
        return [0.5] * len(values)
    found = [0.0] * len(values)
    below = 0
    order = sorted(range(len(values)), key=lambda index: values[index])
    for _, tied in groupby(order, key=lambda index: values[index]):
        indices = list(tied)
        for index in indices:
            found[index] = (below + (len(indices) - 1) / 2) / (len(values) - 1)
        below += len(indices)
    return found


def data_values(
    entropies: Sequence[float], gradient_norms: Sequence[float], *, entropy_weight: float
) -> list[float]:
    """How much each text is worth to the student; higher is better.

        value = w * rank(entropy) + (1 - w) * rank(gradient norm)

    Args:
        entropies: [N] the student's mean entropy on each text, in nats a token.
        gradient_norms: [N] norm of the gradient that each text would give.
        entropy_weight: w, in [0, 1].

    Returns:
        [N], in [0, 1].

    Raises:
        ValueError: there are more of one than of the other, or a value is not finite.
    """
    if len(entropies) != len(gradient_norms):
        raise ValueError(
            f"data_values needs both of each text; got {len(entropies)} entropies and "
            f"{len(gradient_norms)} gradient norms."
        )
    if not 0 <= entropy_weight <= 1:
        raise ValueError(f"entropy_weight = {entropy_weight:g} must lie in [0, 1].")
    return [
        entropy_weight * entropy + (1 - entropy_weight) * norm
        for entropy, norm in zip(ranks(entropies), ranks(gradient_norms), strict=True)
    ]


def selected(values: Sequence[float] | int, selection: Selection, *, seed: int) -> list[int]:
    """Indices of the texts that are kept, in the order of the corpus.

    Args:
        values: [N] worth of each text; of equal ones the earlier is kept. For `by = "random"`, N
            itself is enough.
        selection: the share of N that is kept, to the nearest text and at least one.
        seed: of a random choice; the same one gives the same texts.

    Raises:
        ValueError: there is no text, a value is not finite, or N alone is given for a choice by
            value.
    """
    number = values if isinstance(values, int) else len(values)
    if number < 1:
        raise ValueError("there is no text to select from; the corpus is empty.")
    count = max(1, round(selection.share * number))
    if selection.by == "random":
        rng = random.Random(derive(seed, "selection"))
        return sorted(rng.sample(range(number), count))
    if isinstance(values, int):
        raise ValueError(
            f'selection.by = "value" needs the value of each of the {number} texts, not their '
            "number."
        )
    _check_finite(values)
    return sorted(sorted(range(number), key=lambda index: -values[index])[:count])


def _check_finite(values: Sequence[float]) -> None:
    strange = [index for index, value in enumerate(values) if not math.isfinite(value)]
    if strange:
        raise ValueError(
            f"text {strange[0]} has the value {values[strange[0]]}, which has no place among the "
            "others; look for a text without a trained token, or a model that overflows."
        )

"""What a teacher thinks of the tokens of a text: plain arrays, no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from cotree.grpo.config_distill import TopK
    from cotree.grpo.types import PromptTokens

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]


class ScoreRequest(NamedTuple):
    """A text to be scored: what is given, and the tokens that the opinion is asked about."""

    prompt_ids: PromptTokens
    """At least one token."""
    token_ids: PromptTokens
    """At least one token; the first one is predicted from the prompt."""


@dataclass(frozen=True, slots=True)
class TokenScores:
    """A teacher's opinion of T consecutive tokens and of up to K others in each one's place."""

    logprobs: FloatArray
    """[T] nats: of the tokens themselves, at temperature 1."""
    top_ids: IntArray
    """[T, K] the most likely tokens by falling probability; -1 fills up."""
    top_logprobs: FloatArray
    """[T, K] nats of `top_ids`, at temperature 1; -inf fills up."""

    def tail_mass(self) -> FloatArray:
        """[T] probability of all tokens that are not in `top_ids`."""
        covered = np.exp(self.top_logprobs.astype(np.float64)).sum(-1)
        return np.clip(1.0 - covered, 0.0, 1.0).astype(np.float32)

    def trimmed(self, keep: TopK) -> TokenScores:
        """At most `keep.most` tokens a position, and none once the rest is below `tail_mass`.

        Dropped places are filled with -1 and -inf; K becomes the longest position's number.
        """
        ids, logprobs = self.top_ids[:, : keep.most], self.top_logprobs[:, : keep.most]
        mass = np.exp(logprobs.astype(np.float64))
        before = 1.0 - (mass.cumsum(-1) - mass)  # what is left before this token is counted
        # Rounding may leave less than nothing before a token that has some.
        wanted = (ids >= 0) & ((before > keep.tail_mass) | (keep.tail_mass == 0))
        width = int(wanted.sum(-1).max(initial=0))
        return replace(
            self,
            top_ids=np.where(wanted, ids, -1)[:, :width].astype(np.int32),
            top_logprobs=np.where(wanted, logprobs, -np.inf)[:, :width].astype(np.float32),
        )

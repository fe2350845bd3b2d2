"""What a teacher thinks of given texts: from engines of our own, and what every source offers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain, groupby
from typing import Protocol

from cotree.grpo.generator import GeneratorGroup, RayHandle
from cotree.grpo.token_scores import ScoreRequest, TokenScores

__all__ = ["EngineScorer", "Scorer"]

_TOKENS_A_CALL = 8192
"""Of the texts that one engine gets in a call: seconds of work, so that progress shows."""

Share = list[ScoreRequest]


class Scorer(Protocol):
    """A teacher that scores texts in its own tokens."""

    def score(self, requests: Sequence[ScoreRequest], *, top_k: int) -> list[TokenScores]:
        """Log-probabilities of each text's tokens and of the `top_k` most likely in their places.

        Args:
            requests: texts in the teacher's own tokens.
            top_k: most likely tokens at each position; 0 scores the texts' own alone.

        Returns:
            One for each request, in their order.
        """
        ...

    def scores(
        self, requests: Sequence[ScoreRequest], *, top_k: int
    ) -> Iterator[tuple[int, TokenScores]]:
        """As `score`, but yields (index of a request, its scores) in order while it goes on."""
        ...


class EngineScorer:
    """A `Scorer` over the engines of a `GeneratorGroup`, which somebody else starts and stops."""

    def __init__(self, group: GeneratorGroup) -> None:
        self._group = group

    def score(self, requests: Sequence[ScoreRequest], *, top_k: int) -> list[TokenScores]:
        """All scores, in the order of the requests; see `ScoringGenerator.score`.

        Raises:
            ValueError: a text or `top_k` is not what the engines can score.
            GeneratorDiedError: an engine died again after it was replaced.
        """
        return [scores for _, scores in self.scores(requests, top_k=top_k)]

    def scores(
        self, requests: Sequence[ScoreRequest], *, top_k: int
    ) -> Iterator[tuple[int, TokenScores]]:
        """As `score`, one after the other; the engines go on while the caller works.

        Raises:
            ValueError, GeneratorDiedError: as `score`. What was yielded before stays valid.
        """
        dealt = dealt_out(requests, replicas=self._group.replicas, most_tokens=_TOKENS_A_CALL)
        rounds = [_Round(self._group, shares, top_k) for shares in dealt]
        found = chain.from_iterable(
            self._result(rounds[number : number + 2]) for number in range(len(rounds))
        )
        yield from enumerate(found)

    def _result(self, under_way: Sequence[_Round]) -> list[TokenScores]:
        """Of the first round; the engines then go on with the other one."""
        for one in under_way:
            if not one.is_sent:
                one.send()

        is_repeated = False

        def result() -> list[TokenScores]:
            nonlocal is_repeated
            if is_repeated:  # an engine died, and what was queued on it is lost
                for one in under_way:
                    one.send()
            is_repeated = True
            return under_way[0].result()

        return self._group.healed(result)


class _Round:
    """One share of the texts for each engine."""

    def __init__(self, group: GeneratorGroup, shares: Sequence[Share], top_k: int) -> None:
        self._group = group
        self._shares = shares
        self._top_k = top_k
        self._calls: list[tuple[int, RayHandle]] = []

    @property
    def is_sent(self) -> bool:
        return bool(self._calls)

    def send(self) -> None:
        """Queues the shares, also those that were queued before."""
        self._calls = [
            (replica, self._group.call(replica, "score", share, top_k=self._top_k))
            for replica, share in enumerate(self._shares)
        ]

    def result(self) -> list[TokenScores]:
        """Waits; the scores of all shares in a row. Call it once."""
        found = list(chain.from_iterable(self._group.get(self._calls)))
        self._calls = []  # the object store keeps what is referred to
        return found


def dealt_out(
    requests: Sequence[ScoreRequest], *, replicas: int, most_tokens: int
) -> list[list[Share]]:
    """Rounds of at most one share for each engine, which in a row are the requests.

    All shares have about the same number of tokens, as many as the longest text more at most.

    Args:
        requests: texts, of any lengths.
        replicas: engines.
        most_tokens: of a share, not counting the text that exceeds it.
    """
    ends = list(accumulate(len(one.prompt_ids) + len(one.token_ids) for one in requests))
    if not ends:
        return []
    num_rounds = -(-ends[-1] // (replicas * most_tokens))
    num_shares = num_rounds * replicas
    # The share in which a text's last token lies, if all tokens are cut into equal ones.
    places = [(end - 1) * num_shares // ends[-1] for end in ends]
    numbered = groupby(range(len(requests)), key=places.__getitem__)
    shares = [[requests[index] for index in indices] for _, indices in numbered]
    return [shares[start : start + replicas] for start in range(0, len(shares), replicas)]

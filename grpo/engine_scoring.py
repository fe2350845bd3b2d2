"""An engine that scores given texts: every token's log-probability, and the most likely others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from cotree.grpo.engine import Sampling
from cotree.grpo.engine_exchange import ExchangingGenerator
from cotree.grpo.token_scores import ScoreRequest, TokenScores

VllmObject: TypeAlias = Any
"""vLLM is untyped."""

_MAX_ENTRIES = 1 << 20
"""Log-probabilities that vLLM returns at once, some 250 bytes each as Python objects."""


class ScoringGenerator(ExchangingGenerator):
    """A generator that also says what it thinks of texts that others wrote."""

    _scored_tokens = 0
    _scoring_seconds = 0.0

    def score(
        self, requests: Sequence[ScoreRequest], *, top_k: int, min_version: int = 0
    ) -> list[TokenScores]:
        """Log-probabilities of the requests' tokens and of the `top_k` most likely in their places.

        They are of the raw logits: temperature 1, whatever is sampled with. Scores depend on the
        weights and the text alone; the prefix cache is not read. While a text of n tokens, prompt
        included, is scored, its logits and their logarithms take some n * V * 8 bytes.

        Args:
            requests: texts with room for one more token.
            top_k: most likely tokens to return at each position, 0 to the vocabulary's size.
            min_version: oldest weights to score with.

        Raises:
            StaleGeneratorError: the weights are older than `min_version`, or unproven.
            ValueError: a text is too long, has no prompt, no tokens or one that is not in the
                vocabulary; `top_k` is out of range.
        """
        self._check([], Sampling(max_tokens=1, temperature=0.0), min_version)
        self._check_texts(requests, top_k)
        from vllm import SamplingParams  # noqa: PLC0415 - inside the engine's process only

        started = time.perf_counter()
        params = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            prompt_logprobs=top_k,
            flat_logprobs=True,
            detokenize=False,
        )
        found: list[TokenScores] = []
        for part in bounded(requests, top_k=top_k, max_entries=_MAX_ENTRIES):
            texts = [{"prompt_token_ids": [*one.prompt_ids, *one.token_ids]} for one in part]
            outputs = self._llm.generate(texts, params, use_tqdm=False)
            found += [
                _token_scores(output.prompt_logprobs, one, top_k)
                for one, output in zip(part, outputs, strict=True)
            ]
        self._scored_tokens += sum(len(one.token_ids) for one in requests)
        self._scoring_seconds += time.perf_counter() - started
        return found

    def stats(self) -> dict[str, float]:
        """Totals since the start: a generator's, tokens that were scored, seconds of scoring."""
        return super().stats() | {
            "scored_tokens": float(self._scored_tokens),
            "scoring_seconds": self._scoring_seconds,
        }

    def _check_texts(self, requests: Sequence[ScoreRequest], top_k: int) -> None:
        vocab_size: int = self._llm.llm_engine.model_config.get_vocab_size()
        if not 0 <= top_k <= vocab_size:
            raise ValueError(
                f"top_k = {top_k} must lie in 0 to {vocab_size}, the size of the vocabulary."
            )
        limit = self._generator.max_model_len
        for request in requests:
            num_given, num_scored = len(request.prompt_ids), len(request.token_ids)
            if not num_given or not num_scored:
                raise ValueError(
                    f"a text has {num_given} prompt tokens and {num_scored} to be scored; it needs "
                    "one or more of each. Begin a text without a prompt with the model's "
                    "first token."
                )
            if num_given + num_scored + 1 > limit:
                raise ValueError(
                    f"a text has {num_given + num_scored} tokens; with one more, which the "
                    f"engine always samples, it exceeds generator.max_model_len = {limit}. Raise "
                    "max_model_len or drop the text."
                )
            ids = (*request.prompt_ids, *request.token_ids)
            if min(ids) < 0 or max(ids) >= vocab_size:
                raise ValueError(
                    f"a text has tokens from {min(ids)} to {max(ids)}, but the model's are "
                    f"0 to {vocab_size - 1}. Use texts of this model's own tokenizer."
                )


def bounded(
    requests: Sequence[ScoreRequest], *, top_k: int, max_entries: int
) -> Iterator[Sequence[ScoreRequest]]:
    """Consecutive parts of the requests, of one or more each, whose answers fit into memory.

    Args:
        requests: texts to score.
        top_k: entries besides the token's own at each position of a text, its prompt included.
        max_entries: at most so many in a part, unless it is a single text.
    """
    start, entries = 0, 0
    for end, request in enumerate(requests):
        more = (len(request.prompt_ids) + len(request.token_ids)) * (top_k + 1)
        if end > start and entries + more > max_entries:
            yield requests[start:end]
            start, entries = end, 0
        entries += more
    if start < len(requests):
        yield requests[start:]


def _token_scores(scores: VllmObject, request: ScoreRequest, top_k: int) -> TokenScores:
    """The scored tokens' part of vLLM's flat log-probabilities of a whole text.

    At every position but the first they are the token's own and then, by rank, the `top_k` most
    likely, which may name the same token again.
    """
    num_given, num_scored = len(request.prompt_ids), len(request.token_ids)
    num_positions = len(scores.start_indices)
    start = scores.start_indices[num_given] if num_positions > num_given else 0
    shape = (num_scored, 1 + top_k)
    if num_positions != num_given + num_scored or len(scores.logprobs) - start != np.prod(shape):
        raise RuntimeError(
            f"the engine scored {num_positions} positions with {len(scores.logprobs)} values where "
            f"{num_given} + {num_scored} with {1 + top_k} each were expected."
        )
    ids = np.asarray(scores.token_ids[start:], dtype=np.int32).reshape(shape)
    logprobs = np.asarray(scores.logprobs[start:], dtype=np.float32).reshape(shape)
    if tuple(ids[:, 0].tolist()) != tuple(request.token_ids) or not np.isfinite(logprobs).all():
        raise RuntimeError(
            "the engine returned log-probabilities that are not one finite number for each token "
            "of the text. Are the model's weights finite?"
        )
    # Copies: a view of all columns would keep the first one alive.
    return TokenScores(logprobs[:, 0].copy(), ids[:, 1:].copy(), logprobs[:, 1:].copy())

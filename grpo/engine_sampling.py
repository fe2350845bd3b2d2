"""How tokens are drawn: what is asked of vLLM, and what it answers.

Loads no vLLM until it is asked for its objects: the driver imports this file too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from cotree.grpo.engine_trees import Drawn
from cotree.search.branching import lumped_entropy

__all__ = ["ENTROPY_TOKENS", "Sampling", "drawn", "sampling_params", "stop_ids"]

VllmObject: TypeAlias = Any
"""vLLM and the tokenizers it returns are untyped."""

_LOWEST_TEMPERATURE = 0.01
"""vLLM silently raises smaller positive temperatures to this one."""

ENTROPY_TOKENS = 20
"""Most likely tokens that an entropy is made of; vLLM gives no more."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    max_tokens: int
    """Completion length limit, in tokens."""
    temperature: float
    """Logits are divided by it; 0 is greedy."""
    top_p: float = 1.0
    """Probability mass of the most likely tokens that may be drawn."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, which contains them: tokens are the truth, text is derived."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens = {self.max_tokens} must be 1 or more.")
        if not (self.temperature == 0 or _LOWEST_TEMPERATURE <= self.temperature < math.inf):
            raise ValueError(
                f"temperature = {self.temperature} must be 0 (greedy) or at least "
                f"{_LOWEST_TEMPERATURE}; the engine would change smaller ones silently."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p} must lie in (0, 1].")
        if not all(self.stop):
            raise ValueError(f"stop = {self.stop!r} has an empty text, which every completion has.")


def sampling_params(
    sampling: Sampling, seed: int, *, stop_token_ids: Sequence[int], num_entropy_tokens: int
) -> VllmObject:
    """The `SamplingParams` of one request, whose answer `drawn` reads.

    Args:
        sampling: limits and distribution.
        seed: the request's.
        stop_token_ids: as `stop_ids` returns them.
        num_entropy_tokens: most likely tokens to report at each position, for its entropy; 0
            reports the sampled one alone.
    """
    from vllm import SamplingParams  # noqa: PLC0415 - inside the engine's process only
    from vllm.sampling_params import RequestOutputKind  # noqa: PLC0415 - as above

    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        seed=seed,
        stop_token_ids=list(stop_token_ids),
        stop=list(sampling.stop),
        logprobs=num_entropy_tokens,  # besides the sampled token's, which comes first
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
        detokenize=bool(sampling.stop),  # vLLM looks for stop texts in its own text
    )


def drawn(output: VllmObject, *, with_entropies: bool) -> Drawn:
    """What vLLM drew for a piece. Entropies are lower bounds, see `lumped_entropy`.

    Raises:
        RuntimeError: it gave the piece up, or log-probabilities are missing or not finite.
    """
    (answer,) = output.outputs
    token_ids, scores = tuple(answer.token_ids), answer.logprobs
    scored_ids = tuple(scores.token_ids[start] for start in scores.start_indices)
    logprobs = tuple(float(scores.logprobs[start]) for start in scores.start_indices)
    if answer.finish_reason not in ("stop", "length"):
        raise RuntimeError(
            f"the engine ended a completion with {answer.finish_reason!r}; expected 'stop' or "
            "'length'. The request was aborted inside vLLM."
        )
    if scored_ids != token_ids or not all(map(math.isfinite, logprobs)):
        raise RuntimeError(
            "the engine returned log-probabilities that are not one finite number for each "
            f"sampled token: {len(token_ids)} tokens, {len(logprobs)} values."
        )
    entropies: tuple[float, ...] = ()
    if with_entropies:
        spans = zip(scores.start_indices, scores.end_indices, strict=True)
        entropies = tuple(lumped_entropy(scores.logprobs[start + 1 : end]) for start, end in spans)
    return Drawn(token_ids, logprobs, answer.finish_reason, entropies)


def stop_ids(model_path: str, tokenizer: VllmObject, revision: str | None) -> list[int]:
    """End-of-sequence tokens of the tokenizer and of the checkpoint's generation_config.json."""
    from vllm.transformers_utils.config import (  # noqa: PLC0415 - as above
        try_get_generation_config,
    )

    found = {tokenizer.eos_token_id}
    generation = try_get_generation_config(model_path, trust_remote_code=False, revision=revision)
    if generation is not None:
        eos: int | list[int] | None = generation.eos_token_id
        found.update(eos if isinstance(eos, list) else [eos])
    found.discard(None)
    if not found:
        raise ValueError(
            f"{model_path} names no end-of-sequence token, so no completion could end. Set "
            "eos_token in its tokenizer_config.json."
        )
    return sorted(found)

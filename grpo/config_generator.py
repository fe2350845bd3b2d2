"""Configuration of the inference engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from cotree.grpo.config_algorithm import Dtype, PositiveFloat, PositiveInt, Strict


class NgramSpeculation(Strict):
    """Drafts what followed the last time that the newest tokens occurred in the same text."""

    type: Literal["ngram"]
    tokens: PositiveInt = 4
    """Drafted at a time."""
    longest: PositiveInt = 4
    """Tokens that are looked up at most."""
    shortest: PositiveInt = 2

    @model_validator(mode="after")
    def _lengths_are_ordered(self) -> NgramSpeculation:
        if self.shortest > self.longest:
            raise ValueError(
                f"shortest = {self.shortest} is more than longest = {self.longest}; lower it."
            )
        return self


class DraftModelSpeculation(Strict):
    """A smaller model with the same vocabulary drafts. It stays as it is while a policy learns."""

    type: Literal["draft_model"]
    path: str
    tokens: PositiveInt = 4


class MtpSpeculation(Strict):
    """The model's own multi-token prediction module drafts, and gets the learner's weights."""

    type: Literal["mtp"]
    tokens: PositiveInt = 1


Speculation = Annotated[
    NgramSpeculation | DraftModelSpeculation | MtpSpeculation, Field(discriminator="type")
]


class Generator(Strict):
    """The vLLM actors."""

    replicas: PositiveInt = 1
    dtype: Dtype = "bfloat16"
    max_model_len: PositiveInt = 512
    """Prompt and completion together, in tokens."""
    max_num_seqs: PositiveInt = 256
    """Requests decoded at once."""
    kv_cache_bytes: PositiveInt = 256 << 20
    """Memory for the key-value cache of one replica (CPU and GPU alike)."""
    threads: PositiveInt = 1
    """OpenMP threads of one replica on a CPU. One makes sampling bit-deterministic."""
    sync_tolerance_nats: PositiveFloat = 0.3
    """Largest mean canary log-probability gap between engine and learner after a weight sync.
    Digests already prove the weights; this bounds what differs in arithmetic (dtype, kernels)."""
    speculation: Speculation | None = None
    """Who drafts tokens that the policy only has to check. The distribution stays the policy's."""

    @property
    def spare_tokens(self) -> int:
        """Tokens that must stay free behind the longest completion within `max_model_len`.

        vLLM stops drafting, for all requests, while one of them with its drafts is closer to the
        limit than another draft is long. What each draws from its generator would depend on the
        others.
        """
        return 0 if self.speculation is None else 2 * self.speculation.tokens

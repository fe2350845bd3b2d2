"""An engine's running batch, fed and read in turns: requests join and leave while others decode."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from cotree.grpo.engine import Generator, Sampling
from cotree.grpo.types import PromptTokens
from cotree.search.types import Continuation

VllmObject: TypeAlias = Any
"""vLLM is untyped."""

_PATIENCE_SECONDS = 0.25
"""A turn in which nothing finishes ends after this time, so that new requests can join."""
_COLLECTING_SECONDS = 0.05
"""A turn goes on for so long after its start, at most, to return several at once."""
_SHARE = 8
"""It returns when one in so many of the running requests has finished."""


class TokenRequest(NamedTuple):
    """Tokens to continue."""

    name: tuple[int, int, int]
    """The caller's; it returns with the continuation."""
    token_ids: PromptTokens
    """Prompt and whatever follows it."""
    seed: int
    max_tokens: int
    stops: tuple[str, ...]


class ExchangingGenerator(Generator):
    """A generator whose requests may also join one by one, for callers that act on each."""

    _exchange: Exchange | None = None

    def exchange(
        self,
        requests: Sequence[TokenRequest],
        *,
        temperature: float,
        top_p: float,
        min_version: int,
    ) -> list[Continuation]:
        """Adds requests to those under way, decodes for a while and returns what has finished.

        A continuation depends on the weights, its tokens, its settings and its seed alone; see
        `sample`.

        Args:
            requests: with room for their `max_tokens`.
            temperature: logits are divided by it; 0 is greedy.
            top_p: probability mass of the tokens that may be drawn.
            min_version: oldest weights to sample from.

        Raises:
            StaleGeneratorError: the weights are older than `min_version`, or unproven.
            ValueError: a request leaves no room for its tokens.
        """
        self._check([], Sampling(1, temperature, top_p), min_version)
        for request in requests:
            self._check_request(request)
        if self._exchange is None:
            self._exchange = Exchange(self._llm.llm_engine)
        params = [
            self._params(Sampling(one.max_tokens, temperature, top_p, one.stops), one.seed)
            for one in requests
        ]
        found = self._exchange.turn(requests, params, version=self.policy_version())
        self._stats["tokens"] += sum(len(one.token_ids) for one in found)
        self._stats["prompt_tokens"] += sum(one.num_prompt_tokens for one in found)
        self._stats["cached_tokens"] += sum(one.num_cached_tokens for one in found)
        self._stats["seconds"] += self._exchange.take_seconds()
        return found

    def clear(self) -> None:
        """Takes all requests of the exchange out of the engine."""
        if self._exchange is not None:
            self._exchange.clear()

    def _check_request(self, request: TokenRequest) -> None:
        length, limit = len(request.token_ids), self._generator.max_model_len
        if not length or length + request.max_tokens > limit:
            raise ValueError(
                f"request {request.name} has {length} tokens and max_tokens = "
                f"{request.max_tokens}: it needs at least one token, and both together may be "
                f"{limit} (generator.max_model_len)."
            )


class Exchange:
    """The requests that are in the engine, and the turns that it takes."""

    def __init__(self, engine: VllmObject) -> None:
        """Takes over an idle engine, vLLM's `LLMEngine`."""
        self._engine = engine
        self._waiting: dict[str, TokenRequest] = {}
        self._seconds = 0.0

    def turn(
        self, requests: Sequence[TokenRequest], params: Sequence[VllmObject], *, version: int
    ) -> list[Continuation]:
        """Adds requests and decodes until some have finished, or for a quarter of a second.

        Args:
            requests: with names that are not in the engine.
            params: their sampling parameters, one finished output each.
            version: of the policy, for the continuations.
        """
        started = time.perf_counter()
        for request, sampling in zip(requests, params, strict=True):
            name = repr(request.name)
            assert name not in self._waiting, f"{name} is in the engine"
            prompt = {"prompt_token_ids": list(request.token_ids)}
            self._engine.add_request(name, prompt, sampling)
            self._waiting[name] = request
        wanted = max(1, len(self._waiting) // _SHARE)
        found: list[Continuation] = []
        while self._waiting and len(found) < wanted:
            found += [self._taken(one, version) for one in self._engine.step() if one.finished]
            elapsed = time.perf_counter() - started
            if elapsed > (_COLLECTING_SECONDS if found else _PATIENCE_SECONDS):
                break
        self._seconds += time.perf_counter() - started
        return found

    def take_seconds(self) -> float:
        """Time spent in turns since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def clear(self) -> None:
        """Takes all requests out of the engine."""
        self._engine.abort_request(list(self._waiting))
        self._waiting = {}

    def _taken(self, output: VllmObject, version: int) -> Continuation:
        request = self._waiting.pop(output.request_id)
        (answer,) = output.outputs
        token_ids = tuple(answer.token_ids)
        logprobs = tuple(float(value) for value in answer.logprobs.logprobs)
        if tuple(answer.logprobs.token_ids) != token_ids or not all(map(math.isfinite, logprobs)):
            raise RuntimeError(
                "the engine returned log-probabilities that are not one finite number for each "
                f"sampled token: {len(token_ids)} tokens, {len(logprobs)} values."
            )
        return Continuation(
            name=request.name,
            token_ids=token_ids,
            logprobs=logprobs,
            end=_end(answer),
            num_prompt_tokens=len(output.prompt_token_ids),
            num_cached_tokens=output.num_cached_tokens or 0,
            policy_version=version,
        )


def _end(answer: VllmObject) -> Literal["text", "stop", "length"]:
    if answer.finish_reason == "length":
        return "length"
    if answer.finish_reason != "stop":
        raise RuntimeError(
            f"the engine ended a completion with {answer.finish_reason!r}; expected 'stop' or "
            "'length'. The request was aborted inside vLLM."
        )
    # The reason is the stop text, the id of an end token, or None for the tokenizer's own.
    return "text" if isinstance(answer.stop_reason, str) else "stop"

"""Completions from a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, a hosted API.

A request that failed is never an empty completion: it is repeated where that can help, and
otherwise ends the evaluation with a `ServerError`. What was yielded before stays valid.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing

from openai import AsyncOpenAI

from cotree.grpo.evaluation.records import Ask, Drawn, Prompt
from cotree.grpo.evaluation.server_client import ServerClient
from cotree.grpo.evaluation.server_protocol import Answer, ServerError, completion_of

__all__ = ["ServerError", "ServerSampler"]

_ENDPOINTS = {"text": "/completions", "chat": "/chat/completions"}
_LOWEST_TEMPERATURE = 0.01

_Finished = tuple[int, tuple[Drawn, ...]]
_Job = tuple[Ask, int, dict[int, Drawn]]
"""A problem, the place of a sample in it, and the samples of that problem by place."""


class ServerSampler:
    """Draws completions from a server, one request per seed.

    A prompt that is text goes to /v1/completions, a chat to /v1/chat/completions, both as they
    are. Servers are free to ignore `seed`; vLLM honours it. What a request does not set (top-k,
    penalties), the server decides: start vLLM with `--generation-config vllm`, or the defaults of
    the checkpoint's generation_config.json apply.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        max_tokens: int,
        temperature: float,
        top_p: float = 1.0,
        stop: tuple[str, ...] = (),
        concurrency: int = 32,
        timeout_seconds: float = 600.0,
        max_retries: int = 8,
        api_key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        """Asks the server for its models.

        Args:
            url: as `ServerClient` takes it.
            model: its name on the server; None takes the one model that the server offers.
            max_tokens: completion length limit, in tokens.
            temperature: 0 is greedy.
            top_p: probability mass of the most likely tokens that may be drawn.
            stop: strings that end a completion; servers leave them out of the text.
            concurrency: requests in flight at once.
            timeout_seconds: of one request, its wait in the server's queue included.
            max_retries: repetitions of one request; see `ServerClient`.
            api_key_variable: environment variable that holds the key, if one is needed.

        Raises:
            ValueError: a setting or the address is none.
            ServerError: the server does not answer, or does not offer the model.
        """
        _check_settings(max_tokens, temperature, top_p, stop)
        self._server = ServerClient(
            url,
            model=model,
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            api_key_variable=api_key_variable,
        )
        self._stop = stop
        self._max_tokens = max_tokens
        self._settings: dict[str, object] = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }

    @property
    def url(self) -> str:
        """The server's address, without credentials."""
        return self._server.url

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._server.card.id

    def describe(self) -> Mapping[str, object]:
        """Model, settings, and what the server says about the model; no address and no key."""
        served = self._server.card.model_dump(exclude={"id"}, exclude_none=True)
        endpoints = {kind: f"/v1{path}" for kind, path in _ENDPOINTS.items()}
        about = {"engine": "server", "model": self.model, "endpoints": endpoints, "served": served}
        return about | self._settings | {"stop": list(self._stop)}

    def shown(self, prompt: Prompt) -> str:
        """A chat as its turns under their roles: the server's template is not known here."""
        if isinstance(prompt, str):
            return prompt
        return "\n\n".join(f"[{turn.role}]\n{turn.content}" for turn in prompt)

    def sample(self, asks: Sequence[Ask]) -> Generator[_Finished]:
        """Yields (`Ask.index`, its completions in the order of its seeds), as problems finish.

        Requests go on while the caller works on what it got. They end with the generator: run it
        to its end, or close it.

        Raises:
            ServerError: a request failed for good; the problems not yielded yet are lost.
            ValueError: a seed is negative, which vLLM would read as none.
        """
        for ask in asks:
            if any(seed < 0 for seed in ask.seeds):
                raise ValueError(f"problem {ask.id!r}: seeds {ask.seeds} must be 0 or more.")
        yield from ((ask.index, ()) for ask in asks if not ask.seeds)
        with closing(self._server.results(_jobs(asks), self._draw)) as results:
            yield from (finished for finished in results if finished is not None)

    async def _draw(self, client: AsyncOpenAI, job: _Job) -> _Finished | None:
        """Draws one completion; returns those of its problem if it was the last one missing."""
        ask, place, drawn = job
        drawn[place] = await self._completion(client, ask, ask.seeds[place])
        if len(drawn) < len(ask.seeds):
            return None
        return ask.index, tuple(drawn[i] for i in range(len(drawn)))

    async def _completion(self, client: AsyncOpenAI, ask: Ask, seed: int) -> Drawn:
        body = {"n": 1, "seed": seed} | self._settings
        if self._stop:
            body["stop"] = list(self._stop)
        if isinstance(ask.prompt, str):
            path, body["prompt"] = _ENDPOINTS["text"], ask.prompt
        else:
            path, body["messages"] = _ENDPOINTS["chat"], [turn._asdict() for turn in ask.prompt]
        subject = f"problem {ask.id!r}"
        answer = await self._server.answer(client, path, body, Answer, subject=subject)
        try:
            return completion_of(answer, max_tokens=self._max_tokens)
        except ServerError as error:
            raise ServerError(f"{subject}: {self.url} {error}") from None


def _jobs(asks: Sequence[Ask]) -> Iterator[_Job]:
    for ask in asks:
        drawn: dict[int, Drawn] = {}
        for place in range(len(ask.seeds)):
            yield ask, place, drawn


def _check_settings(
    max_tokens: int, temperature: float, top_p: float, stop: tuple[str, ...]
) -> None:
    if max_tokens < 1:
        raise ValueError(f"max_tokens = {max_tokens} must be 1 or more.")
    if not (temperature == 0 or _LOWEST_TEMPERATURE <= temperature < math.inf):
        raise ValueError(
            f"temperature = {temperature} must be 0 (greedy) or at least {_LOWEST_TEMPERATURE}; "
            "vLLM would change smaller ones silently."
        )
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p = {top_p} must lie in (0, 1].")
    if not all(stop):
        raise ValueError(f"stop = {stop} holds an empty string, which ends nothing; leave it out.")

"""Completions from a server that speaks OpenAI's protocol: vLLM, SGLang, llama.cpp, a hosted API.

A request that failed is never an empty completion: it is repeated where that can help, and
otherwise ends the evaluation with a `ServerError`. What was yielded before stays valid.
"""

from __future__ import annotations

import asyncio
import base64
import math
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NoReturn

from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    Timeout,
)
from pydantic import ValidationError

from cotree.grpo.evaluation.records import Ask, Drawn, Prompt
from cotree.grpo.evaluation.server_protocol import (
    NO_KEY,
    Answer,
    Card,
    Offer,
    ServerError,
    address_of,
    completion_of,
    key_from,
    shortened,
    words_of,
)

__all__ = ["ServerError", "ServerSampler"]

_ENDPOINTS = {"text": "/completions", "chat": "/chat/completions"}
_MAX_CONCURRENCY = 1000
"""The client's connections; more requests would wait for one until they time out."""
_LOWEST_TEMPERATURE = 0.01
_CONNECT_SECONDS = 10.0
_LIST_SECONDS, _LIST_RETRIES = 30.0, 2
"""Of the question for the server's models: one that is not there is reported within seconds."""
_NO_MODEL_LIST = (404, 405, 501)

_TRANSIENT = (408, 409, 429)
"""Answers that are asked for again, as are those of 500 and above."""
_OVERLOADED = (
    "Up to {retries} retries did not help. Lower the concurrency or look at the server's log, "
    "then continue."
)
_ADVICE = {
    400: "If the prompt is too long, lower max_tokens or serve the model with a longer context; "
    "otherwise the server does not take one of the settings.",
    401: "Put the server's key into the environment variable {variable}.",
    403: "The key in the environment variable {variable} may not be used for this.",
    404: "Check the address and the model's name.",
    413: "The prompt is too long for the server.",
}

_Finished = tuple[int, tuple[Drawn, ...]]


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
            url: `http://host:8000`, with or without `/v1`; another path is taken as it is. A
                `user:password@` in it is sent as basic authentication instead of the key.
            model: its name on the server; None takes the one model that the server offers.
            max_tokens: completion length limit, in tokens.
            temperature: 0 is greedy.
            top_p: probability mass of the most likely tokens that may be drawn.
            stop: strings that end a completion; servers leave them out of the text.
            concurrency: requests in flight at once.
            timeout_seconds: how long a request may stay without an answer, its wait in the
                server's queue included. It is then repeated.
            max_retries: repetitions of one request after connection errors, timeouts and answers
                408, 409, 429 and 5xx: after 0.5 s, twice as long each time up to 8 s, or when
                the server's Retry-After says.
            api_key_variable: environment variable that holds the key, if one is needed.

        Raises:
            ValueError: a setting or the address is none.
            ServerError: the server does not answer, or does not offer the model.
        """
        _check_settings(max_tokens, temperature, top_p, stop)
        _check_limits(concurrency, timeout_seconds, max_retries)
        self._address = address_of(url)
        self._key = key_from(api_key_variable) if self._address.login is None else NO_KEY
        self._variable = api_key_variable
        self._concurrency = concurrency
        self._timeout = Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        self._retries = max_retries
        self._stop = stop
        self._max_tokens = max_tokens
        self._settings: dict[str, object] = {
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": top_p,
        }
        with _running_loop() as loop:
            cards = asyncio.run_coroutine_threadsafe(self._models(model), loop).result()
        self._card = self._chosen(cards, model)

    @property
    def url(self) -> str:
        """The server's address, without credentials."""
        return self._address.url

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._card.id

    def describe(self) -> Mapping[str, object]:
        """Model, settings, and what the server says about the model; no address and no key."""
        served = self._card.model_dump(exclude={"id"}, exclude_none=True)
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
        finished: SimpleQueue[_Finished | None] = SimpleQueue()
        with _running_loop() as loop:
            drawing = asyncio.run_coroutine_threadsafe(self._draw(asks, finished.put), loop)
            drawing.add_done_callback(lambda _: finished.put(None))
            while (problem := finished.get()) is not None:
                yield problem
            drawing.result()

    async def _draw(self, asks: Sequence[Ask], put: Callable[[_Finished], None]) -> None:
        for ask in asks:
            if not ask.seeds:
                put((ask.index, ()))
        jobs = _jobs(asks)
        try:
            async with self._client() as client, asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(self._work(client, jobs, put))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None  # the first; it cancelled the others

    async def _work(
        self,
        client: AsyncOpenAI,
        jobs: Iterator[tuple[Ask, int, dict[int, Drawn]]],
        put: Callable[[_Finished], None],
    ) -> None:
        for ask, place, drawn in jobs:
            drawn[place] = await self._completion(client, ask, ask.seeds[place])
            if len(drawn) == len(ask.seeds):
                put((ask.index, tuple(drawn[i] for i in range(len(drawn)))))

    async def _completion(self, client: AsyncOpenAI, ask: Ask, seed: int) -> Drawn:
        body = {"model": self.model, "n": 1, "seed": seed} | self._settings
        if self._stop:
            body["stop"] = list(self._stop)
        if isinstance(ask.prompt, str):
            path, body["prompt"] = _ENDPOINTS["text"], ask.prompt
        else:
            path, body["messages"] = _ENDPOINTS["chat"], [turn._asdict() for turn in ask.prompt]
        subject = f"problem {ask.id!r}"
        try:
            answer = await client.post(path, body=body, cast_to=str)
        except APIError as error:
            self._fail(error, subject, self._retries)
        try:
            return completion_of(Answer.model_validate_json(answer), max_tokens=self._max_tokens)
        except ValidationError as error:
            self._refuse(subject, answer, error)
        except ServerError as error:
            raise ServerError(f"{subject}: {self.url} {error}") from None

    async def _models(self, wanted: str | None) -> list[Card]:
        subject = "the list of models"
        async with self._client() as client:
            brief = client.with_options(
                timeout=_LIST_SECONDS, max_retries=min(_LIST_RETRIES, self._retries)
            )
            try:
                answer = await brief.get("/models", cast_to=str)
            except APIStatusError as error:
                if wanted is not None and error.status_code in _NO_MODEL_LIST:
                    return [Card(id=wanted)]  # optional in some servers; the first request tells
                self._fail(error, subject, brief.max_retries)
            except APIError as error:
                self._fail(error, subject, brief.max_retries)
        try:
            return Offer.model_validate_json(answer).data
        except ValidationError as error:
            self._refuse(subject, answer, error)

    def _chosen(self, cards: list[Card], wanted: str | None) -> Card:
        matching = [card for card in cards if wanted in (None, card.id)]
        if len(matching) == 1 or (matching and wanted is not None):
            return matching[0]
        names = shortened(", ".join(repr(card.id) for card in cards)) or "no model"
        ask = "Name one of them." if wanted is None else "Use a name that it offers."
        missing = "" if wanted is None else f"does not offer {wanted!r}; it "
        raise ServerError(f"{self.url} {missing}offers {names}. {ask}")

    def _client(self) -> AsyncOpenAI:
        return AsyncOpenAI(
            base_url=self.url,
            api_key=self._key,
            max_retries=self._retries,
            timeout=self._timeout,
            http_client=DefaultAsyncHttpxClient(
                auth=self._address.login,
                # A proxy of the environment cannot reach this machine's own loopback.
                trust_env=not self._address.loopback,
                follow_redirects=False,  # a redirected POST becomes a GET
            ),
        )

    def _fail(self, error: APIError, subject: str, retries: int) -> NoReturn:
        """Turns the client's error into ours, without the key that some servers repeat."""
        if isinstance(error, APIStatusError):
            advice = self._advice(error).format(variable=self._variable, retries=retries)
            said = shortened(self._redacted(words_of(error.body))).rstrip(".")
            reason = f"answered {error.status_code}: {said}. {advice}"
        elif isinstance(error, APITimeoutError):
            reason = (
                f"did not answer in time, {retries + 1} times. Raise timeout_seconds, or lower the "
                "concurrency: a request's wait in the server's queue counts."
            )
        elif isinstance(error, APIConnectionError):
            cause = str(error.__cause__ or error).rstrip(".")
            reason = f"cannot be reached ({cause}), tried {retries + 1} times. Is it running?"
        else:
            reason = f"answered what the client cannot read: {error.message}"
        raise ServerError(self._redacted(f"{subject}: {self.url} {reason}")) from None

    def _advice(self, error: APIStatusError) -> str:
        status = error.status_code
        if status < 400:
            return "Give the address that it redirects to."
        if status in _TRANSIENT or status >= 500:
            return _OVERLOADED
        return _ADVICE.get(status, _ADVICE[400])

    def _refuse(self, subject: str, answer: str, error: ValidationError) -> NoReturn:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        said = shortened(self._redacted(answer))
        raise ServerError(
            f"{subject}: {self.url} answered {said!r}, which is not OpenAI's protocol "
            f"({where}: {first['msg']}). Check the address and the server's log."
        ) from None

    def _redacted(self, text: str) -> str:
        secrets = [] if self._key == NO_KEY else [self._key]
        if self._address.login is not None:
            pair = ":".join(self._address.login)
            secrets += [base64.b64encode(pair.encode()).decode(), self._address.login[1]]
        for secret in filter(None, secrets):
            text = text.replace(secret, "[redacted]")
        return text


@contextmanager
def _running_loop() -> Generator[asyncio.AbstractEventLoop]:
    """An event loop in a thread; on leaving, what runs in it is cancelled and has ended."""
    loop, left = asyncio.new_event_loop(), asyncio.Event()

    def run() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(_until(left))

    # A daemon: the interpreter could never exit while the generator's owner still holds it.
    thread = threading.Thread(target=run, name="cotree-server-sampler", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(left.set)
        thread.join()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _jobs(asks: Sequence[Ask]) -> Iterator[tuple[Ask, int, dict[int, Drawn]]]:
    """(problem, place of a sample in it, the samples of that problem by place), in order."""
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


def _check_limits(concurrency: int, timeout_seconds: float, max_retries: int) -> None:
    if not 1 <= concurrency <= _MAX_CONCURRENCY:
        raise ValueError(f"concurrency = {concurrency} must lie in 1 to {_MAX_CONCURRENCY}.")
    if not 0 < timeout_seconds < math.inf:
        raise ValueError(f"timeout_seconds = {timeout_seconds} must be more than 0 and finite.")
    if max_retries < 0:
        raise ValueError(f"max_retries = {max_retries} must be 0 or more.")

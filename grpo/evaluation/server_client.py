"""Connections to a server that speaks OpenAI's protocol: its model, its answers, its refusals.

A request that failed is repeated where that can help, and otherwise ends with a `ServerError` that
says what the server said and what to do about it.
"""

from __future__ import annotations

import asyncio
import base64
import math
import threading
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import NoReturn, TypeVar

from openai import (
    APIConnectionError,
    APIError,
    APIStatusError,
    APITimeoutError,
    AsyncOpenAI,
    DefaultAsyncHttpxClient,
    Timeout,
)
from pydantic import BaseModel, ValidationError

from cotree.grpo.evaluation.server_protocol import (
    NO_KEY,
    Card,
    Offer,
    ServerError,
    address_of,
    key_from,
    shortened,
    words_of,
)

_MAX_CONCURRENCY = 1000
"""The client's connections; more requests would wait for one until they time out."""
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

Job = TypeVar("Job")
Result = TypeVar("Result")
Parsed = TypeVar("Parsed", bound=BaseModel)


class ServerClient:
    """One model on one server."""

    def __init__(
        self,
        url: str,
        *,
        model: str | None,
        concurrency: int,
        timeout_seconds: float,
        max_retries: int,
        api_key_variable: str,
    ) -> None:
        """Asks the server for its models.

        Args:
            url: `http://host:8000`, with or without `/v1`; another path is taken as it is. A
                `user:password@` in it is sent as basic authentication instead of the key.
            model: its name on the server; None takes the one model that the server offers.
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
        _check_limits(concurrency, timeout_seconds, max_retries)
        self._address = address_of(url)
        self._key = key_from(api_key_variable) if self._address.login is None else NO_KEY
        self._variable = api_key_variable
        self._concurrency = concurrency
        self._timeout = Timeout(timeout_seconds, connect=min(_CONNECT_SECONDS, timeout_seconds))
        self._retries = max_retries
        with _running_loop() as loop:
            cards = asyncio.run_coroutine_threadsafe(self._models(model), loop).result()
        self.card = self._chosen(cards, model)
        """What the server says about the model."""

    @property
    def url(self) -> str:
        """The server's address, without credentials."""
        return self._address.url

    def results(
        self, jobs: Iterator[Job], work: Callable[[AsyncOpenAI, Job], Awaitable[Result]]
    ) -> Generator[Result]:
        """Yields what `work` makes of each job, as jobs finish, `concurrency` of them at once.

        Work goes on while the caller is busy with what it got. It ends with the generator: run it
        to its end, or close it.

        Args:
            jobs: taken one by one, in order.
            work: runs in another thread's event loop; its first error ends everything.
        """
        finished: SimpleQueue[list[Result] | None] = SimpleQueue()

        async def take(client: AsyncOpenAI) -> None:
            for job in jobs:
                finished.put([await work(client, job)])

        async def work_through() -> None:
            try:
                async with self._connected() as client, asyncio.TaskGroup() as group:
                    for _ in range(self._concurrency):
                        group.create_task(take(client))
            except ExceptionGroup as failed:
                raise failed.exceptions[0] from None  # the first; it cancelled the others

        with _running_loop() as loop:
            working = asyncio.run_coroutine_threadsafe(work_through(), loop)
            working.add_done_callback(lambda _: finished.put(None))
            while (found := finished.get()) is not None:
                yield from found
            working.result()

    async def answer(
        self,
        client: AsyncOpenAI,
        path: str,
        body: dict[str, object],
        kind: type[Parsed],
        *,
        subject: str,
    ) -> Parsed:
        """The server's answer to a request.

        Args:
            client: as `results` gives it to its work.
            path: below `url`, with a slash in front.
            body: of the request, besides the model.
            kind: what the answer must be.
            subject: what the request is about, for errors.

        Raises:
            ServerError: the request failed for good, or the answer is something else.
        """
        try:
            answer = await client.post(path, body={"model": self.card.id} | body, cast_to=str)
        except APIError as error:
            self._fail(error, subject, self._retries)
        return self._parsed(kind, answer, subject)

    async def _models(self, wanted: str | None) -> list[Card]:
        subject = "the list of models"
        async with self._connected() as client:
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
        return self._parsed(Offer, answer, subject).data

    def _chosen(self, cards: list[Card], wanted: str | None) -> Card:
        matching = [card for card in cards if wanted in (None, card.id)]
        if len(matching) == 1 or (matching and wanted is not None):
            return matching[0]
        names = shortened(", ".join(repr(card.id) for card in cards)) or "no model"
        ask = "Name one of them." if wanted is None else "Use a name that it offers."
        missing = "" if wanted is None else f"does not offer {wanted!r}; it "
        raise ServerError(f"{self.url} {missing}offers {names}. {ask}")

    def _connected(self) -> AsyncOpenAI:
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

    def _parsed(self, kind: type[Parsed], answer: str, subject: str) -> Parsed:
        try:
            return kind.model_validate_json(answer)
        except ValidationError as error:
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
    thread = threading.Thread(target=run, name="cotree-server-client", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(left.set)
        thread.join()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _check_limits(concurrency: int, timeout_seconds: float, max_retries: int) -> None:
    if not 1 <= concurrency <= _MAX_CONCURRENCY:
        raise ValueError(f"concurrency = {concurrency} must lie in 1 to {_MAX_CONCURRENCY}.")
    if not 0 < timeout_seconds < math.inf:
        raise ValueError(f"timeout_seconds = {timeout_seconds} must be more than 0 and finite.")
    if max_retries < 0:
        raise ValueError(f"max_retries = {max_retries} must be 0 or more.")

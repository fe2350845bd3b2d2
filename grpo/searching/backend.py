"""Engines as the backend of searches: prompts and seeds are added, texts and tokens come back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.seeds import derive
from cotree.grpo.types import PromptTokens
from cotree.search.types import Backend, Continuation, Request

LINE_SECONDS = 20.0
"""A line about what was generated comes this often at most."""


class Start(NamedTuple):
    """What engines need to know of a search."""

    prompt_ids: PromptTokens
    seed: int
    problem_id: str


class Session(Protocol):
    """An exchange with engines; see `GeneratorSession`."""

    def exchange(self, requests: Sequence[TokenRequest]) -> list[Continuation]: ...
    def stats(self) -> dict[str, float]: ...
    def close(self) -> None: ...


class EngineBackend:
    """A `Backend` over a session with engines."""

    def __init__(
        self,
        session: Session,
        start_of: Callable[[int], Start],
        revision_of: Callable[[int, str], PromptTokens],
    ) -> None:
        """Holds no engine itself.

        Args:
            session: the caller closes it.
            start_of: by a search's number.
            revision_of: (search's number, draft) -> the prompt that asks to revise it.
        """
        self._session = session
        self._start_of = start_of
        self._revision_of = revision_of

    def exchange(self, requests: Sequence[Request]) -> list[Continuation]:
        """See `search.types.Backend`; may return nothing while everything is under way."""
        return self._session.exchange([self._with_prompt(request) for request in requests])

    def _with_prompt(self, request: Request) -> TokenRequest:
        start = self._start_of(request.search)
        prompt = start.prompt_ids
        if request.draft is not None:
            prompt = self._revision_of(request.search, request.draft)
        return TokenRequest(
            name=request.name,
            token_ids=(*prompt, *request.prefix),
            seed=derive(start.seed, "search", start.problem_id, *request.key),
            max_tokens=request.max_tokens,
            stops=request.stops,
        )


class ToldBackend:
    """A backend that says now and then how much it has generated: searches may be long."""

    def __init__(
        self, backend: Backend, *, most_tokens: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Starts the clock.

        Args:
            backend: does the work.
            most_tokens: the budgets of all searches together.
            clock: seconds.
        """
        self._backend = backend
        self._most_tokens = most_tokens
        self._clock = clock
        self._started = self._last_line = clock()
        self._num_tokens = 0

    def exchange(self, requests: Sequence[Request]) -> list[Continuation]:
        """As the backend's."""
        found = self._backend.exchange(requests)
        self._num_tokens += sum(len(one.token_ids) for one in found)
        now = self._clock()
        if now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            speed = self._num_tokens / (now - self._started)
            sys.stderr.write(
                f"{self._num_tokens:,} of at most {self._most_tokens:,} tokens generated, "
                f"{speed:,.0f} tokens/s\n"
            )
            sys.stderr.flush()
        return found

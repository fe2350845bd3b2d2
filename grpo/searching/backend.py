"""Engines as the backend of searches: prompts and seeds are added, texts and tokens come back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.generator_session import GeneratorSession
from cotree.grpo.seeds import derive
from cotree.grpo.types import PromptTokens
from cotree.search.types import Continuation, Request


class Start(NamedTuple):
    """What engines need to know of a search."""

    prompt_ids: PromptTokens
    seed: int
    problem_id: str


class EngineBackend:
    """A `Backend` over a session with engines."""

    def __init__(
        self,
        session: GeneratorSession,
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

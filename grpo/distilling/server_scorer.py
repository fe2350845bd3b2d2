"""What a teacher on a vLLM server thinks of given texts, by its extension of OpenAI's protocol."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Annotated

import numpy as np
from openai import AsyncOpenAI
from pydantic import BaseModel, Field

from cotree.grpo.evaluation.server_client import ServerClient
from cotree.grpo.evaluation.server_protocol import ServerError
from cotree.grpo.token_scores import ScoreRequest, TokenScores

__all__ = ["ServerError", "ServerScorer"]

_ENDPOINT = "/completions"
_IN_PLACE_OF_INFINITY = -9999.0
"""What vLLM's server writes for a log-probability of minus infinity, which JSON cannot."""


class Ranked(BaseModel):
    """A token's log-probability, and its rank from 1 among all of the vocabulary."""

    logprob: float
    rank: int


Position = dict[int, Ranked]
"""By token: the prompt's own, and the most likely ones."""


class Choice(BaseModel):
    """The part of a completion that vLLM adds."""

    prompt_logprobs: list[Position | None] | None = None
    """One a token of the prompt; None for the first, which nothing predicts."""


class Answer(BaseModel):
    """The answer to a request for one completion."""

    choices: Annotated[list[Choice], Field(min_length=1, max_length=1)]


class ServerScorer:
    """A `Scorer` that sends each text to a vLLM server as tokens.

    The server gives at most 20 tokens a position, unless it was started with `--max-logprobs`.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        concurrency: int = 32,
        timeout_seconds: float = 600.0,
        max_retries: int = 8,
        api_key_variable: str = "OPENAI_API_KEY",
    ) -> None:
        """Asks the server for its models; the settings are those of `ServerClient`.

        Raises:
            ValueError: a setting or the address is none.
            ServerError: the server does not answer, or does not offer the model.
        """
        self._server = ServerClient(
            url,
            model=model,
            concurrency=concurrency,
            timeout_seconds=timeout_seconds,
            max_retries=max_retries,
            api_key_variable=api_key_variable,
        )

    @property
    def model(self) -> str:
        """The model's name on the server."""
        return self._server.card.id

    def score(self, requests: Sequence[ScoreRequest], *, top_k: int) -> list[TokenScores]:
        """All scores, in the order of the requests; see `Scorer.score`.

        Raises:
            ServerError: a request failed for good, or the server cannot score.
            ValueError: a text has no prompt or no tokens, or `top_k` is negative.
        """
        return [scores for _, scores in self.scores(requests, top_k=top_k)]

    def scores(
        self, requests: Sequence[ScoreRequest], *, top_k: int
    ) -> Generator[tuple[int, TokenScores]]:
        """As `score`, one after the other. Requests go on while the caller works.

        They end with the generator: run it to its end, or close it.

        Raises:
            ServerError, ValueError: as `score`. What was yielded before stays valid.
        """
        if top_k < 0:
            raise ValueError(f"top_k = {top_k} must be 0 or more.")
        if not all(prompt_ids and token_ids for prompt_ids, token_ids in requests):
            raise ValueError(
                "a text needs one prompt token or more and one to be scored or more. Begin a text "
                "without a prompt with the model's first token."
            )

        async def scored(
            client: AsyncOpenAI, job: tuple[int, ScoreRequest]
        ) -> tuple[int, TokenScores]:
            index, request = job
            return index, await self._scored(client, index, request, top_k)

        early: dict[int, TokenScores] = {}
        awaited = 0
        with closing(self._server.results(enumerate(requests), scored)) as results:
            for index, scores in results:
                early[index] = scores
                while awaited in early:
                    yield awaited, early.pop(awaited)
                    awaited += 1

    async def _scored(
        self, client: AsyncOpenAI, index: int, request: ScoreRequest, top_k: int
    ) -> TokenScores:
        subject = f"text {index}"
        body: dict[str, object] = {
            "prompt": [*request.prompt_ids, *request.token_ids],
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": top_k,
        }
        answer = await self._server.answer(client, _ENDPOINT, body, Answer, subject=subject)
        try:
            return scores_of(answer, request, top_k=top_k)
        except ServerError as error:
            raise ServerError(f"{subject}: {self._server.url} {error}") from None


def scores_of(answer: Answer, request: ScoreRequest, *, top_k: int) -> TokenScores:
    """The scores in an answer to a request for one token after the text.

    Raises:
        ServerError: they are not there, or not those of this text. Its text starts with a verb,
            as the caller says which server and which text.
    """
    (choice,) = answer.choices
    if choice.prompt_logprobs is None:
        raise ServerError(
            "answered without prompt_logprobs, so it cannot score: of the servers of this "
            'protocol vLLM can. Use a teacher of type = "engine", or distil from the texts alone, '
            'with distill.type = "traces".'
        )
    num_given, num_scored = len(request.prompt_ids), len(request.token_ids)
    if len(choice.prompt_logprobs) != num_given + num_scored:
        raise ServerError(
            f"scored {len(choice.prompt_logprobs)} tokens of a text of {num_given + num_scored}. "
            "Does it change its prompts?"
        )
    logprobs = np.empty(num_scored, dtype=np.float32)
    top_ids = np.empty((num_scored, top_k), dtype=np.int32)
    top_logprobs = np.empty((num_scored, top_k), dtype=np.float32)
    scored = zip(request.token_ids, choice.prompt_logprobs[num_given:], strict=True)
    for place, (token, position) in enumerate(scored):
        if position is None or token not in position:
            raise ServerError(
                f"gave no log-probability of token {token} at position {num_given + place}. Does "
                "it change its prompts?"
            )
        if not all(_IN_PLACE_OF_INFINITY < one.logprob < math.inf for one in position.values()):
            raise ServerError(
                f"gave a log-probability at position {num_given + place} that is no finite "
                "number. Are the model's weights finite?"
            )
        # The text's own token is one of the most likely by its rank, or else additional.
        top = sorted((one.rank, id_) for id_, one in position.items() if one.rank <= top_k)
        if [rank for rank, _ in top] != list(range(1, top_k + 1)):
            raise ServerError(
                f"gave {len(top)} of the {top_k} most likely tokens at position "
                f"{num_given + place}. Ask it for fewer."
            )
        logprobs[place] = position[token].logprob
        top_ids[place] = [id_ for _, id_ in top]
        top_logprobs[place] = [position[id_].logprob for _, id_ in top]
    return TokenScores(logprobs, top_ids, top_logprobs)

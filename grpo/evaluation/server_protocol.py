"""OpenAI's protocol as servers really speak it: addresses, answers, and words of refusal.

Nothing is guessed: an answer without a token count or with an unknown end is an error.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, NamedTuple
from urllib.parse import unquote, urlsplit

from pydantic import BaseModel, Field

from cotree.grpo.evaluation.records import Drawn
from cotree.grpo.types import StopReason

NO_KEY = "none"
"""What servers that ask for no key get; the client refuses to send nothing."""

_EXCERPT = 500
"""Characters of a server's words that an error shows."""


class ServerError(RuntimeError):
    """The server cannot be reached, refused a request, or answered what is no completion."""


class Message(BaseModel):
    """A turn of the model. Servers with a reasoning parser take its thinking out of `content`."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """The older name of `reasoning`, and the one in DeepSeek's API."""


class Choice(BaseModel):
    """One completion: `text` from /v1/completions, `message` from /v1/chat/completions."""

    finish_reason: str | None = None
    text: str | None = None
    message: Message | None = None


class Usage(BaseModel):
    """What the request cost."""

    completion_tokens: int
    """Thinking included."""


class Answer(BaseModel):
    """The answer to a request for one completion."""

    choices: Annotated[list[Choice], Field(min_length=1, max_length=1)]
    usage: Usage | None = None


class Card(BaseModel):
    """What a server says about a model that it offers, besides what changes at each start."""

    id: str
    owned_by: str | None = None
    root: str | None = None
    max_model_len: int | None = None


class Offer(BaseModel):
    """The models of a server."""

    data: list[Card]


class Address(NamedTuple):
    """Where a server is."""

    url: str
    """Up to and with `/v1`, without credentials."""
    login: tuple[str, str] | None
    """User and password, when the address was given with them."""
    loopback: bool
    """On this machine, where no proxy leads."""


def completion_of(answer: Answer, *, max_tokens: int) -> Drawn:
    """The completion in an answer to a request for at most `max_tokens` tokens.

    Raises:
        ServerError: there is none that can be graded, or it was cut earlier than asked for: vLLM
            lowers the limit silently when the context has no room. Its text starts with a verb,
            as the caller says which server and which problem.
    """
    (choice,) = answer.choices
    if choice.finish_reason not in ("stop", "length"):
        raise ServerError(
            f"ended a completion with finish_reason = {choice.finish_reason!r}; only 'stop' and "
            "'length' leave one that can be graded. Serve the model without tools and filters."
        )
    if answer.usage is None:
        raise ServerError(
            "reports no usage, and the number of tokens is part of the result. Turn on its usage "
            "statistics, or use a server that counts."
        )
    num_tokens = answer.usage.completion_tokens
    if choice.finish_reason == "length" and num_tokens < max_tokens:
        raise ServerError(
            f"cut a completion after {num_tokens} tokens where max_tokens = {max_tokens}: its "
            "context is full, or it has a limit of its own. Lower max_tokens to what it allows "
            "beside the prompt, or serve the model with a longer context."
        )
    if choice.message is None and choice.text is None:
        raise ServerError("answered with neither a text nor a message. Is the address right?")
    text = choice.text or ""
    if choice.message is not None:
        text = message_text(choice.message, choice.finish_reason)
    return Drawn(text, num_tokens, choice.finish_reason)


def message_text(message: Message, stop_reason: StopReason) -> str:
    """The text as the model wrote it, the thinking that the server took out put back."""
    content = message.content or message.refusal or ""
    reasoning = message.reasoning or message.reasoning_content
    if not reasoning:
        return content
    if not content and stop_reason == "length":
        return f"<think>\n{reasoning}"  # cut while thinking
    return f"<think>\n{reasoning}\n</think>\n{content}"


def words_of(body: object) -> str:
    """What a server says in the body of an error."""
    if isinstance(body, Mapping):
        body = body.get("message") or body.get("detail") or dict(body)
    return str(body or "nothing")


def shortened(text: str) -> str:
    """The beginning of `text`, in one line."""
    text = re.sub(r"\s+", " ", text).strip()
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"


def key_from(variable: str) -> str:
    """The key in an environment variable; `NO_KEY` if there is none.

    Raises:
        ValueError: no header can carry it. The message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[!-~]*", key):
        raise ValueError(
            f"the key in the environment variable {variable} holds blanks or characters that no "
            "HTTP header can carry. Set it again."
        )
    return key or NO_KEY


def address_of(url: str) -> Address:
    """Reads `http://host:8000`, with or without `/v1`; another path is taken as it is.

    Raises:
        ValueError: `url` is no server's address. The message shows no credentials.
    """
    shown = re.split(r"[?#]", url.rpartition("@")[2])[0]
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading a port checks it
    except ValueError:
        raise ValueError(
            f"the server's address {shown!r} is no URL; is its port a number?"
        ) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(
            f"the server's address {shown!r} must start with http:// or https:// and name a host, "
            "for example http://127.0.0.1:8000."
        )
    path = parts.path.rstrip("/")
    if parts.query or parts.fragment or path.endswith("/completions"):
        raise ValueError(
            f"the server's address {shown!r} must end with the host, or with the path that the "
            "endpoints share, as in http://127.0.0.1:8000/v1: no query, no endpoint."
        )
    login = None
    if parts.username is not None:
        login = (unquote(parts.username), unquote(parts.password or ""))
    bare = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path or '/v1'}"
    return Address(bare, login, _is_loopback(host))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified  # 0.0.0.0 connects to this machine

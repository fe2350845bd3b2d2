"""Tests for grpo/evaluation/server_sampler.py: the model, the address and the key."""

import base64
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from fake_server import SETTINGS, FakeServer, Reply, ask, our_threads, serving

from cotree.grpo.evaluation.server_sampler import ServerError, ServerSampler


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_it_describes_model_settings_and_what_the_server_says(fake: FakeServer):
    card = {"id": "m", "owned_by": "vllm", "root": "/m", "max_model_len": 256, "created": 7}
    fake.models = Reply(200, {"data": [card | {"permission": [{"id": "random"}]}]})
    sampler = ServerSampler(f"{fake.url}/v1/", **SETTINGS, stop=("\n",), concurrency=3)
    assert sampler.model == "m"
    assert sampler.url == f"{fake.url}/v1"
    assert sampler.describe() == {
        "engine": "server",
        "model": "m",
        "endpoints": {"text": "/v1/completions", "chat": "/v1/chat/completions"},
        "served": {"owned_by": "vllm", "root": "/m", "max_model_len": 256},
        "max_tokens": 16,
        "temperature": 0.7,
        "top_p": 0.9,
        "stop": ["\n"],
    }


def test_a_model_that_is_not_offered_is_refused_with_those_that_are(fake: FakeServer):
    fake.models = Reply(200, {"data": [{"id": "base"}, {"id": "lora"}]})
    with pytest.raises(ServerError, match="does not offer 'tiny'; it offers 'base', 'lora'"):
        ServerSampler(fake.url, model="tiny", **SETTINGS)
    with pytest.raises(ServerError, match=r"offers 'base', 'lora'\. Name one of them"):
        ServerSampler(fake.url, **SETTINGS)
    assert ServerSampler(fake.url, model="lora", **SETTINGS).model == "lora"
    fake.models = Reply(200, {"data": []})
    with pytest.raises(ServerError, match="offers no model"):
        ServerSampler(fake.url, **SETTINGS)


def test_a_server_without_a_model_list_serves_a_model_that_is_named(fake: FakeServer):
    fake.models = Reply(404, {"detail": "Not Found"})
    sampler = ServerSampler(fake.url, model="m", **SETTINGS)
    assert sampler.describe()["served"] == {}
    assert len(dict(sampler.sample([ask(0)]))) == 1
    with pytest.raises(ServerError, match=r"the list of models: .*answered 404: Not Found"):
        ServerSampler(fake.url, **SETTINGS)


def test_a_list_that_is_none_is_an_error(fake: FakeServer):
    fake.models = Reply(200, "<html>welcome")
    with pytest.raises(ServerError, match=r"the list of models: .*<html>welcome.*protocol"):
        ServerSampler(fake.url, model="m", **SETTINGS)


def test_a_server_that_is_not_there_is_reported():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ServerError, match=f":{port}/v1 cannot be reached .*Is it running"):
        ServerSampler(f"http://127.0.0.1:{port}", max_retries=0, **SETTINGS)
    assert our_threads() == []


@pytest.mark.parametrize("status", [400, 401, 503])
def test_no_error_and_no_description_holds_the_key(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, status: int
):
    monkeypatch.setenv("MY_KEY", "sk-123456")
    sampler = ServerSampler(fake.url, api_key_variable="MY_KEY", max_retries=0, **SETTINGS)
    fake.respond = lambda seen: Reply(status, {"error": {"message": seen.headers["authorization"]}})
    with pytest.raises(ServerError) as caught:
        list(sampler.sample([ask(0)]))
    assert fake.seen[0].headers["authorization"] == "Bearer sk-123456"
    assert "Bearer [redacted]" in str(caught.value)
    assert caught.value.__suppress_context__  # the client's own error quotes the server
    assert "sk-123456" not in f"{caught.value}{sampler.describe()}{sampler!r}"


def test_a_key_at_the_end_of_a_long_message_is_not_shown_in_part(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123456")
    sampler = ServerSampler(fake.url, **SETTINGS)
    for reply in (Reply(400, "x" * 495 + "sk-123456"), Reply(200, "x" * 495 + "sk-123456")):
        fake.respond = lambda _, reply=reply: reply
        with pytest.raises(ServerError) as caught:
            list(sampler.sample([ask(0)]))
        assert "xxxx[reda…" in str(caught.value)
        assert "sk-" not in str(caught.value)


def test_credentials_in_the_address_are_sent_and_never_shown(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123456")
    basic = base64.b64encode(b"me:p@ss/word").decode()
    address = fake.url.replace("//", "//me:p%40ss%2Fword@")
    sampler = ServerSampler(address, **SETTINGS)
    fake.respond = lambda _: Reply(401, {"detail": f"{basic} p@ss/word"})
    with pytest.raises(ServerError) as caught:
        list(sampler.sample([ask(0)]))
    assert fake.seen[0].headers["authorization"] == f"Basic {basic}"
    assert "[redacted] [redacted]" in str(caught.value)
    shown = f"{caught.value}{sampler.describe()}{sampler.url}"
    assert all(secret not in shown for secret in ("p@ss", "p%40", basic, "sk-123456", "me:"))


def test_a_server_without_a_key_gets_a_placeholder(fake: FakeServer):
    list(ServerSampler(fake.url, **SETTINGS).sample([ask(0)]))
    assert fake.seen[0].headers["authorization"] == "Bearer none"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0"])
def test_proxies_of_the_environment_never_stand_before_loopback(
    fake: FakeServer, monkeypatch: pytest.MonkeyPatch, host: str
):
    with serving() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        sampler = ServerSampler(fake.url.replace("127.0.0.1", host), **SETTINGS)
        assert len(dict(sampler.sample([ask(0)]))) == 1
        assert (len(fake.seen), len(proxy.seen)) == (1, 0)
        remote = ServerSampler("http://server.invalid:8000", **SETTINGS)
        assert len(dict(remote.sample([ask(0)]))) == 1
        assert (len(fake.seen), len(proxy.seen)) == (1, 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_tokens": 0}, "max_tokens = 0 must be 1"),
        ({"temperature": -1.0}, "temperature = -1.0 must be 0"),
        ({"temperature": 0.001}, "at least 0.01"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 0.0}, r"top_p = 0.0 must lie in \(0, 1\]"),
        ({"stop": ("x", "")}, "empty string"),
        ({"concurrency": 0}, "concurrency = 0 must lie in 1 to 1000"),
        ({"concurrency": 1001}, "concurrency = 1001"),
        ({"timeout_seconds": 0}, "timeout_seconds = 0 must"),
        ({"max_retries": -1}, "max_retries = -1 must"),
    ],
)
def test_settings_that_are_none_are_refused_before_anything_is_sent(
    options: dict[str, Any], said: str
):
    with pytest.raises(ValueError, match=said):
        ServerSampler("http://127.0.0.1:9", **SETTINGS | options)

"""Tests for grpo/evaluation/server_protocol.py."""

import pytest

from cotree.grpo.evaluation.records import Drawn
from cotree.grpo.evaluation.server_protocol import (
    NO_KEY,
    Address,
    Answer,
    Message,
    ServerError,
    address_of,
    completion_of,
    key_from,
    message_text,
    shortened,
    words_of,
)
from cotree.grpo.types import StopReason


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://host:8000", "http://host:8000/v1"),
        ("http://host:8000/", "http://host:8000/v1"),
        ("http://host:8000/v1", "http://host:8000/v1"),
        ("http://host:8000/v1/", "http://host:8000/v1"),
        ("https://host", "https://host/v1"),
        ("https://host/api/v1", "https://host/api/v1"),
        ("https://host/v1beta/openai/", "https://host/v1beta/openai"),
        ("http://[::1]:8000", "http://[::1]:8000/v1"),
    ],
)
def test_an_address_gets_the_protocols_path_unless_it_has_one(given: str, url: str):
    assert address_of(given)[:2] == (url, None)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("api.localhost", True),
        ("127.3.2.1", True),
        ("[::1]", True),
        ("0.0.0.0", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
    ],
)
def test_loopback_is_told_from_other_hosts(host: str, loopback: bool):
    assert address_of(f"http://{host}:8000").loopback is loopback


def test_credentials_are_taken_out_of_the_address_and_unquoted():
    address = address_of("https://me:p%40ss%2Fword@host:8000/v1")
    assert address == Address("https://host:8000/v1", ("me", "p@ss/word"), loopback=False)
    assert address_of("http://token@host").login == ("token", "")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("localhost:8000", "must start with http"),
        ("host", "must start with http"),
        ("", "must start with http"),
        ("ftp://host", "must start with http"),
        ("http://", "must start with http"),
        ("http://host:port", "is its port a number"),
        ("http://host:99999", "is its port a number"),
        ("http://[::1", "is no URL"),
        ("http://host/v1?key=secret", "no query"),
        ("http://host/v1#secret", "no query"),
        ("http://host/v1/chat/completions", "no endpoint"),
        ("me:secret@host:8000", "'host:8000' must start"),
        ("http://me:secret@host:port", "'host:port' is no URL"),
        ("http://me:sec#ret@host", "'host'"),
    ],
)
def test_what_is_no_address_is_refused_without_its_credentials(given: str, said: str):
    with pytest.raises(ValueError, match=said) as caught:
        address_of(given)
    assert "sec" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SOME_KEY", raising=False)
    assert key_from("SOME_KEY") == NO_KEY
    monkeypatch.setenv("SOME_KEY", " sk-1\n")
    assert key_from("SOME_KEY") == "sk-1"
    for broken in ("sk 1", "sk-1\nsk-2", "sk-é"):
        monkeypatch.setenv("SOME_KEY", broken)
        with pytest.raises(ValueError, match="SOME_KEY") as caught:
            key_from("SOME_KEY")
        assert "sk" not in str(caught.value)


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize(
    ("content", "stop_reason", "text"),
    [
        ("It is 2.", "stop", "<think>\n1+1\n</think>\nIt is 2."),
        ("It is", "length", "<think>\n1+1\n</think>\nIt is"),
        (None, "length", "<think>\n1+1"),  # cut while thinking: the block stays open
        ("", "length", "<think>\n1+1"),
        (None, "stop", "<think>\n1+1\n</think>\n"),
    ],
)
def test_thinking_is_put_back_before_the_content(
    field: str, content: str | None, stop_reason: StopReason, text: str
):
    message = Message.model_validate({"content": content, field: "1+1"})
    assert message_text(message, stop_reason) == text


def test_without_thinking_the_content_is_the_text():
    assert message_text(Message(content="<think>x</think>2"), "stop") == "<think>x</think>2"
    assert message_text(Message(content="2", reasoning=""), "length") == "2"
    assert message_text(Message(refusal="I will not."), "stop") == "I will not."
    assert message_text(Message(), "stop") == ""


def answer(choice: dict[str, object], usage: object = None) -> Answer:
    return Answer.model_validate({"choices": [choice], "usage": usage})


def test_a_completion_is_its_text_its_tokens_and_its_end():
    usage = {"completion_tokens": 9, "prompt_tokens": 4}
    got = completion_of(answer({"text": " 2", "finish_reason": "length"}, usage), max_tokens=9)
    assert got == Drawn(" 2", 9, "length")
    got = completion_of(
        answer({"message": {"content": ""}, "finish_reason": "stop"}, usage), max_tokens=9
    )
    assert got == Drawn("", 9, "stop")


@pytest.mark.parametrize("reason", ["content_filter", "tool_calls", "abort", "", None])
def test_other_ends_leave_nothing_to_grade(reason: str | None):
    usage = {"completion_tokens": 9}
    with pytest.raises(ServerError, match=f"finish_reason = {reason!r}"):
        completion_of(answer({"text": "x", "finish_reason": reason}, usage), max_tokens=9)


def test_a_completion_that_was_cut_earlier_than_asked_for_is_an_error():
    # vLLM shortens the limit to what its context has left, and says nothing.
    cut = answer({"text": "1 +", "finish_reason": "length"}, {"completion_tokens": 9})
    assert completion_of(cut, max_tokens=9).stop_reason == "length"
    with pytest.raises(ServerError, match=r"after 9 tokens where max_tokens = 10"):
        completion_of(cut, max_tokens=10)


def test_a_missing_token_count_is_an_error():
    with pytest.raises(ServerError, match="reports no usage"):
        completion_of(answer({"text": "x", "finish_reason": "stop"}), max_tokens=9)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"message": "too long", "code": 400}, "too long"),
        ({"detail": "Not Found"}, "Not Found"),
        ({"code": 3}, "{'code': 3}"),
        ("<html>no</html>", "<html>no</html>"),
        ("", "nothing"),
        (None, "nothing"),
    ],
)
def test_a_servers_words_are_found_wherever_it_puts_them(body: object, words: str):
    assert words_of(body) == words


def test_long_words_are_cut_and_lines_joined():
    assert shortened("<html>\n  no\n</html>\n") == "<html> no </html>"
    assert shortened("x" * 500) == "x" * 500
    assert shortened("x" * 501) == "x" * 500 + "…"

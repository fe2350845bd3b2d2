"""Tests for grpo/evaluation/server_sampler.py against a real HTTP server on loopback."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from fake_server import (
    HANG,
    PATIENCE_SECONDS,
    SETTINGS,
    FakeServer,
    Reply,
    Seen,
    ask,
    chat_completion,
    completion,
    echo,
    our_threads,
    serving,
)

from cotree.grpo.evaluation.records import Ask, Drawn, Turn
from cotree.grpo.evaluation.server_sampler import ServerError, ServerSampler

CHAT = (Turn("system", "Be brief."), Turn("user", "1+1?"))


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def refusal(fake: FakeServer, reply: Reply, **options: Any) -> str:
    """The error that an evaluation of one problem ends with when the server answers `reply`."""
    fake.respond = lambda _: reply
    sampler = ServerSampler(fake.url, **SETTINGS | options)
    with pytest.raises(ServerError) as caught:
        list(sampler.sample([ask(7)]))
    return str(caught.value)


# What is sent and what comes back.


def test_each_seed_is_a_request_of_its_own_with_all_settings(fake: FakeServer):
    sampler = ServerSampler(fake.url, **SETTINGS, stop=("\n\n", "Q:"))
    assert dict(sampler.sample([ask(0, 5, 6)])) == {
        0: (Drawn("prompt 0/5", 3, "stop"), Drawn("prompt 0/6", 3, "stop"))
    }
    assert {seen.path for seen in fake.seen} == {"/v1/completions"}
    assert sorted(seen.body.pop("seed") for seen in fake.seen) == [5, 6]
    expected = {"model": "tiny", "prompt": "prompt 0", "n": 1, "stop": ["\n\n", "Q:"]}
    assert all(seen.body == expected | SETTINGS for seen in fake.seen)


def test_a_chat_goes_to_the_chat_endpoint_turn_by_turn(fake: FakeServer):
    sampler = ServerSampler(fake.url, **SETTINGS)
    assert dict(sampler.sample([ask(3, 2**63 - 1, prompt=CHAT)])) == {
        3: (Drawn(f"1+1?/{2**63 - 1}", 3, "stop"),)
    }
    (seen,) = fake.seen
    assert seen.path == "/v1/chat/completions"
    assert seen.body["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1+1?"},
    ]
    assert "stop" not in seen.body  # an empty list is refused by some servers


def test_a_prompt_is_shown_as_text_and_a_chat_with_its_roles(fake: FakeServer):
    sampler = ServerSampler(fake.url, **SETTINGS)
    assert sampler.shown("1+1=\n") == "1+1=\n"
    assert sampler.shown(CHAT) == "[system]\nBe brief.\n\n[user]\n1+1?"


def test_problems_arrive_as_they_finish_and_samples_in_the_order_of_their_seeds(fake: FakeServer):
    released, second_sample_done = threading.Event(), threading.Event()

    def respond(seen: Seen) -> Reply:
        if seen.body["seed"] == 10:  # the first seed of the first problem is the last to finish
            assert released.wait(PATIENCE_SECONDS)
            assert second_sample_done.wait(PATIENCE_SECONDS)
        if seen.body["seed"] == 11:
            second_sample_done.set()
        return echo(seen)

    fake.respond = respond
    problems = ServerSampler(fake.url, **SETTINGS).sample([ask(0, 10, 11), ask(1, 20)])
    assert next(problems)[0] == 1
    released.set()
    assert next(problems) == (0, (Drawn("prompt 0/10", 3, "stop"), Drawn("prompt 0/11", 3, "stop")))
    assert list(problems) == []


def test_no_problem_and_no_seed_are_answered_without_a_request(fake: FakeServer):
    sampler = ServerSampler(fake.url, **SETTINGS)
    assert list(sampler.sample([])) == []
    assert list(sampler.sample([Ask(4, "p4", "x", ())])) == [(4, ())]
    assert fake.seen == []


def test_a_length_limit_and_token_counts_are_taken_from_the_answer(fake: FakeServer):
    fake.respond = lambda _: completion("1 + ", tokens=16, finish="length")
    drawn = dict(ServerSampler(fake.url, **SETTINGS).sample([ask(0)]))[0]
    assert drawn == (Drawn("1 + ", 16, "length"),)


def test_thinking_that_the_server_split_off_is_put_back(fake: FakeServer):
    fake.respond = lambda _: chat_completion({"content": "2", "reasoning": "1+1"})
    drawn = dict(ServerSampler(fake.url, **SETTINGS).sample([ask(0, prompt=CHAT)]))[0]
    assert drawn == (Drawn("<think>\n1+1\n</think>\n2", 3, "stop"),)


def test_a_model_that_says_nothing_is_an_empty_completion(fake: FakeServer):
    fake.respond = lambda _: chat_completion({"content": None, "reasoning": None})
    drawn = dict(ServerSampler(fake.url, **SETTINGS).sample([ask(0, prompt=CHAT)]))[0]
    assert drawn == (Drawn("", 3, "stop"),)


def test_requests_in_flight_reach_the_limit_and_never_pass_it(fake: FakeServer):
    # 4 requests meet at the barrier, three times; with fewer in flight it would time out.
    together = threading.Barrier(4)

    def respond(seen: Seen) -> Reply:
        together.wait(PATIENCE_SECONDS)
        return echo(seen)

    fake.respond = respond
    sampler = ServerSampler(fake.url, **SETTINGS, concurrency=4)
    assert len(dict(sampler.sample([ask(i, 1, 2, 3) for i in range(4)]))) == 4
    assert fake.most_in_flight == 4


def test_it_works_inside_a_running_event_loop(fake: FakeServer):
    async def evaluate() -> int:
        return len(list(ServerSampler(fake.url, **SETTINGS).sample([ask(0), ask(1)])))

    assert asyncio.run(evaluate()) == 2


# Failures.


def test_a_busy_server_is_asked_again_when_it_says(fake: FakeServer):
    replies = iter([Reply(429, {}, {"Retry-After": "0.7"}), Reply(503, "busy")])
    fake.respond = lambda seen: next(replies, None) or echo(seen)
    drawn = dict(ServerSampler(fake.url, **SETTINGS).sample([ask(0, 5)]))[0]
    assert drawn == (Drawn("prompt 0/5", 3, "stop"),)
    first, second, third = (seen.at for seen in fake.seen)
    assert second - first >= 0.7  # the client's own first wait is at most 0.5 s
    assert third - second >= 0.375  # and a quarter less at least


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_server_that_stays_busy_ends_the_evaluation(fake: FakeServer, status: int):
    reply = Reply(status, {"error": {"message": "queue full"}}, {"Retry-After": "0.01"})
    message = refusal(fake, reply, max_retries=2)
    assert f"problem 'p7': {fake.url}/v1 answered {status}: queue full." in message
    assert "2 retries did not help" in message
    assert len(fake.seen) == 3


@pytest.mark.parametrize(
    ("status", "body", "said", "advice"),
    [
        (400, {"error": {"message": "too long: 300."}}, "too long: 300. ", "lower max_tokens"),
        (401, {"error": "no key"}, "no key. ", "OPENAI_API_KEY"),
        (403, {"message": "not you"}, "not you. ", "OPENAI_API_KEY"),
        (404, {"detail": "Not Found"}, "Not Found. ", "the model's name"),
        (422, {"detail": [{"loc": "seed"}]}, "[{'loc': 'seed'}]. ", "settings"),
        (405, "<html>\n no</html>", "<html> no</html>. ", "settings"),
        (307, "", "nothing. ", "redirects"),
    ],
)
def test_a_refusal_ends_the_evaluation_at_once(
    fake: FakeServer, status: int, body: object, said: str, advice: str
):
    message = refusal(fake, Reply(status, body))
    assert f"problem 'p7': {fake.url}/v1 answered {status}: {said}" in message
    assert advice in message
    assert len(fake.seen) == 1


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (completion("x", finish="content_filter"), "finish_reason = 'content_filter'"),
        (completion("x", finish="tool_calls"), "finish_reason = 'tool_calls'"),
        (completion("x", finish=None), "finish_reason = None"),
        (completion("x", finish="length", tokens=3), "after 3 tokens where max_tokens = 16"),
        (Reply(200, {"choices": [{"text": "x", "finish_reason": "stop"}]}), "no usage"),
        (Reply(200, {"choices": [{"finish_reason": "stop"}], "usage": {}}), "completion_tokens"),
        (Reply(200, {"choices": [], "usage": None}), "choices: List should have at least 1"),
        (Reply(200, {"error": {"message": "upstream died"}}), "upstream died"),
        (Reply(200, "<html>welcome"), "<html>welcome"),
        (
            Reply(
                200,
                {"choices": [{"finish_reason": "stop"}], "usage": {"completion_tokens": 1}},
            ),
            "neither a text nor a message",
        ),
    ],
)
def test_an_answer_that_is_no_completion_is_an_error(fake: FakeServer, reply: Reply, said: str):
    message = refusal(fake, reply)
    assert message.startswith(f"problem 'p7': {fake.url}/v1 ")
    assert said in message


def test_a_request_without_an_answer_is_repeated_and_then_given_up(fake: FakeServer):
    message = refusal(fake, HANG, timeout_seconds=0.1, max_retries=1)
    assert "problem 'p7'" in message
    assert "did not answer in time, 2 times" in message
    fake.wait(lambda: fake.abandoned == 2)


def test_results_before_an_error_are_yielded_and_it_leaves_nothing_behind(fake: FakeServer):
    def respond(seen: Seen) -> Reply:
        if seen.body["seed"] == 0:
            return echo(seen)
        if seen.body["seed"] == 1:
            fake.wait(lambda: len(fake.seen) == 3)  # the third hangs by now
            return Reply(400, {"error": {"message": "no"}})
        return HANG

    fake.respond = respond
    problems = ServerSampler(fake.url, **SETTINGS).sample([ask(0), ask(1), ask(2)])
    assert next(problems)[0] == 0
    with pytest.raises(ServerError, match=r"problem 'p1'.*answered 400"):
        next(problems)
    fake.wait(lambda: fake.abandoned == 1 and fake.connections == 0)
    assert our_threads() == []


def test_closing_early_ends_thread_and_connections(fake: FakeServer):
    fake.respond = lambda seen: echo(seen) if seen.body["seed"] == 0 else HANG
    problems = ServerSampler(fake.url, **SETTINGS).sample([ask(i) for i in range(4)])
    assert next(problems)[0] == 0
    fake.wait(lambda: len(fake.seen) == 4)
    assert len(our_threads()) == 1
    problems.close()
    assert our_threads() == []
    fake.wait(lambda: fake.abandoned == 3 and fake.connections == 0)


def test_negative_seeds_are_refused(fake: FakeServer):
    with pytest.raises(ValueError, match=r"'p0'.*0 or more"):
        list(ServerSampler(fake.url, **SETTINGS).sample([ask(0, -1)]))


# Interrupts. The server runs here, the evaluation in a process that can be sent SIGINT.

EVALUATION = """
import sys, threading, time
from cotree.grpo.evaluation.records import Ask
from cotree.grpo.evaluation.server_sampler import ServerSampler

sampler = ServerSampler(sys.argv[1], max_tokens=4, temperature=1.0)
problems = sampler.sample([Ask(i, f"p{i}", "x", (i,)) for i in range(3)])
try:
    print("got", next(problems)[0], flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    print(sum("cotree" in thread.name for thread in threading.enumerate()), "left", flush=True)
    raise
"""


@pytest.mark.parametrize(
    ("answered", "output"),
    [
        (set[int](), "0 left\n"),
        # Raised outside the generator, the interrupt leaves the thread to a caller that still
        # holds on to it, and the process must be able to end all the same.
        ({0}, "got 0\n1 left\n"),
    ],
    ids=["waiting", "grading"],
)
def test_ctrl_c_ends_the_process(fake: FakeServer, answered: set[int], output: str):
    fake.respond = lambda seen: echo(seen) if seen.body["seed"] in answered else HANG
    with subprocess.Popen(
        [sys.executable, "-c", EVALUATION, fake.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            got = child.stdout.readline() if answered else ""
            fake.wait(lambda: len(fake.seen) == 3)
            child.send_signal(signal.SIGINT)
            rest, errors = child.communicate(timeout=PATIENCE_SECONDS)
        finally:
            child.kill()
    assert child.returncode == -signal.SIGINT
    assert got + rest == output
    assert errors.strip().endswith("KeyboardInterrupt")
    fake.wait(lambda: fake.abandoned == 3 - len(answered) and fake.connections == 0)

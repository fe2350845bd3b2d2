"""Tests for grpo/distilling/server_scorer.py against a real HTTP server, and against vLLM's."""

import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np
import pytest

from cotree.grpo.distilling.server_scorer import ServerError, ServerScorer
from cotree.grpo.token_scores import ScoreRequest, TokenScores

ROOT = Path(__file__).resolve().parents[3]
VOCABULARY = 64

Body = dict[str, Any]
Respond = Callable[[Body], tuple[int, Any]]


def logprob(position: int, token: int, tokens: list[int]) -> float:
    """An invented model's, different for each token and position; exact in float32."""
    return -((token * 7 + position * 5 + tokens[position - 1]) % VOCABULARY) / 8 - 0.125


def positions(tokens: list[int], top_k: int) -> list[dict[str, Any] | None]:
    """As vLLM writes them: the text's own token first, then the most likely ones by rank."""
    found: list[dict[str, Any] | None] = [None]
    for place in range(1, len(tokens)):
        values = {token: logprob(place, token, tokens) for token in range(VOCABULARY)}
        ranked = sorted(values, key=values.__getitem__, reverse=True)
        own = tokens[place]
        chosen = [own, *(token for token in ranked[:top_k] if token != own)]
        found.append(
            {
                str(token): {
                    "logprob": values[token],
                    "rank": ranked.index(token) + 1,
                    "decoded_token": "é",
                }
                for token in chosen
            }
        )
    return found


def scored(found: object) -> tuple[int, Any]:
    choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": found}
    return 200, {"choices": [choice], "usage": {"completion_tokens": 1}}


def as_vllm_does(body: Body) -> tuple[int, Any]:
    return scored(positions(body["prompt"], body["prompt_logprobs"]))


class FakeServer:
    """Answers what `respond` makes of a request's body."""

    def __init__(self) -> None:
        self.respond: Respond = as_vllm_does
        self.seen: list[tuple[str, Body]] = []
        self.url = ""


def handler_of(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(200, {"data": [{"id": "tiny"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.seen.append((self.path, body))
            self.send(*fake.respond(body))

        def send(self, status: int, answer: object) -> None:
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    return Handler


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    fake = FakeServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(fake))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OPENAI_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def text(number: int, *, given: int = 3, scored: int = 6) -> ScoreRequest:
    ids = tuple((number * 31 + i * i) % VOCABULARY for i in range(given + scored))
    return ScoreRequest(ids[:given], ids[given:])


def assert_invented(request: ScoreRequest, found: TokenScores, *, top_k: int) -> None:
    tokens = [*request.prompt_ids, *request.token_ids]
    for row, place in enumerate(range(len(request.prompt_ids), len(tokens))):
        values = [logprob(place, token, tokens) for token in range(VOCABULARY)]
        assert found.logprobs[row] == values[tokens[place]]
        highest = sorted(range(VOCABULARY), key=values.__getitem__, reverse=True)[:top_k]
        assert found.top_ids[row].tolist() == highest
        assert found.top_logprobs[row].tolist() == [values[token] for token in highest]


def refusal(fake: FakeServer, respond: Respond, *, top_k: int = 2) -> str:
    """The error that scoring one text ends with when the server answers like this."""
    fake.respond = respond
    with pytest.raises(ServerError) as caught:
        ServerScorer(fake.url, max_retries=0).score([text(5)], top_k=top_k)
    return str(caught.value)


# --- what is sent and what comes back ---------------------------------------------------------


@pytest.mark.parametrize("top_k", [0, 1, 5, VOCABULARY])
def test_a_text_goes_out_as_tokens_and_comes_back_as_scores(fake: FakeServer, top_k: int):
    requests = [text(n, given=1 + n, scored=7 - n) for n in range(6)]
    found = ServerScorer(fake.url, concurrency=1).score(requests, top_k=top_k)
    for request, scores in zip(requests, found, strict=True):
        assert scores.top_ids.shape == scores.top_logprobs.shape == (len(scores.logprobs), top_k)
        assert (scores.logprobs.dtype, scores.top_ids.dtype) == (np.float32, np.int32)
        assert_invented(request, scores, top_k=top_k)
    assert fake.seen == [
        (
            "/v1/completions",
            {
                "model": "tiny",
                "prompt": [*request.prompt_ids, *request.token_ids],
                "max_tokens": 1,
                "temperature": 0.0,
                "prompt_logprobs": top_k,
            },
        )
        for request in requests
    ]


def test_scores_come_in_order_though_answers_do_not(fake: FakeServer):
    others_done = threading.Event()
    first = [*text(0).prompt_ids, *text(0).token_ids]

    def respond(body: Body) -> tuple[int, Any]:
        if body["prompt"] == first:
            assert others_done.wait(10.0)
        elif len(fake.seen) == 8:
            others_done.set()
        return as_vllm_does(body)

    fake.respond = respond
    requests = [text(n) for n in range(8)]
    found = list(ServerScorer(fake.url, concurrency=4).scores(requests, top_k=3))
    assert [index for index, _ in found] == list(range(8))
    for index, scores in found:
        assert_invented(requests[index], scores, top_k=3)


def test_no_text_is_no_request(fake: FakeServer):
    assert ServerScorer(fake.url).score([], top_k=3) == []
    assert fake.seen == []


def test_a_busy_server_is_asked_again(fake: FakeServer):
    def respond(body: Body) -> tuple[int, Any]:
        return as_vllm_does(body) if len(fake.seen) > 1 else (503, {"error": "busy"})

    fake.respond = respond
    (found,) = ServerScorer(fake.url).score([text(2)], top_k=1)
    assert_invented(text(2), found, top_k=1)


# --- what is no score ---------------------------------------------------------------------------


def test_a_server_that_cannot_score_is_named_with_what_can(fake: FakeServer):
    words = refusal(fake, lambda _: scored(None))
    assert words.startswith(f"text 0: {fake.url}/v1 answered without prompt_logprobs")
    assert 'type = "engine"' in words
    assert 'distill.type = "traces"' in words


def test_the_servers_own_words_are_passed_on(fake: FakeServer):
    said = "Requested prompt logprobs of 30, which is greater than max allowed: 20"
    words = refusal(fake, lambda _: (400, {"error": {"message": said}}), top_k=30)
    assert words.startswith(f"text 0: {fake.url}/v1 answered 400: {said}.")


def changed(change: Callable[[list[Any]], object]) -> Respond:
    """VLLM's answer to a request, after something was done to its positions."""

    def respond(body: Body) -> tuple[int, Any]:
        found = positions(body["prompt"], body["prompt_logprobs"])
        change(found)
        return scored(found)

    return respond


@pytest.mark.parametrize("value", [math.nan, -math.inf, math.inf, -9999.0])
def test_what_is_no_finite_number_is_refused(fake: FakeServer, value: float):
    # vLLM writes -9999 for minus infinity.
    def change(found: list[Any]) -> None:
        next(iter(found[4].values()))["logprob"] = value

    assert "at position 4 that is no finite number" in refusal(fake, changed(change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda found: found.pop(), "scored 8 tokens of a text of 9"),
        (lambda found: found.insert(0, None), "scored 10 tokens of a text of 9"),
        (lambda found: found.__setitem__(3, None), "no log-probability of token .* at position 3"),
        (lambda found: found[6].pop(next(iter(found[6]))), "no log-probability of token .* 6"),
        (lambda found: found[8].popitem(), "gave 1 of the 2 most likely tokens at position 8"),
        (lambda found: found[5].update(x=1), "not OpenAI's protocol"),
    ],
)
def test_scores_that_are_not_those_of_the_text_are_refused(
    fake: FakeServer, change: Callable[[list[Any]], object], words: str
):
    message = refusal(fake, changed(change))
    assert re.search(words, message), message


@pytest.mark.parametrize(
    ("request_", "top_k", "words"),
    [
        (ScoreRequest((), (5,)), 4, "one prompt token or more"),
        (ScoreRequest((5,), ()), 4, "one to be scored"),
        (ScoreRequest((5,), (6,)), -1, "top_k = -1"),
    ],
)
def test_what_cannot_be_scored_is_never_sent(
    fake: FakeServer, request_: ScoreRequest, top_k: int, words: str
):
    with pytest.raises(ValueError, match=words):
        ServerScorer(fake.url).score([text(0), request_], top_k=top_k)
    assert fake.seen == []


# --- vLLM's own server --------------------------------------------------------------------------


@pytest.fixture
def vllm_url(tiny_model: Path, tmp_path: Path) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = ["nice", str(ROOT / "scripts/serve_cpu.sh"), str(tiny_model), str(port)]
    command += ["--max-model-len", "256", "--dtype", "float32"]
    settings = {"COTREE_VENV": sys.prefix, "COTREE_KV_CACHE": "64M", "OMP_NUM_THREADS": "1"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 240.0
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert server.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60.0)


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, TimeoutError):
        return False


@pytest.mark.e2e
def test_vllm_scores_as_transformers_does(vllm_url: str, tiny_model: Path):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    requests = [text(n, given=1 + 9 * n, scored=40 + n) for n in range(12)]
    scorer = ServerScorer(vllm_url)
    for request, found in zip(requests, scorer.score(requests, top_k=20), strict=True):
        ids = [*request.prompt_ids, *request.token_ids]
        with torch.no_grad():
            table = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        expected = table[len(request.prompt_ids) - 1 : -1].numpy()
        own = np.take_along_axis(expected, np.array(request.token_ids)[:, None], axis=-1)[:, 0]
        np.testing.assert_allclose(found.logprobs, own, atol=1e-4)
        highest = -np.sort(-expected, axis=-1)[:, :20]
        np.testing.assert_allclose(found.top_logprobs, highest, atol=1e-4)
        named = np.take_along_axis(expected, found.top_ids.astype(np.int64), axis=-1)
        np.testing.assert_allclose(found.top_logprobs, named, atol=1e-4)
    with pytest.raises(ServerError, match=r"answered 400: .*prompt logprobs of 21.*allowed: 20"):
        scorer.score(requests, top_k=21)

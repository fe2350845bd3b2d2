"""A server on loopback that speaks OpenAI's protocol and answers what a test wants."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from cotree.grpo.evaluation.records import Ask, Turn

PATIENCE_SECONDS = 10.0
"""How long a test waits for what must happen."""

SETTINGS: dict[str, Any] = {"max_tokens": 16, "temperature": 0.7, "top_p": 0.9}


def ask(index: int, *seeds: int, prompt: str | tuple[Turn, ...] | None = None) -> Ask:
    """Problem `p{index}`; its seed is its index unless others are given."""
    return Ask(index, f"p{index}", prompt or f"prompt {index}", seeds or (index,))


def our_threads() -> list[str]:
    """The sampler's threads that are alive."""
    return [thread.name for thread in threading.enumerate() if "cotree" in thread.name]


@dataclass(frozen=True)
class Seen:
    """A request as the server saw it."""

    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: dict[str, Any]
    at: float


class Reply(NamedTuple):
    """An answer. A status of 0 is none: the connection stays open until the client closes it."""

    status: int
    body: object
    headers: Mapping[str, str] = {}


HANG = Reply(0, None)


def completion(text: str, *, tokens: int = 3, finish: str | None = "stop") -> Reply:
    return Reply(
        200,
        {
            "choices": [{"index": 0, "text": text, "finish_reason": finish}],
            "usage": {"completion_tokens": tokens},
        },
    )


def chat_completion(message: Mapping[str, object], *, finish: str = "stop") -> Reply:
    return Reply(
        200,
        {
            "choices": [{"message": {"role": "assistant", **message}, "finish_reason": finish}],
            "usage": {"completion_tokens": 3},
        },
    )


def echo(seen: Seen) -> Reply:
    """The prompt, or the last turn, and the seed."""
    prompt = seen.body.get("prompt") or seen.body["messages"][-1]["content"]
    text = f"{prompt}/{seen.body['seed']}"
    if "prompt" in seen.body:
        return completion(text)
    return chat_completion({"content": text})


class FakeServer:
    """Counts what it is asked and how many requests it holds at once."""

    def __init__(self) -> None:
        self.respond: Callable[[Seen], Reply] = echo
        self.models = Reply(200, {"data": [{"id": "tiny", "owned_by": "us", "created": 7}]})
        self.seen: list[Seen] = []
        self.in_flight = self.most_in_flight = self.connections = self.abandoned = 0
        self.changed = threading.Condition()
        self.url = ""

    def count(self, name: str, by: int) -> None:
        with self.changed:
            setattr(self, name, getattr(self, name) + by)
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            self.changed.notify_all()

    def wait(self, holds: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(holds, PATIENCE_SECONDS)

    def answer(self, seen: Seen) -> Reply:
        if seen.path.endswith("/models"):
            return self.models
        with self.changed:
            self.seen.append(seen)
        self.count("in_flight", 1)
        try:
            return self.respond(seen)
        finally:
            self.count("in_flight", -1)


def handler_of(fake: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            fake.count("connections", 1)

        def finish(self) -> None:
            super().finish()
            fake.count("connections", -1)

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = urlsplit(self.path).path
            headers = {name.lower(): value for name, value in self.headers.items()}
            seen = Seen(path, headers, json.loads(body or "{}"), time.monotonic())
            reply = fake.answer(seen)
            if reply.status == 0:
                assert self.connection.recv(1) == b""  # until the client closes
                fake.count("abandoned", 1)
                self.close_connection = True
                return
            text = reply.body if isinstance(reply.body, str) else json.dumps(reply.body)
            self.send_response(reply.status)
            for name, value in {"content-length": str(len(text.encode())), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

    return Handler


@contextmanager
def serving() -> Iterator[FakeServer]:
    fake = FakeServer()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(fake))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fake
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

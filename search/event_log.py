"""What engines returned, appended as it comes: a search that is killed never pays twice.

One line a continuation. All else (trees, verdicts, choices) is a function of these lines and of
the strategy, so resuming and replaying are the same thing: the search runs again, and whatever the
log has is taken from there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Self

from cotree.search.lines import drop_torn_line
from cotree.search.types import Continuation, Request

Name = tuple[int, int, int]
_ENDS = ("text", "stop", "length")


class EventLogError(ValueError):
    """The log is damaged, or holds the events of other searches."""


class EventLog:
    """A file of continuations. A context manager; it belongs to one process at a time."""

    def __init__(self, path: Path) -> None:
        """Reads what is there. A last line that was cut short by a kill is dropped.

        Raises:
            EventLogError: a line is no event.
        """
        self._path = path
        self._events: dict[Name, tuple[str, Continuation]] = {}
        self._expected: dict[Name, str] = {}
        if path.exists():
            drop_torn_line(path)
            for number, line in enumerate(path.read_text(encoding="ascii").splitlines(), start=1):
                digest, found = _read(line, f"{path}, line {number}")
                self._events[found.name] = (digest, found)
        self.num_read = len(self._events)
        """Events that were there at the start."""
        self._file = path.open("a", encoding="ascii")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file; what it holds stays."""
        self._file.close()

    def find(self, request: Request) -> Continuation | None:
        """What was returned for this request before; None: nothing was.

        Raises:
            EventLogError: something was, for another request of this name.
        """
        recorded = self._events.pop(request.name, None)
        if recorded is None:
            return None
        digest, found = recorded
        if digest != request_digest(request):
            raise EventLogError(
                f"{self._path}: request {request.name} of this search is not the one that was "
                "answered there. The log is of other settings, another model or another version; "
                "search into another folder, or remove this one."
            )
        return found

    def expect(self, requests: Sequence[Request]) -> None:
        """Notes what is about to be asked for, so that the answers can be recorded."""
        self._expected.update((request.name, request_digest(request)) for request in requests)

    def record(self, found: Sequence[Continuation]) -> None:
        """Writes what was returned; it is in the file when this returns."""
        self._file.writelines(_line(self._expected.pop(one.name), one) for one in found)
        self._file.flush()


def request_digest(request: Request) -> str:
    """What decides the answer to a request, besides prompt, model and seed of the search."""
    parts = (request.prefix, request.key, request.max_tokens, request.stops, request.draft)
    return blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def _line(digest: str, found: Continuation) -> str:
    event = {
        "name": found.name,
        "request": digest,
        "tokens": found.token_ids,
        "logprobs": found.logprobs,
        "end": found.end,
        "prompt": found.num_prompt_tokens,
        "cached": found.num_cached_tokens,
        "policy": found.policy_version,
    }
    return json.dumps(event, allow_nan=False, separators=(",", ":")) + "\n"


def _read(line: str, place: str) -> tuple[str, Continuation]:
    try:
        event = json.loads(line)
        search, job, part = event["name"]
        tokens, logprobs = tuple(event["tokens"]), tuple(event["logprobs"])
        if len(tokens) != len(logprobs) or event["end"] not in _ENDS:
            raise EventLogError(f"{place}: {len(tokens)} tokens, {len(logprobs)} log-probabilities")
        counts = (event["prompt"], event["cached"], event["policy"])
        found = Continuation((search, job, part), tokens, logprobs, event["end"], *counts)
        return event["request"], found
    except (ValueError, KeyError, TypeError) as error:
        raise EventLogError(
            f"{place} is no event of a search ({error}). Remove the line and those after it: what "
            "is missing is generated again."
        ) from error

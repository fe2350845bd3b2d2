"""Many searches in one stream of requests, so that the engines' batch stays full."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence

from cotree.search.event_log import EventLog
from cotree.search.running import RunningSearch
from cotree.search.types import Backend, Continuation, Judge, Request


def drive(
    searches: Iterable[RunningSearch],
    backend: Backend,
    judge: Judge,
    *,
    concurrency: int,
    log: EventLog | None = None,
) -> Generator[RunningSearch]:
    """Runs searches to their ends and yields each when it is over.

    Args:
        searches: taken as there is room for them.
        backend: generates.
        judge: of all their states.
        concurrency: searches under way at once. Their trees' distinct tokens should fit into the
            engines' key-value cache, or prefixes are computed again and again.
        log: has what was generated before, which is not generated again, and gets what is new.

    Raises:
        EventLogError: the log is of other searches.
        Exception: what the backend or the judge raises; the log has all that was generated.
    """
    waiting = iter(searches)
    active: dict[int, RunningSearch] = {}
    touched: dict[int, RunningSearch] = {}
    outgoing: list[Request] = []
    while True:
        while len(active) < concurrency and (started := next(waiting, None)) is not None:
            assert started.number not in active, f"two searches have number {started.number}"
            active[started.number] = touched[started.number] = started
        arrived: list[Continuation] = []
        for search in touched.values():
            for request in search.requests():
                recorded = log.find(request) if log else None
                if recorded is None:
                    outgoing.append(request)
                else:
                    arrived.append(recorded)
        over = [search for search in touched.values() if search.is_over]
        touched = {}
        for search in over:
            del active[search.number]
            yield search
        if not active:
            if over:
                continue  # there may be more that wait
            return
        if not arrived:
            if log is not None:
                log.expect(outgoing)
            arrived = backend.exchange(outgoing)
            outgoing = []
            if log is not None:
                log.record(arrived)
        touched = _taken_in(active, arrived, judge)


def _taken_in(
    active: dict[int, RunningSearch], arrived: Sequence[Continuation], judge: Judge
) -> dict[int, RunningSearch]:
    """Hands out what arrived and its judgements; the searches that something changed for."""
    touched: dict[int, RunningSearch] = {}
    to_judge: list[tuple[RunningSearch, int]] = []
    for found in arrived:
        number, job, _ = found.name
        search = touched[number] = active[number]
        if search.accept(found):
            to_judge.append((search, job))
    judgements = judge.judge([search.state(job) for search, job in to_judge])
    for (search, job), judgement in zip(to_judge, judgements, strict=True):
        search.judged(job, judgement)
    for search in touched.values():
        search.deliver()
    return touched

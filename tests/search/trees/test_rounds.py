"""Tests for search/trees/rounds.py: what happens between the asks of a round."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cotree.search.tree import ROOT
from cotree.search.trees.rounds import Rounds
from cotree.search.types import Job, Reply, Step


class Fixed(Rounds):
    """Three steps after the root, then one after each state; two rounds."""

    def __init__(self) -> None:
        super().__init__()
        self.rounds: list[list[int | None]] = []

    def best(self) -> int | None:
        return None

    def _following(self, ends: Sequence[int | None]) -> list[int]:
        self.rounds.append(list(ends))
        if not ends:
            return [ROOT] * 3
        return [end for end in ends if end is not None] if len(self.rounds) == 2 else []


def step(job: Job) -> Reply:
    return Reply(job.number, (Step((job.number,), (), "", "boundary"),), None, 1.0)


def test_a_round_is_asked_for_as_there_is_room_and_then_waits():
    search = Fixed()
    first, second = search.ask(2), search.ask(2)
    assert [job.number for job in (*first, *second)] == [0, 1, 2]
    assert {job.kind for job in (*first, *second)} == {"step"}
    assert search.ask(2) == []
    for job in (*first, *second):
        search.tell(step(job))
    assert [job.node for job in search.ask(9)] == [1, 2, 3]


@given(st.permutations(range(3)), st.sets(st.integers(0, 2)))
def test_what_a_round_brought_is_in_the_order_of_the_asks(order: list[int], given_up: set[int]):
    search = Fixed()
    jobs = search.ask(3)
    for number in order:
        if number in given_up:
            search.drop(number)
        else:
            search.tell(step(jobs[number]))
    search.ask(1)
    tokens = [None if end is None else search.tree.token_ids(end) for end in search.rounds[1]]
    assert tokens == [None if number in given_up else (number,) for number in range(3)]


def test_it_is_done_when_there_is_no_next_round():
    search = Fixed()
    while jobs := search.ask(9):
        assert not search.is_done
        for job in jobs:
            search.tell(step(job))
    assert search.is_done
    assert search.ask(9) == []
    assert len(search.rounds) == 3  # nobody is asked again

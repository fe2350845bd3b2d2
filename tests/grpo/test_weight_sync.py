"""Tests for grpo/weight_sync.py: how fast replicas were, and how their drafts went, since a sync.

That weights arrive and are proven is tested on real engines, in test_engine.py and end to end.
"""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.weight_sync import WeightSync

Totals = dict[str, float]


@dataclass
class Replica:
    """Counts as an engine does: totals since its start, those of drafts where it has a drafter."""

    drafts: bool = False
    totals: Totals = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """What a new process in a replica's place begins with."""
        self.totals = {"tokens": 0.0, "seconds": 0.0, "prompt_tokens": 0.0, "cached_tokens": 0.0}
        if self.drafts:
            names = ("drafts", "drafted_tokens", "accepted_tokens", "preemptions")
            self.totals |= dict.fromkeys(names, 0.0)

    def count(self, **more: float) -> None:
        for name, value in more.items():
            self.totals[name] += value


@dataclass
class Replicas:
    """The part of a `GeneratorGroup` that is asked."""

    members: list[Replica]

    def stats(self) -> list[Totals]:
        return [dict(member.totals) for member in self.members]


def syncs(*members: Replica) -> WeightSync:
    return WeightSync(None, Replicas(list(members)), canary_ids=(5, 6))


def test_a_speed_is_that_since_the_last_sync():
    replica = Replica()
    sync = syncs(replica)
    replica.count(tokens=600, seconds=3)
    assert sync._engine_speed() == {
        "engine/busy_seconds": 3.0,
        "tokens_per_second/generate": 200.0,
    }
    replica.count(tokens=400, seconds=4)
    assert sync._engine_speed() == {
        "engine/busy_seconds": 4.0,
        "tokens_per_second/generate": 100.0,
    }


def test_where_nothing_was_sampled_nothing_is_told():
    replica = Replica(drafts=True)
    sync = syncs(replica)
    assert sync._engine_speed() == {}
    replica.count(tokens=10, seconds=1)
    assert sync._engine_speed()
    assert sync._engine_speed() == {}


def test_replicas_sample_side_by_side():
    # 500 tokens in 2 s and 700 in 4 s: 1200 tokens while the mean replica was busy for 3 s.
    fast, slow = Replica(), Replica()
    sync = syncs(fast, slow)
    fast.count(tokens=500, seconds=2)
    slow.count(tokens=700, seconds=4)
    assert sync._engine_speed() == {
        "engine/busy_seconds": 3.0,
        "tokens_per_second/generate": 400.0,
    }


@given(
    st.lists(
        st.lists(st.tuples(st.integers(1, 1000), st.integers(1, 60)), min_size=2, max_size=2),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_told_adds_up_to_the_totals(rounds: list[list[tuple[int, int]]]):
    members = [Replica(), Replica()]
    sync = syncs(*members)
    tokens = seconds = 0.0
    for shares in rounds:
        for member, (more_tokens, more_seconds) in zip(members, shares, strict=True):
            member.count(tokens=more_tokens, seconds=more_seconds)
        stats = sync._engine_speed()
        seconds += stats["engine/busy_seconds"]
        tokens += stats["engine/busy_seconds"] * stats["tokens_per_second/generate"]
    assert seconds == pytest.approx(sum(m.totals["seconds"] for m in members) / 2)
    assert tokens == pytest.approx(sum(m.totals["tokens"] for m in members))


def test_without_a_drafter_nothing_is_said_of_drafts():
    replica = Replica()
    sync = syncs(replica)
    replica.count(tokens=10, seconds=1)
    assert not [name for name in sync._engine_speed() if name.startswith("speculation")]
    drafter = Replica(drafts=True)
    sync = syncs(drafter)
    drafter.count(tokens=10, seconds=1)  # ngrams that occurred nowhere: no draft, no share of any
    assert not [name for name in sync._engine_speed() if name.startswith("speculation")]


def test_accepted_drafts_are_counted_by_token_and_by_draft():
    # 10 drafts of 4 tokens, 30 of 40 accepted: 3 a draft; then 5 of 4, 4 of 20: 0.8 a draft.
    replica = Replica(drafts=True)
    sync = syncs(replica)
    replica.count(tokens=40, seconds=1, drafts=10, drafted_tokens=40, accepted_tokens=30)
    first = sync._engine_speed()
    assert first["speculation/accepted_frac"] == 0.75
    assert first["speculation/accepted_per_draft"] == 3.0
    replica.count(tokens=9, seconds=1, drafts=5, drafted_tokens=20, accepted_tokens=4)
    second = sync._engine_speed()
    assert second["speculation/accepted_frac"] == pytest.approx(0.2)
    assert second["speculation/accepted_per_draft"] == pytest.approx(0.8)


def test_drafts_of_all_replicas_count_together():
    # 3 of 4 and 1 of 16 are 4 of 20, not the mean of both shares.
    one, other = Replica(drafts=True), Replica(drafts=True)
    sync = syncs(one, other)
    one.count(tokens=4, seconds=1, drafts=1, drafted_tokens=4, accepted_tokens=3)
    other.count(tokens=5, seconds=1, drafts=4, drafted_tokens=16, accepted_tokens=1)
    stats = sync._engine_speed()
    assert stats["speculation/accepted_frac"] == pytest.approx(0.2)
    assert stats["speculation/accepted_per_draft"] == pytest.approx(0.8)


def test_a_replaced_replica_counts_from_zero():
    # Its predecessor had 1000 tokens at the last sync; it has 50 of its own since its start.
    replica = Replica()
    sync = syncs(replica)
    replica.count(tokens=1000, seconds=10)
    sync._engine_speed()
    replica.restart()
    replica.count(tokens=50, seconds=2)
    assert sync._engine_speed() == {
        "engine/busy_seconds": 2.0,
        "tokens_per_second/generate": 25.0,
    }
    replica.count(tokens=60, seconds=1)
    assert sync._engine_speed()["tokens_per_second/generate"] == 60.0


def test_a_replaced_replica_does_not_distort_what_the_others_did():
    # Since the last sync: 900 tokens in 3 s by the first; 100 in 1 s by the second's successor.
    first, second = Replica(drafts=True), Replica(drafts=True)
    sync = syncs(first, second)
    first.count(tokens=500, seconds=5, drafts=10, drafted_tokens=10, accepted_tokens=10)
    second.count(tokens=500, seconds=5, drafts=100, drafted_tokens=100, accepted_tokens=10)
    sync._engine_speed()
    first.count(tokens=900, seconds=3, drafts=120, drafted_tokens=120, accepted_tokens=90)
    second.restart()
    second.count(tokens=100, seconds=1, drafts=30, drafted_tokens=30, accepted_tokens=0)
    # 90 of 150 drafted tokens were accepted. The group was busy for (3 + 1) / 2 s.
    assert sync._engine_speed() == {
        "engine/busy_seconds": 2.0,
        "tokens_per_second/generate": 500.0,
        "speculation/accepted_frac": 0.6,
        "speculation/accepted_per_draft": 0.6,
    }

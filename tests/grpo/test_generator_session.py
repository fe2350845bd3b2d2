"""Tests for grpo/generator_session.py and engine_exchange.py: two real replicas that take turns."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import ray
from tiny_models import WORDS

from cotree.grpo import config
from cotree.grpo.engine_exchange import TokenRequest
from cotree.grpo.generator import GeneratorGroup, Sampling, StaleGeneratorError
from cotree.grpo.generator_session import GeneratorSession
from cotree.grpo.types import Problem, SampleRequest
from cotree.search.types import Continuation

pytestmark = pytest.mark.e2e

SETTINGS = config.Generator(
    replicas=2,
    dtype="float32",
    max_model_len=128,
    kv_cache_bytes=32 << 20,
    sync_tolerance_nats=1e-3,
)


@pytest.fixture(scope="module")
def group(ray_cluster: None, tiny_model: Path) -> Iterator[GeneratorGroup]:
    group = GeneratorGroup.start(str(tiny_model), generator=SETTINGS, seed=0, num_gpus=0)
    yield group
    group.stop()


@pytest.fixture
def session(group: GeneratorGroup) -> Iterator[GeneratorSession]:
    session = GeneratorSession(group, temperature=1.0, top_p=1.0, min_version=0)
    yield session
    session.close()


def request(search: int, *, length: int = 40, max_tokens: int = 20, stop: str = "") -> TokenRequest:
    tokens = tuple(4 + (search * 31 + i * i) % 90 for i in range(length))
    return TokenRequest((search, 0, 0), tokens, 1000 + search, max_tokens, (stop,) if stop else ())


def exchanged(
    session: GeneratorSession, asked: Sequence[TokenRequest], *, at_once: int
) -> dict[tuple[int, int, int], Continuation]:
    """All continuations; `at_once` further requests are sent with each call."""
    left, found = list(asked), dict[tuple[int, int, int], Continuation]()
    while len(found) < len(asked):
        sent, left = left[:at_once], left[at_once:]
        for one in session.exchange(sent):
            assert one.name not in found, "a continuation was returned twice"
            found[one.name] = one
    return found


def test_what_is_returned_does_not_depend_on_the_company(session: GeneratorSession):
    asked = [request(n) for n in range(24)]
    together = exchanged(session, asked, at_once=24)
    in_turns = exchanged(session, asked[::-1], at_once=2)
    assert {n: (c.token_ids, c.logprobs, c.end) for n, c in together.items()} == {
        n: (c.token_ids, c.logprobs, c.end) for n, c in in_turns.items()
    }
    # Prompts of 40 tokens have one full block of 32 in the cache the second time.
    assert {one.num_cached_tokens for one in in_turns.values()} == {32}


def test_it_samples_what_a_plain_call_samples(group: GeneratorGroup, session: GeneratorSession):
    asked = [request(n) for n in range(6)]
    plain = group.submit(
        [
            SampleRequest(Problem(str(n), "", "", ""), one.token_ids, (one.seed,))
            for n, one in enumerate(asked)
        ],
        Sampling(20, 1.0),
        min_version=0,
    ).result()
    found = exchanged(session, asked, at_once=6)
    for one, (completion,) in zip(asked, plain, strict=True):
        assert found[one.name].token_ids == completion.token_ids
        assert found[one.name].logprobs == completion.logprobs


def test_ends_are_told_apart(session: GeneratorSession):
    # The tiny model writes characters at random: a common one stops most, and 20 tokens the rest.
    found = exchanged(session, [request(n, stop="a") for n in range(40)], at_once=40)
    ends = {one.end for one in found.values()}
    letter = 4 + WORDS.index("a")  # of the character tokenizer: four other tokens come first
    assert {"text", "length"} <= ends
    for one in found.values():
        if one.end == "length":
            assert len(one.token_ids) == 20
            assert letter not in one.token_ids
        elif one.end == "text":
            assert one.token_ids.index(letter) == len(one.token_ids) - 1


def test_a_killed_replica_is_replaced_and_nothing_is_lost(
    group: GeneratorGroup, session: GeneratorSession
):
    asked = [request(n, max_tokens=80) for n in range(30)]
    expected = exchanged(session, asked, at_once=30)
    victim = ray.get(group._actors[1].__ray_call__.remote(lambda _: os.getpid()))
    found: dict[tuple[int, int, int], Continuation] = {}
    sent = asked
    while len(found) < len(asked):
        got = session.exchange(sent)
        if sent:
            os.kill(victim, signal.SIGKILL)
        sent = []
        found |= {one.name: one for one in got}
    assert {n: c.token_ids for n, c in found.items()} == {
        n: c.token_ids for n, c in expected.items()
    }


def test_what_has_no_room_or_old_weights_is_refused(group: GeneratorGroup):
    session = GeneratorSession(group, temperature=1.0, top_p=1.0, min_version=0)
    with pytest.raises(ValueError, match=r"120 tokens and max_tokens = 20"):
        session.exchange([request(0, length=120)])
    newer = GeneratorSession(group, temperature=1.0, top_p=1.0, min_version=5)
    with pytest.raises(StaleGeneratorError, match="v5"):
        newer.exchange([request(0)])


def test_nothing_asked_returns_nothing(session: GeneratorSession):
    assert session.exchange([]) == []


def test_closing_leaves_the_engines_idle(group: GeneratorGroup):
    session = GeneratorSession(group, temperature=1.0, top_p=1.0, min_version=0)
    session.exchange([request(n, max_tokens=80) for n in range(20)])
    session.close()
    again = GeneratorSession(group, temperature=1.0, top_p=1.0, min_version=0)
    assert set(exchanged(again, [request(0)], at_once=1)) == {(0, 0, 0)}
    again.close()

"""Tests for grpo/distilling/teacher_scorer.py: two real replicas, and the death of one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo import config
from cotree.grpo.distilling.teacher_scorer import EngineScorer, Scorer, dealt_out
from cotree.grpo.generator import GeneratorGroup
from cotree.grpo.token_scores import ScoreRequest, TokenScores

pytestmark = pytest.mark.e2e

SETTINGS = config.Generator(replicas=2, dtype="float32", max_model_len=256, kv_cache_bytes=32 << 20)


@pytest.fixture(scope="module")
def group(ray_cluster: None, tiny_model: Path) -> Iterator[GeneratorGroup]:
    group = GeneratorGroup.start(str(tiny_model), generator=SETTINGS, seed=0, num_gpus=0)
    yield group
    group.stop()


def text(number: int, *, given: int = 20, scored: int = 150) -> ScoreRequest:
    ids = tuple(4 + (number * 31 + i * i) % 90 for i in range(given + scored))
    return ScoreRequest(ids[:given], ids[given:])


def same(first: TokenScores, second: TokenScores) -> bool:
    return all(
        np.array_equal(getattr(first, name), getattr(second, name))
        for name in ("logprobs", "top_ids", "top_logprobs")
    )


def alone(group: GeneratorGroup, request: ScoreRequest) -> TokenScores:
    ((found,),) = group.get([(0, group.call(0, "score", [request], top_k=4))])
    return found


def test_scores_come_in_order_from_all_replicas(group: GeneratorGroup):
    scorer: Scorer = EngineScorer(group)
    before = group.stats()
    # 300 texts of 170 tokens: 51,000, hence four rounds of two shares of 6,375 tokens.
    requests = [text(number) for number in range(300)]
    found = list(scorer.scores(requests, top_k=4))
    assert [index for index, _ in found] == list(range(300))
    scored = [
        after["scored_tokens"] - earlier["scored_tokens"]
        for earlier, after in zip(before, group.stats(), strict=True)
    ]
    assert sum(scored) == 300 * 150
    assert all(count == pytest.approx(150 * 150, rel=0.05) for count in scored)
    for number in (0, 36, 37, 38, 74, 75, 150, 299):
        assert same(found[number][1], alone(group, requests[number]))


def test_few_texts_are_shared_too_and_none_is_no_call(group: GeneratorGroup):
    before = group.stats()
    scorer = EngineScorer(group)
    assert scorer.score([], top_k=4) == []
    found = scorer.score([text(0), text(1)], top_k=0)
    assert [len(one.logprobs) for one in found] == [150, 150]
    for earlier, after in zip(before, group.stats(), strict=True):
        assert after["scored_tokens"] - earlier["scored_tokens"] == 150


def test_what_a_replica_refuses_arrives_as_it_is(group: GeneratorGroup):
    with pytest.raises(ValueError, match="max_model_len = 256"):
        EngineScorer(group).score([text(0), text(1, scored=250)], top_k=4)


def test_a_killed_replica_is_replaced_and_nothing_is_lost(group: GeneratorGroup):
    requests = [text(number) for number in range(300)]
    expected = EngineScorer(group).score(requests, top_k=4)
    victim = ray.get(group._actors[1].__ray_call__.remote(lambda _: os.getpid()))
    found: list[TokenScores] = []
    for index, scores in EngineScorer(group).scores(requests, top_k=4):
        if index == 0:  # the first round is here, the second one under way
            os.kill(victim, signal.SIGKILL)
        found.append(scores)
    assert all(same(*pair) for pair in zip(found, expected, strict=True))


lengths = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), max_size=40)


@given(lengths, st.integers(1, 5), st.integers(1, 120))
def test_texts_are_dealt_out_in_order_and_evenly(
    sizes: list[tuple[int, int]], replicas: int, most_tokens: int
):
    requests = [text(n, given=g, scored=s) for n, (g, s) in enumerate(sizes)]
    rounds = dealt_out(requests, replicas=replicas, most_tokens=most_tokens)
    shares = [share for one in rounds for share in one]
    assert [request for share in shares for request in share] == requests
    assert all(0 < len(one) <= replicas for one in rounds)
    assert all(len(one) == replicas for one in rounds[:-1])
    longest = max((g + s for g, s in sizes), default=0)
    for share in shares:
        assert sum(len(p) + len(t) for p, t in share) < most_tokens + longest


def test_a_batch_smaller_than_a_share_is_split_among_all_replicas():
    # 8 texts of 10 tokens on 4 engines: 20 tokens each.
    requests = [text(n, given=4, scored=6) for n in range(8)]
    (only,) = dealt_out(requests, replicas=4, most_tokens=8192)
    assert [len(share) for share in only] == [2, 2, 2, 2]

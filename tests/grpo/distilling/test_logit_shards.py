"""Tests for grpo/distilling/logit_shards.py: what comes back, how exactly, and its bytes."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.distilling.logit_shards import QUANTUM, ShardContents, ShardFile, StoredScores
from cotree.grpo.token_scores import ScoreRequest, TokenScores

Sequence = tuple[ScoreRequest, TokenScores]

FLOAT32 = 4e-6
"""Nats: float32 numbers below 64 are 4e-6 apart at most."""
FLOOR = -31.9
"""Nats; codes end at -32, and dividing by the sum moves that by less than 0.1."""


def written(sequences: list[Sequence], vocab_size: int) -> bytes:
    contents = ShardContents(vocab_size=vocab_size)
    for request, scores in sequences:
        contents.add(request, scores)
    return contents.encoded("shard_00000.safetensors")[1]


def read_back(sequences: list[Sequence], vocab_size: int) -> list[StoredScores]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shard_00000.safetensors"
        path.write_bytes(written(sequences, vocab_size))
        file = ShardFile(path, vocab_size=vocab_size)
        return [file.sequence(index) for index in range(len(sequences))]


def full_rows(num_tokens: int, width: int, *, vocab_size: int, prompt_length: int) -> Sequence:
    """`width` entries of 1 / (2 * width) at each position; half is left for the tail."""
    ids = np.arange(num_tokens * width).reshape(num_tokens, width) % vocab_size
    request = ScoreRequest((vocab_size - 1,) * prompt_length, (0,) * num_tokens)
    logprobs = np.full((num_tokens, width), -np.log(2 * max(width, 1)), np.float32)
    own = np.full(num_tokens, -1.0, np.float32)
    return request, TokenScores(own, ids.astype(np.int32), logprobs)


@st.composite
def sequences(draw: st.DrawFn, vocab_size: int) -> Sequence:
    """Any number of entries a position, flat or sharp, with a tail or without; -1 fills up."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_tokens, width = draw(st.integers(1, 12)), draw(st.integers(0, min(12, vocab_size)))
    spread = draw(st.sampled_from([0.1, 3.0, 12.0]))
    ids = np.full((num_tokens, width), -1, np.int32)
    logprobs = np.full((num_tokens, width), -np.inf, np.float32)
    for row in range(num_tokens):
        count = int(rng.integers(0, width + 1))
        masses = np.exp(spread * rng.standard_normal(count + 1))
        if count and rng.random() < 0.3:
            masses[-1] = 0.0  # no tail
        log_masses = np.log(np.sort(masses[:count])[::-1] / masses.sum())
        ids[row, :count] = rng.choice(vocab_size, count, replace=False)
        logprobs[row, :count] = np.maximum(log_masses, -60.0)
    text = rng.integers(0, vocab_size, draw(st.integers(1, 5)) + num_tokens).tolist()
    request = ScoreRequest(tuple(text[:-num_tokens]), tuple(text[-num_tokens:]))
    own = -rng.exponential(spread, num_tokens)
    return request, TokenScores(own.astype(np.float32), ids, logprobs)


@st.composite
def shards(draw: st.DrawFn) -> tuple[int, list[Sequence]]:
    vocab_size = draw(st.sampled_from([2, 300, 65536, 65537, 151936, 1 << 24]))
    return vocab_size, draw(st.lists(sequences(vocab_size), min_size=1, max_size=4))


@given(shards())
@settings(max_examples=60)
def test_a_shard_gives_back_texts_exactly_and_log_probabilities_within_the_quantum(
    shard: tuple[int, list[Sequence]],
):
    vocab_size, stored = shard
    for (request, scores), found in zip(stored, read_back(stored, vocab_size), strict=True):
        assert found.request == request
        width = found.scores.top_ids.shape[1]
        # K is the longest position's number, as `TokenScores.trimmed` has it.
        assert width == (scores.top_ids >= 0).sum(-1).max()
        np.testing.assert_array_equal(found.scores.top_ids, scores.top_ids[:, :width])
        assert (scores.top_ids[:, width:] == -1).all()
        # Rounded once: half a quantum.
        own = np.maximum(scores.logprobs, -65535 * QUANTUM)
        np.testing.assert_allclose(found.scores.logprobs, own, rtol=0, atol=QUANTUM / 2 + FLOAT32)
        # Rounded, and divided by a sum whose factors are within exp(+-QUANTUM / 2): a quantum.
        with np.errstate(divide="ignore"):
            tail = np.log(scores.tail_mass())
        top = scores.top_logprobs[:, :width]
        for was, now in ((top, found.scores.top_logprobs), (tail, found.tail_logprobs)):
            exact = was > FLOOR
            np.testing.assert_allclose(now[exact], was[exact], rtol=0, atol=QUANTUM + FLOAT32)
            assert (now[~exact] < FLOOR + 0.1).all()
            np.testing.assert_array_equal(np.isneginf(now), np.isneginf(was))


@given(shards())
@settings(max_examples=60)
def test_what_is_read_back_sums_to_one_and_diverges_by_no_more_than_the_bound(
    shard: tuple[int, list[Sequence]],
):
    # Each log-mass is off by e in [-h, h], h = QUANTUM / 2, before the division by the sum. Then
    # KL = log E[exp(e)] - E[e] <= (2 h)^2 / 8 by Hoeffding's lemma: 3.0e-8 nats. What lies below
    # -32 nats was raised to it, which adds at most log(1 + 13 * exp(-32)) = 1.7e-13.
    bound = (QUANTUM + FLOAT32) ** 2 / 8 + 1e-12
    vocab_size, stored = shard
    for (_, scores), found in zip(stored, read_back(stored, vocab_size), strict=True):
        width = found.scores.top_ids.shape[1]
        tops = (scores.top_logprobs[:, :width], found.scores.top_logprobs)
        tails = (scores.tail_mass(), np.exp(found.tail_logprobs.astype(np.float64)))
        was, now = (
            np.concatenate([np.exp(top.astype(np.float64)), tail[:, None]], axis=1)
            for top, tail in zip(tops, tails, strict=True)
        )
        # float32 rounds a log-mass l by |l| * 6e-8: the sum by the entropy, 2.6 at most, * 6e-8.
        np.testing.assert_allclose(now.sum(-1), 1.0, rtol=0, atol=3e-7)
        was, now = (mass / mass.sum(-1, keepdims=True) for mass in (was, now))
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(was > 0, was * np.log(was / now), 0.0)
        assert terms.sum(-1).max() <= bound


def test_a_position_that_keeps_nothing_is_all_tail():
    ids, logprobs = np.zeros((2, 0), np.int32), np.zeros((2, 0), np.float32)
    scores = TokenScores(np.array([-0.5, -1.5], np.float32), ids, logprobs)
    (found,) = read_back([(ScoreRequest((3,), (1, 2)), scores)], vocab_size=4)
    assert found.scores.top_ids.shape == found.scores.top_logprobs.shape == (2, 0)
    np.testing.assert_array_equal(found.tail_logprobs, [0.0, 0.0])
    np.testing.assert_array_equal(found.scores.logprobs, [-0.5, -1.5])  # 1024 and 3072 quanta


def test_probabilities_that_sum_to_more_than_one_by_rounding_are_scaled_down():
    # 0.5004 + 0.5004 = 1.0008: within what is let through; read back as a half each, no tail.
    top = np.log(np.array([[0.5004, 0.5004]], np.float32))
    scores = TokenScores(top[:, 0], np.array([[0, 1]], np.int32), top)
    (found,) = read_back([(ScoreRequest((0,), (0,)), scores)], vocab_size=2)
    np.testing.assert_allclose(np.exp(found.scores.top_logprobs), [[0.5, 0.5]], rtol=1e-6)
    np.testing.assert_array_equal(found.tail_logprobs, [-np.inf])


@pytest.mark.parametrize(
    ("vocab_size", "width", "token_bytes", "id_bytes"),
    [
        # id 2 + own 2 + number 1 + tail 2 = 7, and 2 + 2 for each of the 8: 39
        (65536, 8, 39, 2),
        # ids of three bytes: 3 + 2 + 1 + 2 = 8, and 3 + 2 for each of the 8: 48
        (65537, 8, 48, 3),
        (151936, 255, 8 + 5 * 255, 3),
        (32, 0, 7, 2),
    ],
)
def test_the_bytes_of_a_shard_are_those_of_its_tokens_and_three_offsets_a_sequence(
    vocab_size: int, width: int, token_bytes: int, id_bytes: int
):
    lengths = [(3, 5), (1, 7), (4, 1)]  # prompt and scored: 8 and 13 tokens
    stored = [
        full_rows(scored, width, vocab_size=vocab_size, prompt_length=prompt)
        for prompt, scored in lengths
    ]
    content = written(stored, vocab_size)
    header_bytes = 8 + int.from_bytes(content[:8], "little")
    # Each list of offsets has the end of the last sequence too: 3 * 8 * (3 + 1).
    assert len(content) - header_bytes == 13 * token_bytes + 8 * id_bytes + 96


def test_the_same_sequences_are_the_same_bytes():
    stored = [full_rows(4, 2, vocab_size=70000, prompt_length=2)] * 2
    assert written(stored, 70000) == written(stored, 70000)


REQUEST = ScoreRequest((1, 2), (3, 4))
SCORES = TokenScores(
    logprobs=np.array([-1.0, -2.0], np.float32),
    top_ids=np.array([[5, 6], [7, -1]], np.int32),
    top_logprobs=np.array([[-1.0, -2.0], [-0.5, -np.inf]], np.float32),
)


def ids(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.int32)


def nats(*rows: object) -> np.ndarray:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("request_", "scores", "message"),
    [
        (ScoreRequest((), (3, 4)), SCORES, "0 prompt and 2 scored tokens"),
        (ScoreRequest((1,), ()), SCORES, "1 prompt and 0 scored tokens"),
        (ScoreRequest((1,), (3,)), SCORES, r"1 scored tokens need logprobs \[T\].*\(2, 2\)"),
        (REQUEST, replace(SCORES, top_logprobs=nats([-1], [-1])), r"got .*\(2, 1\)"),
        (REQUEST, replace(SCORES, top_ids=np.array([5, 6], np.int32)), "need logprobs"),
        (ScoreRequest((1, 8), (3, 4)), SCORES, r"at \[1\] is 8; .* below vocab_size = 8"),
        (ScoreRequest((1, 2), (3, -1)), SCORES, r"at \[3\] is -1"),
        (REQUEST, replace(SCORES, top_ids=ids([5, 6], [8, -1])), r"top_ids at \[1, 0\] is 8"),
        (REQUEST, replace(SCORES, top_ids=ids([5, 6], [7, -2])), r"top_ids at \[1, 1\] is -2"),
        (REQUEST, replace(SCORES, top_ids=ids([5, 5], [7, -1])), "is 5; it must be there once"),
        (REQUEST, replace(SCORES, logprobs=nats(-1, np.nan)), r"logprobs at \[1\] is nan"),
        (REQUEST, replace(SCORES, logprobs=nats(-np.inf, -1)), r"logprobs at \[0\] is -inf"),
        (REQUEST, replace(SCORES, logprobs=nats(-1, 0.5)), r"logprobs at \[1\] is 0\.5"),
        (
            REQUEST,
            replace(SCORES, top_logprobs=nats([-1, np.nan], [-1, -np.inf])),
            r"top_logprobs at \[0, 1\] is nan",
        ),
        (
            REQUEST,
            replace(SCORES, top_logprobs=nats([-1, -np.inf], [-1, -np.inf])),
            r"top_logprobs at \[0, 1\] is -inf; it must be finite where top_ids names a token",
        ),
        (
            REQUEST,
            replace(SCORES, top_logprobs=nats([-1, -2], [-1, np.nan])),
            r"top_logprobs at \[1, 1\] is nan",
        ),
        (
            REQUEST,
            replace(SCORES, top_logprobs=nats([-1, -2], [0.002, -np.inf])),
            r"sum\(-1\) at \[1\] is 1\.002.* not for logits",
        ),
    ],
)
def test_what_is_no_opinion_on_these_tokens_is_refused_and_named(
    request_: ScoreRequest, scores: TokenScores, message: str
):
    contents = ShardContents(vocab_size=8)
    contents.add(REQUEST, SCORES)
    before = contents.encoded("shard_00000.safetensors")
    with pytest.raises(ValueError, match=message):
        contents.add(request_, scores)
    assert contents.encoded("shard_00000.safetensors") == before


def test_more_entries_than_a_byte_counts_are_refused():
    request, scores = full_rows(1, 256, vocab_size=1000, prompt_length=1)
    with pytest.raises(ValueError, match=r"256 tokens a position .* trim the scores first"):
        ShardContents(vocab_size=1000).add(request, scores)

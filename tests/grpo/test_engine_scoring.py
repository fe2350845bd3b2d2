"""Tests for grpo/engine_scoring.py on real vLLM engines, against transformers' log-softmax."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_models as reference
import torch
from engine_host import SETTINGS, Host, worst_gap
from engine_host import request as sample_request
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import write_character_tokenizer

from cotree.grpo.engine import StaleGeneratorError
from cotree.grpo.engine_scoring import ScoringGenerator, bounded
from cotree.grpo.token_scores import ScoreRequest, TokenScores
from cotree.grpo.weight_names import checkpoint_weights
from cotree.grpo.weights import make_update

VOCABULARY = 128


@pytest.fixture(scope="module")
def latent_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny random DeepSeek-V3: latent attention, one dense layer, one of experts.

    The latent has DeepSeek's own width, 512 + 64, the only one that vLLM's kernel takes.
    """
    from transformers import DeepseekV3Config, DeepseekV3ForCausalLM

    folder = tmp_path_factory.mktemp("latent_model")
    write_character_tokenizer(folder)
    config = DeepseekV3Config(
        vocab_size=128,
        hidden_size=128,
        intermediate_size=128,
        moe_intermediate_size=64,
        num_hidden_layers=2,
        first_k_dense_replace=1,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=None,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=32,
        v_head_dim=32,
        n_shared_experts=1,
        n_routed_experts=8,
        num_experts_per_tok=2,
        n_group=1,
        topk_group=1,
        max_position_embeddings=512,
        initializer_range=0.08,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
        dtype="float32",
        # vLLM reads these, transformers does not know them.
        topk_method="noaux_tc",
        scoring_func="sigmoid",
        num_nextn_predict_layers=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        DeepseekV3ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def host(ray_cluster: None, tiny_model: Path) -> Host:
    host = Host(ScoringGenerator)
    host.start(tiny_model, SETTINGS)
    return host


@pytest.fixture(scope="module")
def latent_process(ray_cluster: None) -> Host:
    """A process of its own: vLLM cannot load experts after a model that has none."""
    return Host(ScoringGenerator)


@pytest.fixture
def latent_host(latent_process: Host, latent_model: Path) -> Host:
    if not latent_process.pristine:
        latent_process.start(latent_model, SETTINGS)
        latent_process.pristine = True
    return latent_process


def text(number: int, *, given: int, scored: int) -> ScoreRequest:
    ids = tuple(4 + (number * 31 + i * i) % 90 for i in range(given + scored))
    return ScoreRequest(ids[:given], ids[given:])


def score(host: Host, requests: list[ScoreRequest], *, top_k: int) -> list[TokenScores]:
    return host(lambda g, r, k: g.score(r, top_k=k), requests, top_k)


def log_softmax(model: Any, request: ScoreRequest) -> np.ndarray:
    """[T, V] of the scored tokens, by transformers in float32."""
    ids = [*request.prompt_ids, *request.token_ids]
    with torch.no_grad():
        table = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
    return table[len(request.prompt_ids) - 1 : -1].numpy()


def assert_scores(model: Any, request: ScoreRequest, found: TokenScores, *, top_k: int) -> None:
    expected = log_softmax(model, request)
    rows = np.arange(len(request.token_ids))
    assert found.top_ids.shape == found.top_logprobs.shape == (len(rows), top_k)
    assert (found.logprobs.dtype, found.top_ids.dtype) == (np.float32, np.int32)
    np.testing.assert_allclose(found.logprobs, expected[rows, list(request.token_ids)], atol=1e-4)
    highest = -np.sort(-expected, axis=-1)[:, :top_k]
    np.testing.assert_allclose(found.top_logprobs, highest, atol=1e-4)
    # By the ids too, which only those may exchange that are equally likely to 1e-4.
    named = np.take_along_axis(expected, found.top_ids.astype(np.int64), axis=-1)
    np.testing.assert_allclose(found.top_logprobs, named, atol=1e-4)
    assert all(len(set(ids)) == top_k for ids in found.top_ids.tolist())


@pytest.mark.parametrize("top_k", [0, 1, 16, VOCABULARY])
def test_scores_are_transformers_log_softmax(host: Host, tiny_model: Path, top_k: int):
    model = reference.load(tiny_model)
    # The engine's blocks are of 32 tokens; 255 and the one it samples fill its 256 positions.
    lengths = [(1, 1), (5, 40), (31, 1), (32, 32), (33, 31), (1, 254), (254, 1), (100, 155)]
    requests = [text(n, given=g, scored=s) for n, (g, s) in enumerate(lengths)]
    for request, found in zip(requests, score(host, requests, top_k=top_k), strict=True):
        assert_scores(model, request, found, top_k=top_k)


def test_a_token_is_scored_whether_or_not_it_is_among_the_most_likely(host: Host, tiny_model: Path):
    request = text(3, given=8, scored=60)
    (found,) = score(host, [request], top_k=16)
    among = (found.top_ids == np.array(request.token_ids)[:, None]).any(-1)
    assert 0 < among.sum() < 60  # both happen
    # Where it is among them, it is there with its own log-probability.
    where = found.top_ids == np.array(request.token_ids)[:, None]
    assert (found.top_logprobs[where] == found.logprobs[among]).all()
    assert (found.logprobs[~among] < found.top_logprobs[~among, -1]).all()


def test_all_of_the_vocabulary_sums_to_one_and_half_of_it_to_less(host: Host):
    whole, half = (score(host, [text(1, given=9, scored=50)], top_k=k)[0] for k in (128, 64))
    np.testing.assert_allclose(whole.tail_mass(), 0.0, atol=1e-5)
    assert (half.tail_mass() > 1e-3).all()
    assert sorted(whole.top_ids[0].tolist()) == list(range(VOCABULARY))


def test_neither_company_nor_a_warm_prefix_cache_changes_a_score(host: Host):
    requests = [text(n, given=40 + n, scored=60) for n in range(12)]
    together = score(host, requests, top_k=8)
    host.sample([sample_request(n, length=64) for n in range(4)])  # fills the cache
    again = score(host, requests[::-1], top_k=8)[::-1]
    alone = [score(host, [request], top_k=8)[0] for request in requests]
    for first, *others in zip(together, again, alone, strict=True):
        for other in others:
            assert (first.logprobs == other.logprobs).all()
            assert (first.top_ids == other.top_ids).all()
            assert (first.top_logprobs == other.top_logprobs).all()


def test_scores_do_not_depend_on_where_a_text_begins_to_be_scored(host: Host):
    ids = text(2, given=1, scored=90)
    whole = [*ids.prompt_ids, *ids.token_ids]
    (early,) = score(host, [ids], top_k=4)
    (late,) = score(host, [ScoreRequest(tuple(whole[:50]), tuple(whole[50:]))], top_k=4)
    assert (early.logprobs[49:] == late.logprobs).all()
    assert (early.top_ids[49:] == late.top_ids).all()


def test_a_call_larger_than_one_part_is_answered_in_order(host: Host):
    # 100 texts of 101 tokens with 129 entries at each: 1,302,900 entries, more than 2**20.
    requests = [text(n, given=1, scored=100) for n in range(100)]
    found = score(host, requests, top_k=VOCABULARY)
    for number in (0, 79, 80, 81, 99):  # 2**20 / (101 * 129) = 80.5 texts are in the first part
        (alone,) = score(host, [requests[number]], top_k=VOCABULARY)
        assert (found[number].logprobs == alone.logprobs).all()


def test_scored_tokens_and_seconds_are_counted_apart_from_sampled_ones(host: Host):
    before = host(lambda g: g.stats())
    score(host, [text(0, given=10, scored=7), text(1, given=3, scored=5)], top_k=2)
    after = host(lambda g: g.stats())
    assert after["scored_tokens"] - before["scored_tokens"] == 12
    assert after["scoring_seconds"] > before["scoring_seconds"]
    assert {k: after[k] for k in ("tokens", "seconds")} == {
        k: before[k] for k in ("tokens", "seconds")
    }


def test_no_text_is_no_score(host: Host):
    assert score(host, [], top_k=4) == []


@pytest.mark.parametrize(
    ("request_", "top_k", "words"),
    [
        (text(0, given=200, scored=56), 4, "256 tokens; with one more, .*max_model_len = 256"),
        (ScoreRequest((), (5,)), 4, "0 prompt tokens and 1 to be scored"),
        (ScoreRequest((5,), ()), 4, "1 prompt tokens and 0 to be scored"),
        (ScoreRequest((5,), (6, 128)), 4, "from 5 to 128, but the model's are 0 to 127"),
        (ScoreRequest((5, -1), (6,)), 4, "from -1 to 6"),
        (ScoreRequest((5,), (6,)), 129, "top_k = 129 must lie in 0 to 128"),
        (ScoreRequest((5,), (6,)), -1, "top_k = -1"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    host: Host, request_: ScoreRequest, top_k: int, words: str
):
    with pytest.raises(ValueError, match=words):
        score(host, [text(0, given=5, scored=5), request_], top_k=top_k)


def test_newer_weights_than_it_holds_are_asked_for_in_vain(host: Host):
    with pytest.raises(StaleGeneratorError, match="needs policy v1"):
        host(lambda g, r: g.score([r], top_k=1, min_version=1), text(0, given=5, scored=5))


# --- latent attention ------------------------------------------------------------------------


def test_latent_attention_samples_with_the_logprobs_of_transformers(
    latent_host: Host, latent_model: Path
):
    model = reference.load(latent_model)
    # Shorter than, as long as and longer than its blocks of 16 tokens, up to several of them.
    asked = [
        sample_request(n, length=length, seeds=(n,)) for n, length in enumerate((1, 15, 16, 17, 90))
    ]
    for one, (completion,) in zip(asked, latent_host.sample(asked), strict=True):
        assert worst_gap(model, one, completion) < 1e-4


def test_latent_attention_scores_as_transformers_does(latent_host: Host, latent_model: Path):
    model = reference.load(latent_model)
    requests = [text(n, given=g, scored=s) for n, (g, s) in enumerate([(1, 254), (16, 17), (1, 1)])]
    for request, found in zip(requests, score(latent_host, requests, top_k=16), strict=True):
        assert_scores(model, request, found, top_k=16)


def test_latent_attention_scores_by_the_weights_it_was_given(latent_host: Host, latent_model: Path):
    model = reference.nudged(reference.load(latent_model), seed=3)
    update = make_update(
        checkpoint_weights(model, model.state_dict()).items(), version=1, dtype=torch.float32
    )
    latent_host.pristine = False
    proof = latent_host(lambda g, *a: g.load_weights(*a), update, reference.canary(model))
    assert proof.tensors == len(update.tensors)
    request = text(0, given=5, scored=40)
    (found,) = score(latent_host, [request], top_k=16)
    assert_scores(model, request, found, top_k=16)


# --- parts -----------------------------------------------------------------------------------


lengths = st.tuples(st.integers(1, 20), st.integers(1, 20))


@given(st.lists(lengths, max_size=12), st.integers(0, 5), st.integers(1, 400))
def test_parts_are_all_of_the_texts_in_order_and_bounded(
    sizes: list[tuple[int, int]], top_k: int, max_entries: int
):
    requests = [text(n, given=g, scored=s) for n, (g, s) in enumerate(sizes)]
    parts = list(bounded(requests, top_k=top_k, max_entries=max_entries))
    assert [one for part in parts for one in part] == requests
    entries = [[(len(p) + len(t)) * (top_k + 1) for p, t in part] for part in parts]
    assert all(sum(part) <= max_entries or len(part) == 1 for part in entries)
    # No part could have taken the first text of the next one.
    for part, following in pairwise(entries):
        assert sum(part) + following[0] > max_entries

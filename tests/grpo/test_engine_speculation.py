"""Tests for grpo/engine_speculation.py on real vLLM engines, one after another in one actor."""

from bisect import bisect_left
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from deepseek_models import ALPHABET, ENGINE_MTP
from engine_host import AT_ONE, SETTINGS, Host, request, worst_gap
from torch import Tensor
from transformers import PreTrainedModel

from cotree.grpo import config
from cotree.grpo.config_generator import (
    DraftModelSpeculation,
    MtpSpeculation,
    NgramSpeculation,
    Speculation,
)
from cotree.grpo.engine import Sampling
from cotree.grpo.engine_sampling import ENTROPY_TOKENS
from cotree.grpo.engine_speculation import (
    PreemptedDraftsError,
    drafter_digests,
    speculative_options,
)
from cotree.grpo.models import create_model, load_model
from cotree.grpo.mtp import is_mtp_weight, layer_inputs, mtp_hidden
from cotree.grpo.mtp_files import load_model_with_mtp
from cotree.grpo.types import Completion, SampleRequest, TreePlan
from cotree.grpo.weight_names import checkpoint_weights
from cotree.grpo.weights import Canary, WeightSyncError, WeightUpdate, make_update
from cotree.search.branching import entropy_points, lumped_entropy

GREEDY = Sampling(max_tokens=24, temperature=0.0)
SURE = Sampling(max_tokens=24, temperature=0.2)
"""The tiny model's likeliest token has a probability that lets it draft well for itself."""
NGRAM = NgramSpeculation(type="ngram", tokens=3, longest=3, shortest=1)
MTP = MtpSpeculation(type="mtp")


# --- without an engine -----------------------------------------------------------------------


def test_drafts_are_the_likeliest_tokens_and_checked_against_the_policys_distribution():
    for speculation in (NGRAM, MTP, DraftModelSpeculation(type="draft_model", path="m")):
        settings = speculative_options(speculation, revision=None)["speculative_config"]
        assert settings["draft_sample_method"] == "greedy"
        assert settings["rejection_sample_method"] == "standard"
        assert settings["num_speculative_tokens"] == speculation.tokens
        assert settings["method"] == speculation.type


def test_an_engine_without_a_drafter_is_started_as_before():
    assert speculative_options(None, revision="main") == {}


def test_each_drafter_gets_its_own_settings():
    found = speculative_options(NGRAM, revision="abc")["speculative_config"]
    assert (found["prompt_lookup_min"], found["prompt_lookup_max"]) == (1, 3)
    assert "revision" not in found
    # the policy's revision is that of its own module, and not of another model
    assert speculative_options(MTP, revision="abc")["speculative_config"]["revision"] == "abc"
    other = DraftModelSpeculation(type="draft_model", path="org/small", tokens=2)
    settings = speculative_options(other, revision="abc")["speculative_config"]
    assert settings["model"] == "org/small"
    assert "revision" not in settings


def test_a_drafters_digests_have_checkpoint_names_and_none_of_a_shared_layer():
    vllm = {
        "model.embed_tokens.weight": "a",
        "lm_head.weight": "b",
        "model.layers.2.mtp_block.mlp.gate.weight": "c",
        "model.layers.2.enorm.weight": "d",
    }
    found = drafter_digests(vllm)
    assert found == {"model.layers.2.mlp.gate.weight": "c", "model.layers.2.enorm.weight": "d"}


# --- engines ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process(ray_cluster: None) -> Host:
    return Host()


@pytest.fixture(scope="module")
def deepseek(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twice the usual weights, so that its distribution is not uniform."""
    path = tmp_path_factory.mktemp("deepseek")
    create_model(ENGINE_MTP, path, alphabet=ALPHABET, seed=5)
    return path


def _settings(speculation: Speculation | None, **fields: object) -> config.Generator:
    return SETTINGS.model_copy(update={"speculation": speculation, **fields})


def _requests(vocab: int, *, count: int = 8) -> list[SampleRequest]:
    found = [request(n, length=12 + n, seeds=(n, n + 100)) for n in range(count)]
    return [
        replace(one, prompt_ids=tuple(2 + token % (vocab - 2) for token in one.prompt_ids))
        for one in found
    ]


def _tokens(groups: list[tuple[Completion, ...]]) -> list[list[tuple[int, ...]]]:
    return [[completion.token_ids for completion in group] for group in groups]


@torch.no_grad()
def _greedy(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[int, ...]:
    """The likeliest completion of at most 24 tokens, token by token."""
    ids = list(prompt)
    while len(ids) < len(prompt) + GREEDY.max_tokens and (len(ids) == len(prompt) or ids[-1] != 1):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tuple(ids[len(prompt) :])


def _check_sampling(
    host: Host,
    model: PreTrainedModel,
    requests: list[SampleRequest],
    plain: list[list[tuple[int, ...]]],
) -> None:
    """What must hold of any drafter: greedy tokens, log-probabilities, and seeds."""
    assert _tokens(host.sample(requests, GREEDY)) == plain
    together = host.sample(requests)
    gaps = [
        worst_gap(model, one, completion)
        for one, group in zip(requests, together, strict=True)
        for completion in group
    ]
    assert max(gaps) < 1e-5
    assert _tokens(host.sample(requests[::-1])[::-1]) == _tokens(together)
    alone = [
        host.sample([replace(one, seeds=(seed,))])[0][0] for one in requests for seed in one.seeds
    ]
    assert [one.token_ids for one in alone] == [c.token_ids for group in together for c in group]
    hotter = Sampling(max_tokens=24, temperature=1.7)
    gap = worst_gap(model, requests[0], host.sample(requests[:1], hotter)[0][0], 1.7)
    assert gap < 1e-5


def test_a_smaller_model_that_drafts_changes_nothing_that_a_policy_says(
    process: Host, tiny_model: Path
):
    model, requests = load_model(str(tiny_model), dtype="float32"), _requests(99)
    process.start(tiny_model, _settings(None))
    plain = _tokens(process.sample(requests, GREEDY))
    sampled = _tokens(process.sample(requests))
    assert "drafts" not in process(lambda g: g.stats())
    # The policy drafts for itself: greedy drafts are always right.
    itself = DraftModelSpeculation(type="draft_model", path=str(tiny_model), tokens=3)
    process.start(tiny_model, _settings(itself))
    assert _tokens(process.sample(requests, GREEDY)) == plain
    stats = process(lambda g: g.stats())
    assert stats["accepted_tokens"] > 0.9 * stats["drafted_tokens"] > 0
    _check_sampling(process, model, requests, plain)
    assert _tokens(process.sample(requests)) != sampled  # other draws, of the same distribution


def _check_trees(host: Host, model: PreTrainedModel) -> None:
    """Chains branch where the policy is least sure, and each leaf has its log-probabilities."""
    plan = TreePlan(chains=4, points=2, forks=2, branch="entropy")
    asked = [request(n, seeds=tuple(range(n, n + plan.num_leaves))) for n in range(3)]
    asked = [replace(one, tree=plan) for one in asked]
    trees = host.sample(asked, SURE)
    assert [host.sample([one], SURE)[0] for one in asked] == trees
    for one, leaves in zip(asked, trees, strict=True):
        assert max(worst_gap(model, one, leaf, SURE.temperature) for leaf in leaves) < 1e-5
        for chain in leaves[: plan.chains]:
            ids = torch.tensor([one.prompt_ids + chain.token_ids])
            with torch.no_grad():
                logits = model(ids).logits[0, len(one.prompt_ids) - 1 : -1]
            table = (logits / SURE.temperature).log_softmax(-1)
            entropies = [lumped_entropy(row) for row in table.topk(ENTROPY_TOKENS).values.tolist()]
            points = tuple(segment.end for segment in chain.segments[:-1])
            assert points == entropy_points(entropies, count=2)


def _check_stop_texts(host: Host) -> None:
    """A text within accepted drafts ends a completion as one that the policy drew itself."""
    one = _requests(99)[0]
    ((free, _),) = host.sample([one], SURE)
    for start in range(len(free.text) - 1):
        stop = free.text[start : start + 2]
        end = free.text.index(stop) + 2
        tokens = 1 + bisect_left(free.token_ends, end)  # to the one that completes the text
        ((found, _),) = host.sample([one], replace(SURE, stop=(stop,)))
        assert (found.text, found.stop_reason) == (free.text[:end], "stop")
        assert found.token_ids == free.token_ids[:tokens]
        assert found.logprobs == free.logprobs[:tokens]


@pytest.mark.slow
def test_trees_and_stop_texts_are_those_of_the_policy_under_drafts(process: Host, tiny_model: Path):
    itself = DraftModelSpeculation(type="draft_model", path=str(tiny_model), tokens=3)
    process.start(tiny_model, _settings(itself))
    _check_trees(process, load_model(str(tiny_model), dtype="float32"))
    trees = process(lambda g: g.stats())
    _check_stop_texts(process)
    both = process(lambda g: g.stats())
    stops = {name: both[name] - trees[name] for name in ("accepted_tokens", "drafts")}
    for stats in (trees, stops):
        assert stats["accepted_tokens"] > 0.5 * stats["drafts"] > 0


def _chi_square(tokens: list[int], probs: Tensor) -> float:
    """Probability of a statistic at least as large, cells with few expected counts as one."""
    expected = probs.double() * len(tokens)
    counts = torch.bincount(torch.tensor(tokens), minlength=len(probs)).double()
    rare = expected < 8
    if rare.any():
        expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
        counts = torch.cat([counts[~rare], counts[rare].sum()[None]])
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(freedom, statistic / 2))


@torch.no_grad()
def _second_token(model: PreTrainedModel, prompt: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """[V] distribution of a completion's second token over all first ones, and of its draft."""
    first = model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    first[1] = 0.0  # ends the completion
    first /= first.sum()
    rows = torch.tensor([[*prompt, token] for token in range(len(first))])
    table = model(rows).logits[:, -1].softmax(-1)
    drafted = torch.nn.functional.one_hot(table.argmax(-1), len(first)).float()
    return first @ table, first @ drafted


@pytest.mark.slow
def test_what_is_sampled_has_the_policys_distribution(process: Host, tiny_model: Path):
    model = load_model(str(tiny_model), dtype="float32")
    itself = DraftModelSpeculation(type="draft_model", path=str(tiny_model), tokens=2)
    process.start(tiny_model, _settings(itself))
    # The first token has no draft; the second is a draft that was accepted or replaced.
    # 6000 draws: a cell of probability 0.1 is known to 0.4 percentage points.
    one = replace(_requests(99)[0], seeds=tuple(range(6000)))
    (group,) = process.sample([one], Sampling(max_tokens=4, temperature=1.0))
    tokens = [completion.token_ids[1] for completion in group if len(completion.token_ids) > 1]
    expected, drafted = _second_token(model, one.prompt_ids)
    assert len(tokens) > 5900
    assert _chi_square(tokens, expected) > 1e-3
    # The test would see that one draft in ten was kept against the policy's will.
    assert _chi_square(tokens, 0.9 * expected + 0.1 * drafted) < 1e-6


def _expected_drafts(
    model: PreTrainedModel, request: SampleRequest, completion: Completion
) -> tuple[int, int]:
    """Drafts of one token, and those accepted, if the learner's module had made them."""
    ids = torch.tensor([request.prompt_ids + completion.token_ids])
    with torch.no_grad():
        with layer_inputs(model) as inputs:
            hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
        states = mtp_hidden(model, hidden, ids, inputs, detached=True)
        drafted = model.get_output_embeddings()(states)[0].argmax(-1)
    place, drafts, accepted = len(request.prompt_ids), 0, 0
    while place < ids.shape[1] - 1:
        drafts += 1
        right = bool(drafted[place - 1] == ids[0, place + 1])
        accepted += right
        place += 1 + right
    return drafts, accepted


def _trained(path: Path) -> tuple[PreTrainedModel, WeightUpdate]:
    """The model as a learner might send it: every tensor moved, and the module drafts well.

    A module that passes the next token's embedding on is a policy's own bigram, so some drafts
    are right.
    """
    model = load_model_with_mtp(str(path), dtype=torch.float32)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            noise = torch.randn(tensor.shape, generator=random)
            tensor.add_(0.05 * noise if tensor.ndim >= 2 else 0.1 * noise.abs())
    named = checkpoint_weights(model, model.state_dict())
    return model, make_update(named.items(), version=1, dtype=torch.float32)


def _canary(model: PreTrainedModel, token_ids: tuple[int, ...]) -> Canary:
    with torch.no_grad():
        table = model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
    return Canary(token_ids, tuple(table[i, t].item() for i, t in enumerate(token_ids[1:])))


def test_a_models_own_module_drafts_with_the_learners_weights(process: Host, deepseek: Path):
    requests = _requests(32)
    process.start(deepseek, _settings(None))
    plain = _tokens(process.sample(requests, GREEDY))
    process.start(deepseek, _settings(MTP))
    _check_sampling(
        process, load_model_with_mtp(str(deepseek), dtype=torch.float32), requests, plain
    )

    model, update = _trained(deepseek)
    canary = _canary(model, requests[0].prompt_ids)
    proof = process(lambda g, *a: g.load_weights(*a), update, canary)
    assert proof.tensors == len(update.tensors)
    assert sum(is_mtp_weight(name, layers=2) for name in update.tensors) > 20
    before = process(lambda g: g.stats())
    sampled = process.sample(requests, AT_ONE, version=1)
    after = process(lambda g: g.stats())
    assert (
        max(
            worst_gap(model, r, c)
            for r, group in zip(requests, sampled, strict=True)
            for c in group
        )
        < 1e-5
    )
    counts = [
        _expected_drafts(model, r, c)
        for r, group in zip(requests, sampled, strict=True)
        for c in group
    ]
    assert after["drafts"] - before["drafts"] == sum(drafts for drafts, _ in counts)
    accepted = sum(accepted for _, accepted in counts)
    assert after["accepted_tokens"] - before["accepted_tokens"] == accepted > 5

    name = "model.layers.2.eh_proj.weight"
    update.tensors[name] = update.tensors[name] + 1.0
    with pytest.raises(WeightSyncError, match=f"1 of .* differ .*'{name}'"):
        process(lambda g, *a: g.load_weights(*a), replace(update, version=2), canary)
    del update.tensors[name], update.digests[name]
    with pytest.raises(WeightSyncError, match="are in the engine but were not sent"):
        process(lambda g, *a: g.load_weights(*a), replace(update, version=3), canary)


@pytest.mark.slow
def test_requests_near_the_engines_length_do_not_stop_others_drafts(
    process: Host, tiny_model: Path
):
    itself = DraftModelSpeculation(type="draft_model", path=str(tiny_model), tokens=3)
    requests = _requests(99)
    longest = max(len(one.prompt_ids) for one in requests)
    limit = longest + AT_ONE.max_tokens + _settings(itself).spare_tokens
    process.start(tiny_model, _settings(itself, max_model_len=limit))
    together = process.sample(requests)
    alone = [process.sample([one])[0] for one in requests]
    assert alone == together
    with pytest.raises(ValueError, match="and 6 for drafts"):
        process.sample(requests, replace(AT_ONE, max_tokens=AT_ONE.max_tokens + 1))


@pytest.mark.slow
def test_completions_of_preempted_requests_are_refused(process: Host, tiny_model: Path):
    # Policy and drafter, 2 layers * 2 * 32 values * 4 bytes each, are 1024 bytes a token, 32 KiB a
    # block of 32 tokens: 14 blocks for 16 requests that end in their second one.
    itself = DraftModelSpeculation(type="draft_model", path=str(tiny_model), tokens=2)
    process.start(tiny_model, _settings(itself, kv_cache_bytes=14 * 32 * 1024))
    with pytest.raises(PreemptedDraftsError, match=r"Raise generator\.kv_cache_bytes"):
        process.sample(_requests(99))


def test_drafts_from_the_text_itself_change_nothing_that_a_policy_says(
    process: Host, tiny_model: Path
):
    # The last engine of the process: it loads numba, beside which vLLM 0.32 starts no other.
    model, requests = load_model(str(tiny_model), dtype="float32"), _requests(99)
    greedy = [_greedy(model, one.prompt_ids) for one in requests]
    process.start(tiny_model, _settings(NGRAM))
    _check_sampling(process, model, requests, [[tokens, tokens] for tokens in greedy])
    assert process(lambda g: g.stats())["accepted_tokens"] > 0

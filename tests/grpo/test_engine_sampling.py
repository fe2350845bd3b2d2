"""Tests for grpo/engine_sampling.py and for trees of completions, on a real vLLM engine."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import reference_models as reference
import torch
from engine_host import AT_ONE, SETTINGS, Host, request, worst_gap

from cotree.grpo.engine import Sampling
from cotree.grpo.engine_sampling import ENTROPY_TOKENS
from cotree.grpo.rollout_stats import generated_tokens
from cotree.grpo.types import Completion, Group, Rollout, SampleRequest, TreePlan
from cotree.rewards.types import Reward
from cotree.search.branching import entropy_points, lumped_entropy

PLAN = TreePlan(chains=3, points=2, forks=2, branch="entropy")
LONG = Sampling(max_tokens=60, temperature=1.0)


@pytest.fixture(scope="module")
def host(ray_cluster: None, tiny_model: Path) -> Host:
    host = Host()
    host.start(tiny_model, SETTINGS)
    return host


def tree(number: int, plan: TreePlan = PLAN, *, length: int = 20) -> SampleRequest:
    seeds = tuple(range(100 * number, 100 * number + plan.num_leaves))
    return replace(request(number, length=length, seeds=seeds), tree=plan)


def shared_tokens(leaf: Completion) -> int:
    """Tokens that a fork has from its chain."""
    return leaf.segments[-2].end if len(leaf.segments) > 1 else 0


@pytest.mark.parametrize("branch", ["entropy", "uniform", "step"])
def test_a_tree_is_the_same_alone_and_in_any_batch_order_and_cache_state(host: Host, branch: Any):
    plan = replace(PLAN, branch=branch)
    asked = [tree(n, plan, length=30 + n) for n in range(6)] + [request(9, seeds=(1, 2))]
    together = host.sample(asked, LONG)
    assert host.sample(asked[::-1], LONG)[::-1] == together
    assert [host.sample([one], LONG)[0] for one in asked] == together
    assert [len(leaves) for leaves in together] == [15] * 6 + [2]  # 3 * (1 + 2 * 2)


def test_a_fork_is_what_its_seed_gives_for_the_prompt_and_the_prefix(host: Host):
    asked = tree(1)
    (leaves,) = host.sample([asked], LONG)
    for seed, leaf in list(zip(asked.seeds, leaves, strict=True))[PLAN.chains :]:
        shared = shared_tokens(leaf)
        prompt = asked.prompt_ids + leaf.token_ids[:shared]
        alone = replace(asked, prompt_ids=prompt, seeds=(seed,), tree=None)
        ((direct,),) = host.sample([alone], replace(LONG, max_tokens=LONG.max_tokens - shared))
        assert leaf.token_ids[shared:] == direct.token_ids
        assert leaf.logprobs[shared:] == direct.logprobs
        assert leaf.stop_reason == direct.stop_reason


def test_chains_are_what_a_flat_request_gives(host: Host):
    # So asking for the log-probabilities of more tokens changes nothing.
    asked = tree(2)
    (leaves,) = host.sample([asked], LONG)
    (flat,) = host.sample([replace(asked, seeds=asked.seeds[: PLAN.chains], tree=None)], LONG)
    assert tuple(replace(leaf, segments=()) for leaf in leaves[: PLAN.chains]) == flat


def test_leaves_hold_together_and_have_the_policys_logprobs(host: Host, tiny_model: Path):
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_model), reference.load(tiny_model)
    asked = tree(3)
    (leaves,) = host.sample([asked], LONG)
    for leaf in leaves:
        assert leaf.text == tokenizer.decode(leaf.token_ids, skip_special_tokens=True)
        assert leaf.token_ends[-1] == len(leaf.text)
        assert len(leaf.token_ends) == len(leaf.logprobs) == len(leaf.token_ids)
        assert leaf.segments[-1].end == len(leaf.token_ids) <= LONG.max_tokens
        assert worst_gap(model, asked, leaf) < 1e-4


def test_leaves_share_the_tokens_and_logprobs_of_their_nodes(host: Host):
    (leaves,) = host.sample([tree(4)], LONG)
    prefixes: dict[int, object] = {}
    for leaf in leaves:
        for node, end in leaf.segments:
            prefix = (leaf.token_ids[:end], leaf.logprobs[:end], leaf.token_ends[: end - 1])
            assert prefixes.setdefault(node, prefix) == prefix
    held = Counter(segment.node for leaf in leaves for segment in leaf.segments)
    assert max(held.values()) == 5  # a chain's first piece: its own leaf and 2 * 2 forks


def test_the_engine_generates_what_the_nodes_hold_and_finds_prefixes_in_its_cache(
    host: Host, tiny_model: Path
):
    host.start(tiny_model, SETTINGS)  # nothing cached
    asked = tree(5, length=20)
    before = host(lambda g: g.stats())
    (leaves,) = host.sample([asked], LONG)
    after = host(lambda g: g.stats())

    group = Group(
        asked.problem, asked.prompt_ids, tuple(Rollout(leaf, Reward(0.0, "")) for leaf in leaves)
    )
    assert after["tokens"] - before["tokens"] == generated_tokens(group)
    assert generated_tokens(group) < sum(len(leaf.token_ids) for leaf in leaves)
    # Whole blocks of 32 of prompt and prefix are cached, but for the last token, which is computed.
    # The prompt of 20 tokens fills none.
    forks = leaves[PLAN.chains :]
    blocks = sum((20 + shared_tokens(fork) - 1) // 32 for fork in forks)
    assert blocks > 0
    assert after["cached_tokens"] - before["cached_tokens"] == 32 * blocks


def test_chains_branch_where_the_policys_entropy_is_highest(host: Host, tiny_model: Path):
    model = reference.load(tiny_model)
    plan = TreePlan(chains=8, points=2, forks=1, branch="entropy")
    asked = tree(6, plan)
    (leaves,) = host.sample([asked], LONG)
    for chain in leaves[: plan.chains]:
        ids = torch.tensor([asked.prompt_ids + chain.token_ids])
        with torch.no_grad():
            table = model(ids).logits[0].log_softmax(-1)[len(asked.prompt_ids) - 1 : -1]
        entropies = [lumped_entropy(row) for row in table.topk(ENTROPY_TOKENS).values.tolist()]
        points = tuple(segment.end for segment in chain.segments[:-1])
        assert points == entropy_points(entropies, count=2)


def test_a_tree_that_cannot_be_sampled_names_the_reason(host: Host):
    with pytest.raises(ValueError, match="'problem/1': its tree has 15 leaves, but 2 seeds"):
        host.sample([replace(tree(1), seeds=(1, 2))])
    for sampling in (replace(AT_ONE, temperature=0.0), replace(AT_ONE, stop=("x",))):
        with pytest.raises(ValueError, match="a tree needs temperature > 0"):
            host.sample([tree(1)], sampling)

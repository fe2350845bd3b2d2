"""Tests for grpo/tree_packing.py: the loss of packed trees is that of their rows, to rounding."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from enumerable import group_of
from random_batches import random_batch, train_config

from cotree.grpo.collate import collate, micro_batches, shard, split_rows
from cotree.grpo.config_algorithm import Advantage, GspoLoss, Kl, SequenceMask
from cotree.grpo.models import load_model
from cotree.grpo.objective import StepStatistics, micro_batch_loss
from cotree.grpo.policy import policy_logprobs
from cotree.grpo.tree_packing import TreeBatch, pack_trees
from cotree.grpo.types import Completion, Rollout, Segment
from cotree.rewards.types import Reward

WHOLE = 10**6
"""A limit that cuts no tree."""


def packed_at(batch, max_tokens: int) -> TreeBatch:
    """Packed wherever tokens are shared, at whatever cost in attention."""
    return pack_trees(batch, max_tokens=max_tokens, balance=math.inf)


class Sampler:
    """Random completions that look like an engine's: tokens and their log-probabilities."""

    def __init__(self, seed: int) -> None:
        self._random = torch.Generator().manual_seed(seed)

    def tokens(self, count: int) -> list[tuple[int, float]]:
        ids = torch.randint(3, 99, (count,), generator=self._random).tolist()
        logprobs = (-4 - torch.rand(count, generator=self._random)).tolist()
        return list(zip(ids, logprobs, strict=True))

    def value(self) -> float:
        return float(torch.randint(0, 2, (1,), generator=self._random))


def leaf(tokens, value: float, *segments: Segment) -> Rollout:
    completion = Completion(
        token_ids=tuple(token for token, _ in tokens),
        logprobs=tuple(logprob for _, logprob in tokens),
        text="x" * len(tokens),
        token_ends=tuple(range(1, len(tokens) + 1)),
        stop_reason="stop",
        policy_version=0,
        segments=segments,
    )
    return Rollout(completion, Reward(value, "", {"answer": value}, ()))


def tree_group(name: str, seed: int, *, chains: int = 2, forks: int = 2):
    """Chains that branch at two tokens; the tree's leaves, a rollout alone, and a dropped leaf."""
    sampler, rollouts = Sampler(seed), []
    prompt = tuple(token for token, _ in sampler.tokens(5))
    for chain in range(chains):
        first, second = 10 * chain, 10 * chain + 1
        stem, rest = sampler.tokens(3 + chain), sampler.tokens(4)
        for fork in range(forks + 1):
            tail = sampler.tokens(3 + fork)
            ends = [len(stem), len(stem + rest), len(stem + rest + tail)]
            path = map(Segment, (first, second, 10 * chain + 2 + fork), ends)
            rollouts.append(leaf(stem + rest + tail, sampler.value(), *path))
        tail = sampler.tokens(6)
        path = map(Segment, (first, 10 * chain + 9), (len(stem), len(stem + tail)))
        rollouts.append(leaf(stem + tail, sampler.value(), *path))
    del rollouts[1]
    rollouts.append(leaf(sampler.tokens(5), sampler.value()))
    return group_of(name, *rollouts, prompt=prompt)


GROUPS = [tree_group("a", 1), tree_group("b", 2, chains=3), tree_group("c", 3, forks=0)]


def batch_of(groups=GROUPS, *, aggregation="token_mean", tree="tree_rl", dtype=torch.float64):
    batch = collate(
        groups,
        advantage=Advantage(tree=tree),
        first_term="answer",
        aggregation=aggregation,
        max_tokens=20,
        mask_truncated=False,
    )
    floats = ("behavior_logprobs", "advantages", "weights")
    return dataclasses.replace(batch, **{n: getattr(batch, n).to(dtype) for n in floats})


@pytest.fixture(scope="module")
def double_model(tiny_model: Path):
    return load_model(str(tiny_model), dtype="float64")


def loss_and_gradient(model, pieces, train):
    """Loss, gradients and statistics of the pieces' sum.

    The old policy and the reference differ from the present one by a function of the token, large
    enough that ratios are clipped on both sides.
    """
    model.zero_grad()
    total, measured = 0.0, StepStatistics()
    for piece in pieces:
        if len(piece.lengths) == 0:
            continue
        logprobs, entropy = policy_logprobs(model, piece, temperature=0.9, packing=False)
        noise = torch.sin(1.7 * piece.token_ids) * piece.mask
        reference = logprobs.detach() + 0.3 * torch.cos(0.9 * piece.token_ids) * piece.mask
        loss, diagnostics = micro_batch_loss(
            train,
            piece,
            logprobs=logprobs,
            old_logprobs=logprobs.detach() + 0.5 * noise,
            ref_logprobs=reference if train != "sft" and train.kl else None,
        )
        loss.backward()
        total += loss.item()
        measured.add(piece, entropy, diagnostics)
    gradient = {name: p.grad.clone() for name, p in model.named_parameters()}
    return total, gradient, measured.reduced(world_size=1, device=torch.device("cpu"))


def assert_same(ours, theirs, tolerance: float) -> None:
    """Losses, gradients and statistics agree, relative to their size."""
    assert ours[0] == pytest.approx(theirs[0], rel=tolerance, abs=tolerance)
    for name, gradient in theirs[1].items():
        scale = float(gradient.abs().max())
        gap = float((ours[1][name] - gradient).abs().max())
        assert gap <= tolerance * scale, f"{name}: {gap} of {scale}"
    assert ours[2].keys() == theirs[2].keys()
    for name, value in theirs[2].items():
        assert ours[2][name] == pytest.approx(value, rel=tolerance, abs=tolerance), name


LOSSES = ({"type": "grpo", "clip_high": 0.28}, {"type": "cispo"}, {"type": "reinforce"})


@pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean", "constant"])
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss["type"])
def test_packed_loss_gradient_and_statistics_are_those_of_the_rows(double_model, loss, aggregation):
    batch = batch_of(aggregation=aggregation)
    packed = packed_at(batch, WHOLE)
    assert int(packed.lengths.sum()) < 0.6 * int(batch.lengths.sum())
    for kl in (None, Kl(coef=0.1)):
        for correction in ({"type": "none"}, {"type": "tis", "cap": 1.5}, {"type": "mask"}):
            train = train_config(
                loss=loss | {"aggregation": aggregation}, kl=kl, correction=correction
            )
            theirs = loss_and_gradient(double_model, [batch], train)
            ours = loss_and_gradient(double_model, [packed], train)
            assert_same(ours, theirs, 1e-6)
            assert max(float(g.abs().max()) for g in theirs[1].values()) > 1e-3
            if loss["type"] == "grpo":
                assert 0.05 < theirs[2]["clip_frac"] < 0.95


@pytest.mark.parametrize("tree", ["leaf", "tree_grpo", "tree_rl", "vine", "sibling"])
def test_any_advantages_pack(double_model, tree):
    batch, train = batch_of(tree=tree), train_config()
    assert_same(
        loss_and_gradient(double_model, [packed_at(batch, WHOLE)], train),
        loss_and_gradient(double_model, [batch], train),
        1e-6,
    )


def test_netting_advantages_before_clipping_would_be_wrong(double_model):
    # What the packed loss must not do: at a token with A = +1 in one row and -1 in another, the
    # net advantage is 0 and so is its loss, but a clipped surrogate is not odd.
    batch, train = batch_of(tree="leaf"), train_config()
    packed = packed_at(batch, WHOLE)
    assert bool(((packed.num_positive > 0) & (packed.num_negative > 0)).any())
    net = packed.positive - packed.negative
    netted = dataclasses.replace(packed, positive=net.clamp(min=0), negative=(-net).clamp(min=0))
    right = loss_and_gradient(double_model, [packed], train)[0]
    wrong = loss_and_gradient(double_model, [netted], train)[0]
    assert abs(right - wrong) > 1e-3


def test_in_float32_they_agree_to_a_millionth_of_the_largest_gradient(tiny_model: Path):
    model = load_model(str(tiny_model), dtype="float32")
    batch = batch_of(dtype=torch.float32)
    train = train_config(kl=Kl(coef=0.1))
    theirs = loss_and_gradient(model, [batch], train)
    ours = loss_and_gradient(model, [packed_at(batch, WHOLE)], train)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6, abs=1e-6)
    scale = max(float(gradient.abs().max()) for gradient in theirs[1].values())
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(ours[1][name], gradient, atol=1e-6 * scale, rtol=0)


def test_cross_entropy_packs_as_well(double_model):
    batch = batch_of()
    packed = packed_at(batch, WHOLE)
    ours = loss_and_gradient(double_model, [packed], "sft")
    assert_same(ours, loss_and_gradient(double_model, [batch], "sft"), 1e-6)


def test_however_packed_trees_are_cut_the_step_is_the_same(double_model):
    batch, train = batch_of(), train_config(kl=Kl(coef=0.1))
    whole = loss_and_gradient(double_model, [batch], train)
    packed = packed_at(batch, WHOLE)
    assert packed.token_ids.shape[0] == len(GROUPS)
    shards = [shard(packed, rank=rank, world_size=2) for rank in range(2)]
    small = packed_at(batch, 30)  # trees are cut between leaves
    assert len(GROUPS) < small.token_ids.shape[0] < batch.token_ids.shape[0]
    cuts = {
        "one tree each": micro_batches(packed, max_tokens=1),
        "two processes": [p for part in shards for p in micro_batches(part, max_tokens=90)],
        "more processes than trees": [shard(packed, rank=r, world_size=5) for r in range(5)],
        "trees cut up": micro_batches(small, max_tokens=60),
        "every row alone": micro_batches(packed_at(batch, 1), max_tokens=60),
    }
    for pieces in cuts.values():
        assert all(isinstance(piece, TreeBatch) for piece in pieces)
        assert_same(loss_and_gradient(double_model, pieces, train), whole, 1e-6)


def test_minibatches_are_cut_before_packing_and_stay_the_same(double_model):
    train = train_config()
    for part in split_rows(batch_of(), 3, aggregation="token_mean", max_tokens=20):
        packed = packed_at(part, WHOLE)
        assert packed.num_tokens == part.num_tokens
        assert_same(
            loss_and_gradient(double_model, [packed], train),
            loss_and_gradient(double_model, [part], train),
            1e-6,
        )


# --- the layout ------------------------------------------------------------------------------


def small_tree():
    """Prompt 7 8; rows 5 6 and 5 9 share the token 5, row 4 alone. Advantages +2, -1, 0."""
    a, b, c, d = (5, -0.5), (6, -0.25), (9, -0.75), (4, -1.0)
    group = group_of("a", leaf([a, b], 1.0), leaf([d], 0.0), leaf([a, c], 0.0), prompt=(7, 8))
    batch = batch_of([group], tree="leaf")
    advantages = torch.tensor([2.0, 0.0, -1.0], dtype=torch.float64)
    return dataclasses.replace(batch, advantages=advantages[:, None] * batch.mask)


def test_trees_stand_in_depth_first_order_with_sums_over_their_rows():
    packed = packed_at(small_tree(), WHOLE)
    # Lexical order: 4 before 5 6 before 5 9. Each of the 5 trained tokens weighs 1/5.
    assert packed.token_ids.tolist() == [[7, 8, 4, 5, 6, 9]]
    assert packed.parents.tolist() == [[0, 0, 1, 1, 3, 3]]
    assert packed.subtree_ends.tolist() == [[6, 6, 3, 6, 5, 6]]
    assert packed.mask.tolist() == [[False, False, True, True, True, True]]
    assert packed.behavior_logprobs.tolist() == [[0, 0, -1.0, -0.5, -0.25, -0.75]]
    assert packed.num_rows.tolist() == [[0, 0, 1, 2, 1, 1]]
    assert packed.num_positive.tolist() == [[0, 0, 0, 1, 1, 0]]
    assert packed.num_negative.tolist() == [[0, 0, 0, 1, 0, 1]]
    sums = {"weights": (1, 2, 1, 1), "positive": (0, 2, 2, 0), "negative": (0, 1, 0, 1)}
    for name, values in sums.items():
        expected = [[0, 0, *(value / 5 for value in values)]]
        assert getattr(packed, name).tolist() == [pytest.approx(row) for row in expected]
    assert packed.advantages[0, 3].item() == pytest.approx(0.5)  # mean of 2 and -1
    assert packed.visible()[0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 1, 0, 1],
    ]


def test_tokens_with_other_behaviour_logprobs_are_not_the_same():
    # Two chains that began alike by chance, sampled in other engine batches.
    group = group_of("a", leaf([(5, -0.5), (6, -1.0)], 1.0), leaf([(5, -0.51)], 0.0))
    assert int(packed_at(batch_of([group]), WHOLE).lengths) == 2 + 2 + 1
    same = group_of("a", leaf([(5, -0.5), (6, -1.0)], 1.0), leaf([(5, -0.5)], 0.0))
    assert int(packed_at(batch_of([same]), WHOLE).lengths) == 2 + 2


def test_prompts_that_begin_alike_are_trees_of_their_own():
    groups = [
        group_of(name, leaf([(9, -0.5)], 1.0), leaf([(8, -0.5)], 0.0), prompt=prompt)
        for name, prompt in (("a", (1, 2, 3)), ("b", (1, 2, 4)), ("c", (1, 2)))
    ]
    packed = packed_at(batch_of(groups), WHOLE)
    assert packed.lengths.tolist() == [5, 5, 4]


def test_rows_that_share_nothing_are_left_as_they_are():
    batch = random_batch(0)
    packed = packed_at(batch, WHOLE)
    for name in ("token_ids", "lengths", "mask", "behavior_logprobs", "weights"):
        assert torch.equal(getattr(packed, name), getattr(batch, name))
    torch.testing.assert_close(packed.advantages, batch.advantages)


def test_a_tree_larger_than_the_limit_is_cut_between_leaves():
    packed = packed_at(batch_of(), 25)
    assert int(packed.lengths.max()) <= 25
    assert packed_at(batch_of(), 1).lengths.sum() == batch_of().lengths.sum()


def test_a_row_joins_a_tree_only_where_sharing_outweighs_attention():
    # Three rows of 4 tokens share a prompt of 1. Two together are 7 tokens, whose mask has
    # 7^2 - 2 * 4^2 = 17 pairs more, worth the token they share from balance 17 on. The third makes
    # it 10, and 10^2 - 7^2 - 4^2 = 35.
    leaves = [leaf([(token, -0.5)] * 3, 1.0) for token in (3, 4, 5)]
    batch = batch_of([group_of("a", *leaves, prompt=(9,))])
    expected = {16: [4, 4, 4], 17: [7, 4], 34: [7, 4], 35: [10], math.inf: [10]}
    for balance, lengths in expected.items():
        packed = pack_trees(batch, max_tokens=WHOLE, balance=balance)
        assert packed.lengths.tolist() == lengths


# --- attention -------------------------------------------------------------------------------


def test_a_branch_does_not_see_its_siblings_or_the_padding(double_model):
    packed = packed_at(batch_of(), WHOLE)
    with torch.no_grad():
        before, _ = policy_logprobs(double_model, packed, temperature=1.0, packing=False)
        visible = packed.visible()
        generator = torch.Generator().manual_seed(0)
        for row in range(packed.token_ids.shape[0]):
            for column in range(5, packed.token_ids.shape[1], 3):
                other = dataclasses.replace(packed, token_ids=packed.token_ids.clone())
                # Change everything that the token does not see: siblings, descendants, padding.
                hidden = ~visible[row, column]
                random = torch.randint(3, 99, hidden.shape, generator=generator)
                other.token_ids[row] = torch.where(hidden, random, packed.token_ids[row])
                after, _ = policy_logprobs(double_model, other, temperature=1.0, packing=False)
                seen = visible[row, column] & packed.mask[row]
                torch.testing.assert_close(after[row, seen], before[row, seen], rtol=0, atol=1e-12)


def test_a_branch_sees_all_its_ancestors(double_model):
    packed = packed_at(batch_of(), WHOLE)
    last = int(packed.lengths[0]) - 1
    with torch.no_grad():
        before, _ = policy_logprobs(double_model, packed, temperature=1.0, packing=False)
        for ancestor in packed.visible()[0, last].nonzero().flatten().tolist():
            other = dataclasses.replace(packed, token_ids=packed.token_ids.clone())
            other.token_ids[0, ancestor] = 3 if other.token_ids[0, ancestor] != 3 else 4
            after, _ = policy_logprobs(double_model, other, temperature=1.0, packing=False)
            assert abs(float(after[0, last] - before[0, last])) > 1e-9


# --- what does not pack ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{"loss": GspoLoss(type="gspo")}, {"correction": SequenceMask(type="sequence_mask")}],
    ids=["gspo", "sequence_mask"],
)
def test_what_depends_on_whole_rollouts_is_refused(double_model, settings):
    packed = packed_at(batch_of(), WHOLE)
    with pytest.raises(ValueError, match="depends on whole rollouts"):
        loss_and_gradient(double_model, [packed], train_config(**settings))


def test_equal_rewards_give_a_gradient_of_exactly_zero(double_model):
    group = tree_group("a", 1)
    equal = dataclasses.replace(
        group, rollouts=tuple(Rollout(r.completion, Reward(0.1, "")) for r in group.rollouts)
    )
    packed = packed_at(batch_of([equal]), WHOLE)
    loss, gradient, _ = loss_and_gradient(double_model, [packed], train_config())
    assert loss == 0.0
    assert not any(bool(g.any()) for g in gradient.values())

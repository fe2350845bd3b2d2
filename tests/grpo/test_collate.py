"""Tests for grpo/collate.py. However a step is cut, its loss and gradient stay the same."""

import dataclasses
import math

import pytest
import torch
from enumerable import group_of, rollout
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.collate import (
    NothingToTrainError,
    collate,
    micro_batches,
    shard,
    split_rows,
    token_weights,
)
from cotree.grpo.config_algorithm import (
    Advantage,
    CispoLoss,
    GrpoLoss,
    GspoLoss,
    Kl,
    ReinforceLoss,
    TruncatedWeights,
)
from cotree.grpo.loss import policy_loss
from cotree.grpo.types import Batch, Rollout, Segment
from cotree.rewards.types import Failure, Ungraded

AGGREGATIONS = ("token_mean", "sequence_mean", "constant")
VOCABULARY = 11


def plain(groups, **changes):
    kwargs = {
        "advantage": Advantage(),
        "first_term": "answer",
        "aggregation": "token_mean",
        "max_tokens": 10,
        "mask_truncated": False,
        **changes,
    }
    return collate(groups, **kwargs)


# --- collate ---------------------------------------------------------------------------------


def test_rows_are_prompt_then_completion_then_padding():
    batch = plain([group_of("a", rollout(1.0, text="AB"), rollout(0.0, text="C"), prompt=(1, 2))])
    assert batch.token_ids.tolist() == [[1, 2, 65, 66], [1, 2, 67, 0]]
    assert batch.lengths.tolist() == [4, 3]
    assert batch.mask.tolist() == [[False, False, True, True], [False, False, True, False]]
    assert batch.behavior_logprobs.tolist() == [[0, 0, -0.5, -0.75], [0, 0, -0.5, 0]]
    assert batch.advantages.tolist() == [[0, 0, 0.5, 0.5], [0, 0, -0.5, 0]]  # mean 1/2
    torch.testing.assert_close(batch.weights, batch.mask / 3)
    assert batch.num_tokens == 3
    assert {t.dtype for t in (batch.behavior_logprobs, batch.advantages, batch.weights)} == {
        torch.float32
    }


def test_a_token_is_credited_with_the_steps_that_end_at_or_after_it():
    # Text "abcdef", one token per character. Steps [0,2) = +1 and [3,6) = -1 over the group: mean
    # 0, std 1. [0,2) ends with token 1, the first whose text reaches character 2. So tokens 0..1
    # get 1 - 1 = 0, tokens 2..5 get -1. Equal rewards: no outcome advantage. Coefficient 0.5.
    with_steps = rollout(1.0, text="abcdef", steps=((0, 2, 1.0), (3, 6, -1.0)))
    batch = plain(
        [group_of("a", with_steps, rollout(1.0, text="xy"), prompt=(9,))],
        advantage=Advantage(process_coef=0.5),
    )
    assert batch.advantages.tolist() == [[0, 0, 0, -0.5, -0.5, -0.5, -0.5], [0.0] * 7]


def test_outcome_and_process_advantages_add_up():
    first = rollout(1.0, text="ab", steps=((0, 2, 1.0),))
    second = rollout(0.0, text="ab", steps=((0, 1, -1.0),))
    batch = plain([group_of("a", first, second, prompt=(9,))], advantage=Advantage(process_coef=2))
    # outcome +-1/2; steps +1 and -1 normalise to themselves, times 2
    assert batch.advantages.tolist() == [[0, 2.5, 2.5], [0, -2.5, -0.5]]
    off = plain([group_of("a", first, second, prompt=(9,))])
    assert off.advantages.tolist() == [[0, 0.5, 0.5], [0, -0.5, -0.5]]


def test_steps_compared_within_an_outcome_never_trade_against_it():
    # Right ones: steps +1 and -1, mean 0, std 1. Wrong ones: 0 and -2, mean -1, std 1. Normalised
    # over the prompt as a whole the second would come out below the third, a wrong one.
    scores = ((1.0, 1.0), (1.0, -1.0), (0.0, 0.0), (0.0, -2.0))
    group = group_of(
        "a", *(rollout(value, text="a", steps=((0, 1, step),)) for value, step in scores)
    )
    apart = plain([group], advantage=Advantage(process_coef=1.0, process_baseline="outcome"))
    assert apart.advantages[:, -1].tolist() == [1.5, -0.5, 0.5, -1.5]  # outcome +-1/2, steps +-1


def test_a_step_inside_a_long_token_ends_with_that_token():
    # Tokens write "abc", "" (half a character), "d", "" (end of sequence).
    done = rollout(1.0, text="abcd", steps=((0, 2, 1.0), (2, 4, -1.0)))
    completion = dataclasses.replace(done.completion, token_ends=(3, 3, 4, 4))
    batch = plain(
        [group_of("a", Rollout(completion, done.reward), rollout(1.0), prompt=(9,))],
        advantage=Advantage(process_coef=1.0),
    )
    # +1 ends with token 0, -1 with token 2 (the first that reaches character 4): 0, -1, -1, 0.
    assert batch.advantages[0].tolist() == [0, 0, -1, -1, 0]


def test_nodes_of_a_rollout_tree_have_advantages_of_their_own():
    # Two completions branch after "a". Rewards 1 and 0: V(prompt) = V(0) = 1/2, so node 0 gains
    # nothing and the branches +-1/2. The second group is alone with its reward, and gains nothing.
    # Step scores +1 and -1, which end with the first token, normalise to themselves.
    def branch(value, text, node, step):
        grown = rollout(value, text=text, steps=((0, 1, step),))
        segments = (Segment(0, 1), Segment(node, len(text)))
        return Rollout(dataclasses.replace(grown.completion, segments=segments), grown.reward)

    groups = [
        group_of("a", branch(1.0, "abc", 1, 1.0), branch(0.0, "ab", 2, -1.0), prompt=(9,)),
        group_of("b", rollout(1.0, text="x"), prompt=(9,)),
    ]
    batch = plain(groups, advantage=Advantage(tree="vine"))
    assert batch.advantages.tolist() == [[0, 0, 0.5, 0.5], [0, 0, -0.5, 0], [0, 0, 0, 0]]
    batch = plain(groups, advantage=Advantage(tree="vine", process_coef=2.0))
    assert batch.advantages.tolist() == [[0, 2, 0.5, 0.5], [0, -2, -0.5, 0], [0, 0, 0, 0]]


def test_truncated_completions_stay_in_the_baseline_but_out_of_the_loss():
    cut = rollout(0.0, text="abcdefgh", stop_reason="length")
    groups = [group_of("a", rollout(1.0, text="ab"), cut)]
    batch = plain(groups, mask_truncated=True, aggregation="sequence_mean")
    assert batch.lengths.tolist() == [4]
    assert batch.advantages.tolist() == [[0, 0, 0.5, 0.5]]  # the mean counts the truncated one
    assert batch.weights.tolist() == [[0, 0, 0.5, 0.5]]  # 1 / (1 row * 2 tokens)
    assert len(plain(groups, mask_truncated=False).lengths) == 2
    with pytest.raises(NothingToTrainError, match="none of the step's 1 rollouts"):
        plain([group_of("a", cut)], mask_truncated=True)


def test_what_cannot_be_collated_is_refused_with_the_problems_name():
    def broken(**changes):
        good = rollout(1.0, text="ab")
        return Rollout(dataclasses.replace(good.completion, **changes), good.reward)

    with pytest.raises(ValueError, match="problem 'x' has an empty prompt"):
        plain([group_of("x", rollout(1.0), prompt=())])
    with pytest.raises(ValueError, match="'x': token_ids, logprobs, token_ends have"):
        plain([group_of("x", broken(logprobs=(-1.0,)))])
    with pytest.raises(ValueError, match="'x': the engine returned a log-probability"):
        plain([group_of("x", broken(logprobs=(-1.0, math.nan)))])
    lost = Rollout(rollout(1.0).completion, Ungraded(Failure.CRASH, ""))
    with pytest.raises(ValueError, match="'x' is ungraded"):
        plain([group_of("x", lost)])
    outside = rollout(1.0, text="ab", steps=((0, 3, 1.0),))
    with pytest.raises(ValueError, match="'x' ends at character 3"):
        plain([group_of("x", outside)], advantage=Advantage(process_coef=1.0))


# --- weights ---------------------------------------------------------------------------------


def test_token_weights_by_hand():
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [False] * 4])
    # 4 trained tokens; 2 rows that have any; max_tokens 5.
    for aggregation, first, second in (
        ("token_mean", 1 / 4, 1 / 4),
        ("sequence_mean", 1 / (2 * 3), 1 / 2),
        ("constant", 1 / 10, 1 / 10),
    ):
        weights = token_weights(mask, aggregation=aggregation, max_tokens=5)
        expected = torch.tensor([[first] * 3 + [0], [second, 0, 0, 0], [0] * 4])
        torch.testing.assert_close(weights, expected)


def test_weights_of_nothing_are_refused():
    with pytest.raises(NothingToTrainError, match="no token to train on"):
        token_weights(torch.zeros(2, 3, dtype=torch.bool), aggregation="constant", max_tokens=5)
    with pytest.raises(ValueError, match="aggregation = 'mean'"):
        token_weights(torch.ones(2, 3, dtype=torch.bool), aggregation="mean", max_tokens=5)


# --- cutting ---------------------------------------------------------------------------------


def random_batch(lengths, *, aggregation="token_mean", seed=0, padding=0):
    """Rows of the given lengths, prompts of 1 to 3 tokens; NaN wherever padding may hold it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(lengths), max(lengths) + padding)
    ends = torch.tensor(lengths).unsqueeze(-1)
    position = torch.arange(shape[1])
    prompts = torch.randint(1, 4, (len(lengths), 1), generator=generator).clamp(max=ends - 1)
    mask = (position >= prompts) & (position < ends)
    width = max(lengths)  # draws do not depend on the padding

    def normal():
        values = torch.randn(len(lengths), width, generator=generator, dtype=torch.float64)
        return torch.nn.functional.pad(values, (0, padding)).masked_fill(~mask, math.nan)

    ids = torch.randint(0, VOCABULARY, (len(lengths), width), generator=generator)
    return Batch(
        token_ids=torch.nn.functional.pad(ids, (0, padding)) * (position < ends),
        lengths=torch.tensor(lengths),
        mask=mask,
        behavior_logprobs=-2.4 + 0.2 * normal(),
        advantages=normal(),
        weights=token_weights(mask, aggregation=aggregation, max_tokens=20),
        num_tokens=int(mask.sum()),
    )


LOSSES = [
    GrpoLoss(),
    GspoLoss(type="gspo", clip_low=0.02, clip_high=0.02),
    CispoLoss(type="cispo"),
    ReinforceLoss(type="reinforce"),
]
TABLES = 0.3 * torch.randn(
    3, VOCABULARY, VOCABULARY, generator=torch.Generator().manual_seed(9), dtype=torch.float64
)


def loss_and_gradient(pieces, loss):
    """Of a bigram policy: logits of a token are a row of a table, chosen by the one before it."""
    table = TABLES[0].clone().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for piece in pieces:
        if len(piece.lengths) == 0:
            continue
        previous = piece.token_ids.roll(1, -1)
        new, old, ref = (
            torch.log_softmax(t, -1)[previous, piece.token_ids] for t in (table, *TABLES[1:])
        )
        per_token, _ = policy_loss(
            loss,
            TruncatedWeights(),
            Kl(coef=0.1),
            logprobs=new,
            old_logprobs=old,
            behavior_logprobs=piece.behavior_logprobs,
            ref_logprobs=ref,
            advantages=piece.advantages,
            mask=piece.mask,
        )
        total = total + (per_token * piece.weights).sum()
    return total.detach(), torch.autograd.grad(total, table)[0]


LENGTHS = [7, 3, 12, 12, 2, 5, 9, 3, 4]


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.type)
def test_the_gradient_does_not_depend_on_how_a_batch_is_cut(loss, aggregation):
    batch = random_batch(LENGTHS, aggregation=aggregation)
    whole_loss, whole_gradient = loss_and_gradient([batch], loss)
    assert whole_gradient.abs().max() > 1e-3
    shards = [shard(batch, rank=r, world_size=2) for r in range(2)]
    cuts = {
        "micro-batches": micro_batches(batch, max_tokens=24),
        "one row each": micro_batches(batch, max_tokens=1),
        "one piece": micro_batches(batch, max_tokens=10**9),
        "two processes": shards,
        "more processes than rows": [shard(batch, rank=r, world_size=11) for r in range(11)],
        "processes and micro-batches": [
            piece for part in shards for piece in micro_batches(part, max_tokens=15)
        ],
        "more padding": [random_batch(LENGTHS, aggregation=aggregation, padding=6)],
    }
    for name, pieces in cuts.items():
        cut_loss, cut_gradient = loss_and_gradient(pieces, loss)
        torch.testing.assert_close(cut_loss, whole_loss, rtol=0, atol=1e-12, msg=name)
        torch.testing.assert_close(cut_gradient, whole_gradient, rtol=0, atol=1e-12, msg=name)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_the_step_is_the_papers_mean(aggregation):
    # With weights made by hand: sum over tokens of w * x equals the mean each paper writes.
    batch = random_batch(LENGTHS, aggregation=aggregation)
    x = torch.randn(batch.mask.shape, dtype=torch.float64)
    rows = [row[mask] for row, mask in zip(x, batch.mask, strict=True)]
    expected = {
        "token_mean": torch.cat(rows).mean(),
        "sequence_mean": torch.stack([row.mean() for row in rows]).mean(),
        "constant": torch.cat(rows).sum() / (len(rows) * 20),
    }[aggregation]
    torch.testing.assert_close((x * batch.weights).sum(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_minibatches_are_steps_of_their_own(aggregation):
    batch = random_batch(LENGTHS, aggregation=aggregation)
    parts = split_rows(batch, 4, aggregation=aggregation, max_tokens=20)
    assert [len(part.lengths) for part in parts] == [3, 2, 2, 2]
    assert torch.cat([part.lengths for part in parts]).tolist() == LENGTHS
    for part in parts:
        expected = token_weights(part.mask, aggregation=aggregation, max_tokens=20)
        assert torch.equal(part.weights, expected)
        assert part.num_tokens == int(part.mask.sum())
        assert part.token_ids.shape[1] == int(part.lengths.max())
    (whole,) = split_rows(batch, 1, aggregation=aggregation, max_tokens=20)
    assert torch.equal(whole.weights, batch.weights)
    assert len(split_rows(batch, 99, aggregation=aggregation, max_tokens=20)) == len(LENGTHS)


def rows_of(batch):
    """Each row's tokens with its weights: what must survive any cut."""
    return [
        (tuple(ids[:n].tolist()), tuple(w[:n].tolist()))
        for ids, w, n in zip(batch.token_ids, batch.weights, batch.lengths.tolist(), strict=True)
    ]


lengths_strategy = st.lists(st.integers(2, 30), min_size=1, max_size=20)


@settings(max_examples=60)
@given(lengths=lengths_strategy, max_tokens=st.integers(1, 120))
def test_micro_batches_hold_every_row_once_within_the_limit(lengths, max_tokens):
    batch = random_batch(lengths)
    pieces = micro_batches(batch, max_tokens=max_tokens)
    assert sorted(row for p in pieces for row in rows_of(p)) == sorted(rows_of(batch))
    for piece in pieces:
        rows, width = piece.token_ids.shape
        assert width == int(piece.lengths.max())
        assert rows * width <= max_tokens or rows == 1
        assert piece.num_tokens == batch.num_tokens
    again = micro_batches(batch, max_tokens=max_tokens)
    assert [rows_of(p) for p in again] == [rows_of(p) for p in pieces]


@settings(max_examples=60)
@given(lengths=lengths_strategy, world_size=st.integers(1, 25))
def test_shards_hold_every_row_once_and_are_balanced(lengths, world_size):
    batch = random_batch(lengths)
    pieces = [shard(batch, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(row for p in pieces for row in rows_of(p)) == sorted(rows_of(batch))
    tokens = [int(p.lengths.sum()) for p in pieces]
    # Dealt by falling length, the first process leads the last by its first row at most.
    assert max(tokens) - min(tokens) <= max(lengths)


def test_an_empty_shard_gives_no_micro_batches():
    empty = shard(random_batch([3]), rank=1, world_size=2)
    assert empty.token_ids.shape == (0, 0)
    assert micro_batches(empty, max_tokens=8) == []


def test_pieces_that_make_no_sense_are_refused():
    batch = random_batch([3, 4])
    with pytest.raises(ValueError, match="max_tokens = 0"):
        micro_batches(batch, max_tokens=0)
    with pytest.raises(ValueError, match=r"rank = 2 is not in 0\.\.1"):
        shard(batch, rank=2, world_size=2)
    with pytest.raises(ValueError, match="parts = 0"):
        split_rows(batch, 0, aggregation="token_mean", max_tokens=4)

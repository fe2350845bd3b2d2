"""Tests for grpo/tree_packing.py in the learner: the same steps, prefixes shared or not."""

from dataclasses import replace

import pytest
from random_batches import KL, largest_gap, make_learner, random_batch, tensors, train_config

from cotree.grpo import config
from cotree.grpo.config_algorithm import GspoLoss, SequenceMask
from cotree.grpo.tree_packing import pack_trees
from cotree.grpo.types import Batch

# As in test_learner.py: float32 sums in another order, against steps of 1e-2.
SAME = 2e-5


def tree_batch(seed: int) -> Batch:
    """Two prompts of three rows; of each, the second and third row continue the first's stem."""
    batch = random_batch(seed)
    ids, logprobs = batch.token_ids, batch.behavior_logprobs
    for row, stem in ((1, 7), (2, 6), (4, 6), (5, 7)):
        origin = 3 * (row // 3)
        ids[row, :stem] = ids[origin, :stem]
        logprobs[row, :stem] = logprobs[origin, :stem]
    return batch


def test_the_batches_share_tokens():
    for seed in range(2):
        batch = tree_batch(seed)
        packed = pack_trees(batch, max_tokens=8192, balance=192)
        assert packed.lengths.sum() <= batch.lengths.sum() - (7 + 6 + 6 + 7)
        assert packed.token_ids.shape[0] == 2


def two_steps(learner):
    return [learner.step(tree_batch(seed)) for seed in range(2)]


@pytest.mark.parametrize(
    "train",
    [
        {},
        {"kl": KL, "updates_per_step": 3},
        {"loss": {"type": "cispo", "aggregation": "sequence_mean"}},
        {"loss": {"type": "reinforce", "aggregation": "constant"}, "correction": {"type": "none"}},
    ],
    ids=str,
)
@pytest.mark.parametrize("micro_batch_tokens", [8192, 40])
def test_sharing_prefixes_changes_neither_weights_nor_statistics(
    tiny_model, train, micro_batch_tokens
):
    reference = make_learner(tiny_model, train=train_config(**train))
    sharing = make_learner(
        tiny_model,
        train=train_config(**train),
        share_prefixes=True,
        micro_batch_tokens=micro_batch_tokens,
    )
    expected, measured = two_steps(reference), two_steps(sharing)
    assert largest_gap(tensors(sharing), tensors(reference)) < SAME
    for ours, theirs in zip(measured, expected, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs.keys() - {"seconds"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


def test_under_autocast_it_is_as_close_to_float32_as_the_usual_layout(tiny_model):
    batch = replace(tree_batch(0), advantages=tree_batch(0).mask.float())
    exact = make_learner(tiny_model).step(batch)
    for share_prefixes in (False, True):
        learner = make_learner(tiny_model, dtype="bfloat16", share_prefixes=share_prefixes)
        rounded = learner.step(batch)
        for name in ("entropy_nats", "grad_norm", "mismatch/kl_nats"):
            assert rounded[name] == pytest.approx(exact[name], rel=0.03), name


@pytest.mark.parametrize(
    "settings",
    [{"loss": GspoLoss(type="gspo")}, {"correction": SequenceMask(type="sequence_mask")}],
    ids=["gspo", "sequence_mask"],
)
def test_a_learner_that_cannot_share_prefixes_does_not_start(tiny_model, settings):
    with pytest.raises(ValueError, match="depends on whole rollouts"):
        make_learner(tiny_model, train=train_config(**settings), share_prefixes=True)


def test_packing_and_sharing_prefixes_exclude_each_other():
    with pytest.raises(ValueError, match=r"learner\.packing has no effect"):
        config.Learner(packing=True, share_prefixes=True)

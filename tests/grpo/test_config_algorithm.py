"""Tests for grpo/config_algorithm.py: settings that need others, or rule them out."""

import pytest
from pydantic import ValidationError
from random_batches import train_config

from cotree.grpo.config_algorithm import Advantage


def test_tree_advantages_need_rollout_trees():
    settings = {"advantage": {"tree": "vine"}}
    with pytest.raises(ValidationError, match=r'advantage\.tree = "vine" needs rollouts'):
        train_config(**settings)
    train = train_config(**settings, rollout={"type": "tree"})
    assert train.advantage.tree == "vine"


def test_leaves_of_a_tree_may_be_compared_as_rollouts():
    train = train_config(rollout={"type": "tree"}, advantage={"baseline": "leave_one_out"})
    assert train.advantage.tree == "leaf"


@pytest.mark.parametrize("setting", [{"baseline": "group_mean"}, {"scale": "none"}], ids=str)
def test_a_baseline_has_no_effect_on_tree_advantages(setting: dict[str, str]):
    with pytest.raises(ValidationError, match=r'no effect with advantage\.tree = "sibling"'):
        Advantage(tree="sibling", **setting)


@pytest.mark.parametrize(
    "settings", [{"loss": {"type": "gspo"}}, {"correction": {"type": "sequence_mask"}}], ids=str
)
def test_what_depends_on_whole_rollouts_cannot_share_prefixes(settings: dict[str, object]):
    train_config().check_shared_prefixes()
    with pytest.raises(ValueError, match="depends on whole rollouts"):
        train_config(**settings).check_shared_prefixes()

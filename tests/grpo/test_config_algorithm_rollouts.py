"""Tests for the rollouts of grpo/config_algorithm.py: one by one, or as trees."""

import pytest
from pydantic import ValidationError

from cotree.grpo.config_algorithm import Optimizer, Rollouts, Train, TreeRollouts
from cotree.grpo.types import TreePlan


def train(**rollout: object) -> Train:
    return Train.model_validate(
        {"num_steps": 1, "optimizer": {"learning_rate": 1e-4}, "rollout": rollout}
    )


def test_rollouts_without_a_type_are_flat():
    assert train(group_size=3).rollout == train(type="flat", group_size=3).rollout
    assert train().rollout == Rollouts()
    assert Train(num_steps=1, optimizer=Optimizer(learning_rate=1e-4)).rollout == Rollouts()


@pytest.mark.parametrize(("chains", "points", "forks"), [(1, 1, 1), (4, 1, 3), (3, 2, 2)])
def test_the_group_of_a_tree_is_its_leaves(chains: int, points: int, forks: int):
    rollout = train(type="tree", chains=chains, points=points, forks=forks).rollout
    assert isinstance(rollout, TreeRollouts)
    assert rollout.group_size == chains * (1 + points * forks)
    assert rollout.group_size == TreePlan(chains, points, forks, rollout.branch).num_leaves


def test_a_tree_given_as_an_object_stays_what_it_is():
    rollout = TreeRollouts(type="tree", chains=2)
    made = Train(num_steps=1, optimizer=Optimizer(learning_rate=1e-4), rollout=rollout)
    assert made.rollout is rollout


@pytest.mark.parametrize(
    ("rollout", "says"),
    [
        ({"type": "tree", "group_size": 16}, r"it is chains \* \(1 \+ points \* forks\). Drop it"),
        ({"type": "tree", "forks": 0}, "greater than or equal to 1"),
        ({"type": "tree", "points": 7, "max_tokens": 8}, "lower points to 6 or less"),
        ({"type": "tree", "branch": "reward"}, "'entropy', 'uniform' or 'step'"),
        ({"type": "bush"}, "'flat', 'tree'"),
        ({"chains": 2}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(rollout: dict[str, object], says: str):
    with pytest.raises(ValidationError, match=says):
        train(**rollout)

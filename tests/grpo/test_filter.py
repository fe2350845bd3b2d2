"""Tests for grpo/filter.py."""

import pytest
from enumerable import group_of, rollout

from cotree.grpo.filter import informative, is_correct, shape_overlong, split_ungraded
from cotree.grpo.types import Rollout
from cotree.rewards.types import Failure, Reward, Ungraded


def ungraded(failure: Failure) -> Rollout:
    return Rollout(rollout(0.0).completion, Ungraded(failure, "why"))


def test_ungraded_rollouts_are_dropped_and_counted_never_zero():
    groups = [
        group_of("a", rollout(1.0), ungraded(Failure.TIMEOUT), rollout(0.0)),
        group_of("b", ungraded(Failure.CRASH), ungraded(Failure.TIMEOUT)),
    ]
    kept, dropped = split_ungraded(groups)
    assert [g.problem.id for g in kept] == ["a"]
    assert [r.reward.value for r in kept[0].rollouts] == [1.0, 0.0]
    assert dropped == {"timeout": 2, "crash": 1}


def test_a_group_below_the_smallest_size_is_dropped_and_its_rollouts_counted():
    groups = [group_of("a", rollout(1.0), ungraded(Failure.INVALID)), group_of("b", rollout(1.0))]
    kept, dropped = split_ungraded(groups, min_size=2)
    assert kept == []
    assert dropped == {"invalid": 1, "group_too_small": 2}
    kept, dropped = split_ungraded(groups)
    assert [len(g.rollouts) for g in kept] == [1, 1]
    assert dropped == {"invalid": 1}


def test_every_rollout_is_either_kept_or_counted():
    groups = [
        group_of(str(n), *[rollout(1.0)] * n, *[ungraded(Failure.CRASH)] * (4 - n))
        for n in range(5)
    ]
    for min_size in (1, 2, 4):
        kept, dropped = split_ungraded(groups, min_size=min_size)
        assert sum(len(g.rollouts) for g in kept) + sum(dropped.values()) == 20
        assert all(len(g.rollouts) >= min_size for g in kept)


def test_groups_of_equal_rewards_have_no_gradient():
    groups = [
        group_of("same", rollout(0.1 + 0.2), rollout(0.3)),  # equal but for rounding
        group_of("different", rollout(1.0), rollout(0.0)),
        group_of("zero", rollout(0.0), rollout(0.0)),
    ]
    kept, dropped = informative(groups, use_steps=False)
    assert [g.problem.id for g in kept] == ["different"]
    assert dropped == 2


def test_steps_make_a_group_informative_only_when_they_are_used():
    by_steps = group_of(
        "s", rollout(1.0, steps=((0, 1, 0.0), (1, 3, -1.0))), rollout(1.0, steps=((0, 3, 0.0),))
    )
    constant = group_of("c", rollout(1.0, steps=((0, 3, -1.0),)), rollout(1.0))
    assert informative([by_steps, constant], use_steps=False) == ([], 2)
    assert informative([by_steps, constant], use_steps=True) == ([by_steps], 1)


def test_ungraded_rollouts_are_refused_where_rewards_are_compared():
    with pytest.raises(ValueError, match=r"problem 'x' is ungraded \(crash\)"):
        informative([group_of("x", ungraded(Failure.CRASH))], use_steps=False)


@pytest.mark.parametrize(
    ("num_tokens", "shape"),
    # max 10, buffer 4: free up to 6 tokens, then -1/4 per token, -1 at the limit and beyond
    [(1, 0.0), (6, 0.0), (7, -0.25), (8, -0.5), (10, -1.0), (12, -1.0)],
)
def test_overlong_follows_eq_13(num_tokens, shape):
    group = group_of("a", rollout(1.0, text="x" * num_tokens))
    (shaped,) = shape_overlong([group], max_tokens=10, buffer_tokens=4, penalty=2.0)
    reward = shaped.rollouts[0].reward
    assert reward.value == 1.0 + 2.0 * shape
    assert reward.breakdown == {"answer": 1.0, "overlong": shape}
    assert group.rollouts[0].reward.breakdown == {"answer": 1.0}  # the original is untouched


def test_overlong_leaves_ungraded_alone_and_refuses_what_it_cannot_do():
    lost = group_of("a", ungraded(Failure.CRASH))
    assert shape_overlong([lost], max_tokens=10, buffer_tokens=4, penalty=1.0) == [lost]
    with pytest.raises(ValueError, match=r"buffer_tokens = 10 must lie in 1\.\.9"):
        shape_overlong([], max_tokens=10, buffer_tokens=10, penalty=1.0)
    named = Rollout(rollout(0.0).completion, Reward(0.0, "", {"overlong": 0.0}))
    with pytest.raises(ValueError, match="already called"):
        shape_overlong([group_of("a", named)], max_tokens=10, buffer_tokens=4, penalty=1.0)


@pytest.mark.parametrize(("value", "correct"), [(1.0, True), (1.5, True), (0.99, False)])
def test_the_first_reward_decides_what_is_correct(value: float, correct: bool):
    several = Reward(9.0, "", {"answer": value, "format": 1.0})
    assert is_correct(several, first_term="answer") is correct

"""Tests for grpo/tree_advantage.py: by hand, by properties, and by simulated trees."""

import math
import random
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_world import RIGHT, STEP_TOKENS, ToyWorld

from cotree.grpo.advantage import outcome_advantages
from cotree.grpo.tree_advantage import node_values, tree_advantages
from cotree.grpo.types import Segment

ESTIMATORS = ("tree_grpo", "tree_rl", "vine", "sibling")

# Two chains of 4 tokens. The first branches after token 2 into its own rest and two forks.
#
#   prompt - 0 (2 tokens) - 1 (2 tokens)   reward 1
#          |              - 2 (3 tokens)   reward 0
#          |              - 3 (1 token)    reward 0
#          - 4 (4 tokens)                  reward 0
SEGMENTS = [
    (Segment(0, 2), Segment(1, 4)),
    (Segment(0, 2), Segment(2, 5)),
    (Segment(0, 2), Segment(3, 3)),
    (Segment(4, 4),),
]
LENGTHS = [4, 5, 3, 4]
REWARDS = [1.0, 0.0, 0.0, 0.0]


def of_nodes(rewards, segments, lengths, estimator):
    """A(n) of every node, read off the tokens; nodes of a rollout alone are not listed."""
    advantages = tree_advantages(rewards, segments, lengths, estimator=estimator)
    found = {}
    for values, path in zip(advantages, segments, strict=True):
        start = 0
        for node, end in path:
            assert len(set(values[start:end].tolist())) <= 1
            for value in values[start:end].tolist():
                assert found.setdefault(node, value) == value
            start = end
    return found


# --- by hand ---------------------------------------------------------------------------------


def test_vine_is_the_value_gained_by_a_node():
    # V(prompt) = 1/4, V(0) = 1/3, V(1) = 1, V(2) = V(3) = V(4) = 0.
    assert of_nodes(REWARDS, SEGMENTS, LENGTHS, "vine") == pytest.approx(
        {0: 1 / 12, 1: 2 / 3, 2: -1 / 3, 3: -1 / 3, 4: -1 / 4}
    )


def test_siblings_are_compared_with_the_mean_of_the_others():
    # Below the prompt: 0 against 4. Below 0: 1 against (0 + 0) / 2; 2 and 3 against (1 + 0) / 2.
    assert of_nodes(REWARDS, SEGMENTS, LENGTHS, "sibling") == pytest.approx(
        {0: 1 / 3, 1: 1.0, 2: -1 / 2, 3: -1 / 2, 4: -1 / 3}
    )


def test_tree_rl_adds_the_global_and_the_local_gain_and_divides_by_the_root_of_the_leaves():
    # Less the mean of the other three: 1 -> 1, 0 -> -1/3. V(prompt) = 0, V(0) = (1 - 2/3) / 3 =
    # 1/9, V(1) = 1, the others -1/3. A(0) = (1/9 + 1/9) / sqrt 3; A(1) = 1 + 8/9;
    # A(2) = A(3) = -1/3 - 4/9; A(4) = -1/3 - 1/3.
    assert of_nodes(REWARDS, SEGMENTS, LENGTHS, "tree_rl") == pytest.approx(
        {0: 2 / 9 / math.sqrt(3), 1: 17 / 9, 2: -7 / 9, 3: -7 / 9, 4: -2 / 3}
    )


def test_tree_grpo_adds_two_z_scores_and_does_not_compose_them():
    # Trees (1, 1, 1) and (1, 0, 0). Over the prompt mean 2/3 and std sqrt(2)/3: z(1) = 1/sqrt 2
    # and z(0) = -sqrt 2. Within the first tree all are equal, 0; within the second mean 1/3 and
    # std sqrt(2)/3: sqrt 2 and -1/sqrt 2. (With the sample's std, which divides by n - 1, the
    # first tree's sum is sqrt(5/12) = 0.645 instead of 0.707.)
    rewards, trees = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0], (0, 0, 0, 1, 1, 1)
    segments = [(Segment(tree, 1), Segment(2 + leaf, 2)) for leaf, tree in enumerate(trees)]
    root2 = math.sqrt(2)
    added = [row[0].item() for row in by_tree_grpo(rewards, segments)]
    assert added == pytest.approx([1 / root2] * 3 + [1 / root2 + root2] + [-root2 - 1 / root2] * 2)
    # Composed, the z-scores within trees have mean 0, so the tree that got everything right is
    # taught nothing.
    within = outcome_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor(trees),
        baseline="group_mean",
        scale="group_std",
    )
    composed = outcome_advantages(within, torch.zeros(6), baseline="group_mean", scale="group_std")
    assert composed[:3].tolist() == pytest.approx([0.0] * 3, abs=1e-12)


def by_tree_grpo(rewards, segments):
    return tree_advantages(rewards, segments, [2] * len(rewards), estimator="tree_grpo")


def test_rollouts_alone_are_trees_of_their_own():
    # Without trees: vine is r - mean, sibling the leave-one-out baseline, tree_rl twice that, and
    # tree_grpo the z-score, for one leaf has no spread.
    rewards, alone = [1.0, 0.0, 0.0], [()] * 3
    expected = {
        "vine": [2 / 3, -1 / 3, -1 / 3],
        "sibling": [1.0, -1 / 2, -1 / 2],
        "tree_rl": [2.0, -1.0, -1.0],
        "tree_grpo": [math.sqrt(2), -1 / math.sqrt(2), -1 / math.sqrt(2)],
    }
    for estimator, values in expected.items():
        advantages = tree_advantages(rewards, alone, [2, 1, 3], estimator=estimator)
        assert [len(row) for row in advantages] == [2, 1, 3]
        assert [row[0].item() for row in advantages] == pytest.approx(values)


def test_a_leaf_that_was_dropped_counts_nowhere():
    # Without leaves 2 and 3, node 1 has no siblings and its value is its parent's.
    left = [0, 3]
    rewards, segments = [REWARDS[i] for i in left], [SEGMENTS[i] for i in left]
    assert of_nodes(rewards, segments, [4, 4], "sibling") == {0: 1.0, 1: 0.0, 4: -1.0}
    assert of_nodes(rewards, segments, [4, 4], "vine") == {0: 0.5, 1: 0.0, 4: -0.5}
    assert node_values(rewards, segments) == {0: 1.0, 1: 1.0, 4: 0.0}


def test_one_leaf_has_nothing_to_be_compared_with():
    for estimator in ESTIMATORS:
        (values,) = tree_advantages([0.7], [(Segment(3, 2),)], [2], estimator=estimator)
        assert values.tolist() == [0.0, 0.0]


def test_an_empty_completion_has_no_advantages():
    for estimator in ESTIMATORS:
        empty, _ = tree_advantages([1.0, 0.0], [(), ()], [0, 2], estimator=estimator)
        assert empty.tolist() == []


def test_what_is_no_tree_is_refused():
    def advantages(segments, lengths, rewards=(1.0, 0.0)):
        return tree_advantages(rewards, segments, lengths, estimator="vine")

    with pytest.raises(ValueError, match=r"a completion of 4 tokens end at \[2, 3\]"):
        advantages([(Segment(0, 2), Segment(1, 3)), ()], [4, 1])
    with pytest.raises(ValueError, match="must rise to 3"):
        advantages([(Segment(0, 4), Segment(1, 3)), ()], [3, 1])
    with pytest.raises(ValueError, match="node 1 follows node 0 and ends at token 3"):
        advantages([(Segment(0, 2), Segment(1, 3)), (Segment(1, 3),)], [3, 3])
    with pytest.raises(ValueError, match="node 0 follows node None and ends at token 2"):
        advantages([(Segment(0, 2),), (Segment(0, 3),)], [2, 3])
    with pytest.raises(ValueError, match="rewards must be finite"):
        advantages([(), ()], [1, 1], rewards=(1.0, math.nan))


# --- properties ------------------------------------------------------------------------------


@st.composite
def trees(draw):
    """Leaves of a random tree, some of them dropped, some rollouts alone."""
    paths, nodes, stack = [], 0, [()]
    while stack:
        path = stack.pop()
        start = path[-1].end if path else 0
        for _ in range(draw(st.integers(1, 3))):
            child = (*path, Segment(nodes, start + draw(st.integers(1, 3))))
            nodes += 1
            if len(child) < 3 and draw(st.booleans()):
                stack.append(child)
            else:
                paths.append(child)
    kept = [path for path in paths if draw(st.integers(0, 3))] or paths[:1]
    kept += [()] * draw(st.integers(0, 2))
    lengths = [path[-1].end if path else draw(st.integers(1, 4)) for path in kept]
    return kept, lengths


def rewards_for(count):
    return st.lists(st.floats(-2, 2, width=16), min_size=count, max_size=count)


@settings(max_examples=100)
@given(data=st.data(), tree=trees())
def test_sibling_advantages_sum_to_zero(data, tree):
    segments, lengths = tree
    rewards = data.draw(rewards_for(len(segments)))
    children: dict[object, dict[object, float]] = {}
    advantages = tree_advantages(rewards, segments, lengths, estimator="sibling")
    for leaf, (values, path) in enumerate(zip(advantages, segments, strict=True)):
        parent, start = None, 0
        for node, end in path or ((f"alone {leaf}", lengths[leaf]),):
            children.setdefault(parent, {})[node] = values[start].item()
            parent, start = node, end
    for siblings in children.values():
        assert sum(siblings.values()) == pytest.approx(0.0, abs=1e-9)


@settings(max_examples=100)
@given(data=st.data(), tree=trees())
def test_vine_telescopes_to_the_outcome_less_the_mean(data, tree):
    segments, lengths = tree
    rewards = data.draw(rewards_for(len(segments)))
    mean = math.fsum(rewards) / len(rewards)
    advantages = tree_advantages(rewards, segments, lengths, estimator="vine")
    for reward, values, path, length in zip(rewards, advantages, segments, lengths, strict=True):
        ends = [end for _, end in path] or [length]
        assert sum(values[end - 1].item() for end in ends) == pytest.approx(reward - mean, abs=1e-9)


@settings(max_examples=100)
@given(data=st.data(), tree=trees(), shift=st.floats(-3, 3, width=16))
def test_neither_the_order_of_leaves_nor_a_constant_in_the_reward_matters(data, tree, shift):
    segments, lengths = tree
    rewards = data.draw(rewards_for(len(segments)))
    order = data.draw(st.permutations(range(len(rewards))))
    for estimator in ESTIMATORS:
        advantages = tree_advantages(rewards, segments, lengths, estimator=estimator)
        moved = tree_advantages(
            [rewards[i] + shift for i in order],
            [segments[i] for i in order],
            [lengths[i] for i in order],
            estimator=estimator,
        )
        if estimator == "tree_grpo" and statistics.pstdev(rewards) < 1e-3:
            continue  # scaling by almost nothing magnifies the shift's rounding
        for place, leaf in enumerate(order):
            torch.testing.assert_close(moved[place], advantages[leaf], atol=1e-6, rtol=1e-6)


@settings(max_examples=50)
@given(tree=trees(), reward=st.sampled_from([0.0, 1.0, 0.1, 1 / 3, 1e9 + 0.1]))
def test_equal_rewards_give_exactly_zero(tree, reward):
    segments, lengths = tree
    for estimator in ESTIMATORS:
        for values in tree_advantages(
            [reward] * len(lengths), segments, lengths, estimator=estimator
        ):
            assert not values.any()


# --- values of simulated trees ---------------------------------------------------------------

WORLD = ToyWorld(depth=4)
QUESTION = WORLD.question(0)


class GrownTree:
    """Chains of the toy world, and forks of them after their first step."""

    def __init__(self, seed: int, chains: int) -> None:
        self.seed, self.rewards, self.segments = seed, [], []
        self.stems = []
        for chain in range(chains):
            tokens = self._sampled(())
            self.stems.append(tokens[:STEP_TOKENS])
            self._grow(chain, tokens)

    def fork(self, chain: int) -> None:
        self._grow(chain, (*self.stems[chain], *self._sampled(self.stems[chain])))

    def _sampled(self, prefix):
        key = (self.seed, len(self.rewards))
        return WORLD.tokens_after(QUESTION, prefix, key, self.seed, one=False)

    def _grow(self, chain: int, tokens) -> None:
        node = 100 + len(self.rewards)
        self.segments.append((Segment(chain, STEP_TOKENS), Segment(node, len(tokens))))
        self.rewards.append(float(RIGHT in tokens))

    def errors(self) -> tuple[float, float]:
        """Estimate less V*: of the prompt, and the mean over the stems."""
        values = node_values(self.rewards, self.segments)
        stems = [
            values[chain] - WORLD.value(QUESTION, stem) for chain, stem in enumerate(self.stems)
        ]
        return (
            statistics.fmean(self.rewards) - WORLD.value(QUESTION, ()),
            statistics.fmean(stems),
        )


def errors_in_standard_errors(trees):
    """Mean errors of the prompt's and the stems' values over their standard errors."""
    return [
        statistics.fmean(errors) / (statistics.stdev(errors) / math.sqrt(len(errors)))
        for errors in zip(*(tree.errors() for tree in trees), strict=True)
    ]


def test_values_are_unbiased_where_no_outcome_chose_the_forks():
    trees = []
    for seed in range(1500):
        tree, rng = GrownTree(seed, chains=4), random.Random(seed)
        for _ in range(8):
            tree.fork(rng.randrange(4))
        trees.append(tree)
    for error in errors_in_standard_errors(trees):
        assert abs(error) < 3


def test_the_bias_of_a_search_that_follows_rewards_is_detected():
    # The same numbers of chains and forks, but each fork goes to the chain with the largest
    # Q + c sqrt(N) / (1 + n), as PUCT would: right leaves breed more leaves.
    trees = []
    for seed in range(1500):
        tree = GrownTree(seed, chains=4)
        for _ in range(8):
            values = node_values(tree.rewards, tree.segments)
            visits = [sum(path[0].node == c for path in tree.segments) for c in range(4)]
            bonus = 0.5 * math.sqrt(len(tree.rewards))
            tree.fork(max(range(4), key=lambda c: values[c] + bonus / (1 + visits[c])))
        trees.append(tree)
    prompt, stems = errors_in_standard_errors(trees)
    assert prompt > 10  # too many leaves are right
    assert stems < -3  # a chain is left for good after bad luck, so bad luck stays in the mean

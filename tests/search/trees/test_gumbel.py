"""Tests for search/trees/gumbel.py."""

from collections import Counter

from cotree.search.tree import Node
from cotree.search.trees.gumbel import HalvingRoot


def children(values: list[float], counts: list[int] | None = None) -> list[Node]:
    """Children of a root: one visit each, of these values; ids and keys as in a tree."""
    counts = counts or [1] * len(values)
    return [
        Node(i + 1, 0, 1, (i,), None, count=counts[i], visits=1, value_sum=value)
        for i, value in enumerate(values)
    ]


def mean(node: Node) -> float:
    return node.value_sum / node.visits


def root(nodes: list[Node], num_simulations: int, seed: int = 0) -> HalvingRoot:
    return HalvingRoot(nodes, nodes, num_simulations=num_simulations, value=mean, seed=seed)


def test_candidates_have_the_visits_of_the_schedule():
    # 4 candidates, 4 + 12 simulations: 2 each of which one is spent, then 4 each for two.
    nodes = children([0.0, 0.0, 1.0, 1.0])
    halving, turns = root(nodes, 12), list[int]()
    while (turn := halving.next_turn(is_waiting=False)) is not None:
        turn.visits += 1
        turn.value_sum += mean(turn)
        turns.append(turn.id)
    assert sorted(turns[:4]) == [1, 2, 3, 4]
    assert len(turns) == 12
    # sigma of values 1 apart is 5.2 nats; this noise does not make up for it.
    assert Counter(turns[4:]) == {3: 4, 4: 4}
    assert {node.id for node in halving.ranked()} == {3, 4}


def test_a_phase_needs_no_replies_and_the_next_needs_them_all():
    halving = root(children([0.0, 0.0, 1.0, 1.0]), 12)
    assert halving.next_turn(is_waiting=True) is None
    first = [halving.next_turn(is_waiting=False)]
    first += [halving.next_turn(is_waiting=True) for _ in range(3)]
    assert None not in first
    assert halving.next_turn(is_waiting=True) is None
    assert halving.next_turn(is_waiting=False) is not None


def test_simulations_that_drew_the_candidates_may_be_all_there_are():
    assert root(children([0.0, 1.0]), 0).next_turn(is_waiting=False) is None
    # Five candidates, six simulations: one each is spent already, and two go on with the sixth.
    halving = root(children([0.0, 0.0, 0.0, 0.0, 1.0]), 1)
    turn = halving.next_turn(is_waiting=False)
    assert turn is not None
    assert turn.id == 5
    assert halving.next_turn(is_waiting=False) is None


def test_a_candidate_that_was_drawn_more_often_is_ranked_higher():
    # ln 50 = 3.9 nats between equal values; over seeds the noise beats it once in 51 times.
    ahead = sum(
        root(children([0.5, 0.5], [50, 1]), 4, seed).ranked()[0].id == 1 for seed in range(200)
    )
    assert 190 <= ahead < 200


def test_ranks_depend_on_the_seed_and_the_keys_and_not_on_the_order_of_arrival():
    nodes = children([0.5] * 6)
    orders = {tuple(node.id for node in root(nodes, 10, seed).ranked()) for seed in range(10)}
    assert len(orders) > 5
    assert root(nodes[::-1], 10).ranked() == root(nodes, 10).ranked()

"""Tests for rewards/equality/walk.py."""

from cotree.rewards.equality.nodes import Negation, Symbol
from cotree.rewards.equality.parser import parse
from cotree.rewards.equality.walk import children, symbols, walk, within


def test_children_come_from_left_to_right_and_through_rows():
    tree = parse(r"\begin{pmatrix}a&b\\c&d\end{pmatrix}")
    assert children(tree) == [Symbol(name) for name in "abcd"]


def test_depth_and_number_of_nodes():
    # Sum (1), x and Product (2), 2 and y (3)
    assert sorted(depth for _, depth in walk(parse("x+2y"))) == [1, 2, 2, 3, 3]
    assert within(parse("x+2y"), max_nodes=5, max_depth=3)
    assert not within(parse("x+2y"), max_nodes=4, max_depth=3)
    assert not within(parse("x+2y"), max_nodes=5, max_depth=2)


def test_a_bound_variable_is_free_where_it_is_not_bound():
    assert symbols(parse(r"\sum_{k=1}^{n}k")) == {"n"}
    assert symbols(parse(r"k+\sum_{k=1}^{n}k")) == {"n", "k"}


def test_a_deep_tree_is_walked():
    node = Symbol("x")
    for _ in range(5_000):
        node = Negation(node)
    assert symbols(node) == {"x"}
    assert not within(node, max_nodes=10_000, max_depth=100)

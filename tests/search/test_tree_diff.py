"""Tests for search/tree_diff.py: trees are compared by what was generated, not by when."""

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_diff import Difference, tree_diff
from cotree.search.types import Step, StepEnd


def step(token: int, text: str = "", end: StepEnd = "boundary") -> Step:
    return Step((token,), (-0.1,), text or f"step {token}\n", end)


def tree_of(*paths: tuple[int, ...]) -> Tree:
    """Paths of tokens, one a step."""
    tree = Tree()
    for number, path in enumerate(paths):
        at = ROOT
        for place, token in enumerate(path):
            at = tree.add(at, step(token), (number, place))
    return tree


def lines(a: Tree, b: Tree) -> list[str]:
    return [str(found) for found in tree_diff(a, b)]


def test_a_tree_does_not_differ_from_itself():
    tree = tree_of((1, 2), (1, 3), (4,))
    assert tree_diff(tree, tree) == []
    assert tree_diff(Tree(), Tree()) == []


def test_ids_do_not_matter():
    assert tree_diff(tree_of((1,), (2, 3)), tree_of((2, 3), (1,))) == []


def test_every_field_that_is_compared_is_found():
    a, b = tree_of((1, 2)), tree_of((1, 2))
    node = b[2]
    node.visits, node.value_sum, node.score, node.answer = 4, 2.5, 0.5, "7"
    node.count = 2
    node.step = Step((2,), (-0.1,), "step 2\n", "boundary", Verdict.REFUTED)
    found = tree_diff(a, b)
    assert {one.name: (one.a, one.b) for one in found} == {
        "visits": (0, 4),
        "value_sum": (0.0, 2.5),
        "count": (1, 2),
        "score": (None, 0.5),
        "verdict": ("unchecked", "refuted"),
        "answer": (None, "7"),
    }
    assert {(one.path, one.node_a, one.node_b) for one in found} == {(((1,), (2,)), 2, 2)}


def test_of_a_subtree_that_one_lacks_the_first_node_is_named():
    a, b = tree_of((1, 2), (1, 3, 5), (4,)), tree_of((1, 2), (6,))
    # a: 1 -> 2, 1 -> 3 -> 5, 4.   b: 1 -> 2, 6.
    found = [one for one in tree_diff(b, a) if one.name != "count"]
    assert found == [
        Difference(((6,),), "step 6\n", 3, None, "nodes", 1, 0),
        Difference(((4,),), "step 4\n", None, 5, "nodes", 0, 1),
        Difference(((1,), (3,)), "step 3\n", None, 3, "nodes", 0, 2),
    ]


def test_the_first_difference_comes_first():
    a, b = tree_of((1, 2, 3), (4, 5)), tree_of((1, 2, 3), (4, 6))
    b[3].visits = b[1].visits = b[ROOT].visits = 1
    # Depth 0, 1, 2 (5 and 6), 3.
    assert [(len(one.path), one.name) for one in tree_diff(a, b)] == [
        (0, "visits"),
        (1, "visits"),
        (2, "nodes"),
        (2, "nodes"),
        (3, "visits"),
    ]


def test_both_directions_find_the_same():
    a, b = tree_of((1, 2), (3,)), tree_of((1, 4), (3,), (3,))
    there = {(one.path, one.name, one.a, one.b) for one in tree_diff(a, b)}
    back = {(one.path, one.name, one.b, one.a) for one in tree_diff(b, a)}
    assert there == back
    assert len(there) == 3  # 2, 4, and how often 3 was drawn


def test_steps_with_equal_tokens_that_end_differently_are_different_nodes():
    a, b = Tree(), Tree()
    a.add(ROOT, step(1, end="stop"), (0,))
    b.add(ROOT, step(1, end="length"), (0,))
    assert [one.name for one in tree_diff(a, b)] == ["nodes", "nodes"]


def test_a_revision_is_not_a_continuation():
    a, b = Tree(), Tree()
    a.add(ROOT, step(1), (0,))
    b.add(ROOT, step(1), (0,), restarts=True)
    assert len(tree_diff(a, b)) == 2


def test_differences_are_lines_to_read():
    a, b = tree_of((1, 2), (3,)), tree_of((1,), (3,))
    a[ROOT].visits, a[1].answer = 2, "7"
    assert lines(a, b) == [
        "root: visits 2 in a, 0 in b",
        "depth 1, node 1/1, 'step 1\\n': answer '7' in a, None in b",
        "depth 2, node 2, 'step 2\\n': only in a",
    ]
    assert lines(tree_of((1, 2, 3)), Tree()) == [
        "depth 1, node 1, 'step 1\\n': only in a, with all that follows it: 3 nodes"
    ]


def test_what_a_model_wrote_cannot_move_the_cursor():
    tree = Tree()
    tree.add(ROOT, step(1, "\x1b[2J\r\n\u202e" + "x" * 100), (0,))
    (line,) = lines(tree, Tree())
    assert line.isprintable()
    assert "..." in line
    assert len(line) < 120

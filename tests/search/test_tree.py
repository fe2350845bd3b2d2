"""Tests for search/tree.py: nothing that was generated is lost or counted twice."""

from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Tree
from cotree.search.types import Job, Reply, Step


def step(*tokens: int, end: str = "boundary", verdict: Verdict = Verdict.UNCHECKED) -> Step:
    return Step(tokens, (-1.0,) * len(tokens), "".join(map(chr, tokens)), end, verdict)


def grown(tree: Tree, node: int, *steps: Step, kind: str = "rollout", score: float = 1.0) -> int:
    job = Job(0, node, tree[node].draws, kind)
    tree[node].draws += 1
    return tree.grow(job, Reply(0, steps, "7" if steps[-1].end == "stop" else None, score))[-1]


@given(
    st.lists(
        st.tuples(st.integers(0, 10), st.lists(st.integers(97, 98), min_size=1, max_size=3)),
        max_size=30,
    )
)
def test_every_drawn_token_is_in_the_tree_once_a_draw(draws: list[tuple[int, list[int]]]):
    tree, generated = Tree(), 0
    for at, tokens in draws:
        parent = at % len(tree)
        generated += len(tokens)
        grown(tree, parent, *[step(token) for token in tokens])
    assert tree.num_tokens == generated
    for node in tree.nodes[1:]:
        assert node.parent < node.id
        assert node.id in tree[node.parent].children
        assert tree.path(node.id)[-2] == node.parent
        siblings = [one.step for one in tree.children(node.parent)]
        assert len({one.token_ids for one in siblings if one}) == len(siblings)


def test_equal_steps_are_one_node_drawn_twice():
    tree = Tree()
    first = grown(tree, ROOT, step(97), step(98, end="stop"))
    second = grown(tree, ROOT, step(97), step(99, end="stop"))
    assert (tree[first].parent, tree[first].depth) == (tree[second].parent, 2)
    assert [tree[first].count, tree[tree[first].parent].count] == [1, 2]
    # The first draw's key: (draw 0, place 0); the second leaf was draw 1, place 1.
    assert tree[tree[first].parent].key == (0, 0)
    assert tree[second].key == (1, 1)


def test_a_step_that_ended_otherwise_is_another_one():
    tree = Tree()
    assert grown(tree, ROOT, step(97)) != grown(tree, ROOT, step(97, end="stop"))


def test_texts_and_tokens_are_those_of_the_completion():
    tree = Tree()
    leaf = grown(tree, ROOT, step(97, 98), step(99, end="stop"))
    assert tree.text(leaf) == "abc"
    assert tree.token_ids(leaf) == (97, 98, 99)
    assert tree.text(ROOT) == ""
    assert (tree[leaf].answer, tree[leaf].score) == ("7", 1.0)


def test_a_revision_begins_anew_and_clears_a_refutation():
    tree = Tree()
    wrong = grown(tree, ROOT, step(97, verdict=Verdict.REFUTED), step(98, end="stop"))
    assert tree[wrong].is_refuted
    better = grown(tree, wrong, step(99), step(100, end="stop"), kind="revise")
    assert tree.text(better) == "cd"
    assert not tree[better].is_refuted
    assert tree[tree[better].parent].restarts
    assert not tree[better].restarts


def test_what_follows_a_refuted_step_is_refuted():
    tree = Tree()
    leaf = grown(tree, ROOT, step(97), step(98, verdict=Verdict.REFUTED), step(99, end="stop"))
    assert [tree[node].is_refuted for node in tree.path(leaf)] == [False, False, True, True]


def test_only_ends_of_completions_are_leaves():
    tree = Tree()
    finished = grown(tree, ROOT, step(97), step(98, end="stop"))
    cut = grown(tree, ROOT, step(99, end="length"), score=0.0)
    grown(tree, ROOT, step(100))
    assert [node.id for node in tree.leaves()] == [finished, cut]
    assert [node.is_finished for node in tree.leaves()] == [True, False]
    assert tree[ROOT].is_open

"""Tests for search/tree_json.py: what was saved is what is read, and nothing else is read."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_diff import tree_diff
from cotree.search.tree_json import (
    Choice,
    SearchRecord,
    record_from_json,
    record_json,
    tree_digest,
    tree_from_json,
    tree_json,
)
from cotree.search.types import Job, Reply, Step

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TOKENS = st.lists(st.integers(0, 3), max_size=3).map(tuple)


@st.composite
def steps(draw: st.DrawFn, end: st.SearchStrategy[str]) -> Step:
    tokens = draw(TOKENS)
    return Step(
        tokens,
        tuple(draw(FLOATS) for _ in tokens),
        draw(st.text(max_size=5)),
        draw(end),
        draw(st.sampled_from(Verdict)),
        draw(st.text(max_size=5)),
    )


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """Trees as strategies grow them, with any statistics."""
    tree = Tree()
    for number in range(draw(st.integers(0, 6))):
        node = draw(st.integers(0, len(tree) - 1))
        kind = draw(st.sampled_from(["step", "rollout", "revise"]))
        inner = draw(st.lists(steps(st.just("boundary")), max_size=2))
        last = draw(steps(st.sampled_from(["boundary", "stop", "length"])))
        answer = draw(st.none() | st.text(max_size=3))
        job = Job(number, node, tree[node].draws, kind)
        tree[node].draws += 1
        tree.grow(job, Reply(number, (*inner, last), answer, draw(FLOATS)))
    for node in tree.nodes:
        node.visits = draw(st.integers(0, 9))
        node.value_sum = draw(FLOATS)
        node.prior = draw(st.none() | FLOATS)
    return tree


def through_a_file(saved: dict) -> dict:
    return json.loads(json.dumps(saved, allow_nan=False))


def step(*tokens: int, end: str = "boundary", verdict: Verdict = Verdict.UNCHECKED) -> Step:
    return Step(tokens, (-0.1,) * len(tokens), f"{tokens}\n", end, verdict)


def grown() -> Tree:
    """A step, a second one that is refuted, and below it a finished completion; and a revision."""
    tree = Tree()
    one, other = step(1), step(2, verdict=Verdict.REFUTED)
    tree.grow(Job(0, ROOT, 0, "rollout"), Reply(0, (one, other, step(3, end="stop")), "7", 0.25))
    tree.grow(Job(1, 3, 0, "revise"), Reply(1, (step(5, end="length"),), None, 0.1))
    return tree


def finished(tree: Tree | None = None) -> SearchRecord:
    return SearchRecord(
        search=3,
        problem_id="toy/3",
        question="How many?",
        seed=11,
        strategy="puct",
        tree=grown() if tree is None else tree,
        best=3,
        history=(Choice(0, None), Choice(3, 3), Choice(4, 3)),
        tokens={"spent": 4, "lost": 0},
    )


# --- round trips


@given(trees())
def test_a_tree_that_was_saved_and_read_is_the_same(tree: Tree):
    read = tree_from_json(through_a_file(tree_json(tree)))
    assert read.nodes == tree.nodes  # derived fields too: depth, children, is_refuted
    assert json.dumps(tree_json(read)) == json.dumps(tree_json(tree))
    assert tree_digest(read) == tree_digest(tree)


def test_a_tree_that_was_read_can_grow_on():
    tree, read = grown(), tree_from_json(tree_json(grown()))
    for one in (tree, read):
        one.grow(Job(2, ROOT, 1, "step"), Reply(2, (step(1),), None, 0.5))
        one.grow(Job(3, 1, 0, "step"), Reply(3, (step(9),), None, 0.5))
    assert read.nodes == tree.nodes
    assert read[1].count == 2


@pytest.mark.parametrize("value", [0.1, 1 / 3, 5e-324, -0.0, 1.7976931348623157e308])
def test_floats_are_exact(value: float):
    tree = grown()
    tree[1].value_sum = value
    read = tree_from_json(through_a_file(tree_json(tree)))
    assert read[1].value_sum.hex() == value.hex()


def test_a_record_that_was_saved_and_read_is_the_same():
    record = finished()
    read = record_from_json(through_a_file(record_json(record)))
    assert read.tree.nodes == record.tree.nodes
    assert replace(read, tree=record.tree) == record
    assert read.digest == record.digest == tree_digest(record.tree)


def test_a_record_is_one_line_whatever_a_model_wrote():
    tree = Tree()
    text = 'a\nb\u2028c\x00\ud83d"'  # a lone surrogate: half of a character
    tree.add(ROOT, Step((1,), (-0.5,), text, "stop"), (0, 0))
    line = json.dumps(record_json(replace(finished(tree), best=1, history=())))
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert record_from_json(json.loads(line)).tree.text(1) == text


def test_a_tree_with_work_under_way_is_not_saved():
    tree = grown()
    tree[2].inflight = 2
    with pytest.raises(ValueError, match="node 2 has 2 jobs under way"):
        tree_json(tree)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_number_that_is_none_is_not_saved(value: float):
    tree = grown()
    tree[3].score = value
    with pytest.raises(ValueError, match="node 3 has the number"):
        tree_json(tree)


# --- what is refused


def changed(change: Callable[[dict], object]) -> dict:
    saved = through_a_file(tree_json(grown()))
    change(saved)
    return saved


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(schema="cotree.tree/2"), r"^schema: 'cotree.tree/2' is not"),
        (lambda t: t.pop("schema"), r"^schema: None is not"),
        (lambda t: t.update(nodes=[]), r"^nodes: there is none"),
        (lambda t: t.update(nodes={}), r"^nodes: \{\} must be a list"),
        (lambda t: t["nodes"].pop(1), r"^nodes\[1\].id: 2 is not its place in the list, 1"),
        (lambda t: t["nodes"].reverse(), r"^nodes\[0\].id: 4 "),
        (lambda t: t["nodes"][0].update(parent=0), r"^nodes\[0\].parent: 0 must be -1"),
        (lambda t: t["nodes"][2].update(parent=2), r"^nodes\[2\].parent: 2 .* 0 to 1"),
        (lambda t: t["nodes"][2].update(parent=-1), r"^nodes\[2\].parent: -1 must be of a node"),
        (lambda t: t["nodes"][2].update(step=None), r"^nodes\[2\].step: the root has none"),
        (
            lambda t: t["nodes"][0].update(step=t["nodes"][1]["step"]),
            r"^nodes\[0\].step: the root has none",
        ),
        (lambda t: t["nodes"][2].pop("count"), r"^nodes\[2\]: fields missing: count; unknown: no"),
        (lambda t: t["nodes"][2].update(depth=1), r"^nodes\[2\]: .*unknown: depth"),
        (lambda t: t["nodes"][2].update(count=0), r"^nodes\[2\].count: 0 must be 1 or more"),
        (lambda t: t["nodes"][2].update(visits=-1), r"^nodes\[2\].visits: -1 must be 0"),
        (lambda t: t["nodes"][2].update(draws=1.0), r"^nodes\[2\].draws: 1.0 must be a whole"),
        (lambda t: t["nodes"][2].update(draws=True), r"^nodes\[2\].draws: True must be a whole"),
        (lambda t: t["nodes"][2].update(value_sum="1"), r"^nodes\[2\].value_sum: '1' must be a f"),
        (lambda t: t["nodes"][2].update(score=math.nan), r"^nodes\[2\].score: nan must be a fin"),
        (lambda t: t["nodes"][2].update(prior=10**400), r"^nodes\[2\].prior: 1000.*\.\.\. must"),
        (lambda t: t["nodes"][2].update(prior=False), r"^nodes\[2\].prior: False must"),
        (lambda t: t["nodes"][2].update(key=["0"]), r"^nodes\[2\].key\[0\]: '0' must be a whole"),
        (lambda t: t["nodes"][2].update(restarts=0), r"^nodes\[2\].restarts: 0 must be true or"),
        (lambda t: t["nodes"][2].update(answer=7), r"^nodes\[2\].answer: 7 must be a text"),
        (lambda t: t["nodes"].append([]), r"^nodes\[5\]: \[\] must be an object"),
        (
            lambda t: t["nodes"][2]["step"].update(token_ids=[1, 2]),
            r"^nodes\[2\].step.logprobs: 1 numbers for 2 tokens",
        ),
        (lambda t: t["nodes"][2]["step"].update(end="eos"), r"^nodes\[2\].step.end: 'eos' must"),
        (lambda t: t["nodes"][2]["step"].update(end=[]), r"^nodes\[2\].step.end: \[\] must"),
        (lambda t: t["nodes"][2]["step"].update(verdict=None), r"^nodes\[2\].step.verdict: None"),
        (lambda t: t["nodes"][2]["step"].update(reason=None), r"^nodes\[2\].step.reason: None"),
        (
            lambda t: t["nodes"].append(t["nodes"][1] | {"id": 5}),
            r"^nodes\[5\]: node 0 has a child with the same tokens",
        ),
    ],
)
def test_what_is_no_tree_is_refused_and_the_place_is_named(change: Callable, message: str):
    saved = changed(change)
    with pytest.raises(ValueError, match=message):
        tree_from_json(saved)


def test_whole_numbers_are_read_as_floats():
    # Other programs write 1.0 as 1.
    read = tree_from_json(changed(lambda t: t["nodes"][2].update(value_sum=3, score=1)))
    assert (read[2].value_sum, read[2].score) == (3.0, 1.0)
    assert isinstance(read[2].value_sum, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(schema="cotree.tree/1"), r"^schema: 'cotree.tree/1' is not"),
        (lambda r: r["tree"].update(schema="?"), r"^tree.schema: '\?' is not"),
        (lambda r: r["tree"]["nodes"][1].update(id=7), r"^tree.nodes\[1\].id: 7 "),
        (lambda r: r.update(best=5), r"^best: 5 is no node of the tree; it has 5"),
        (lambda r: r["history"][1].update(node=-1), r"^history\[1\].node: -1 must be 0"),
        (lambda r: r["history"][0].update(num_tokens=9), r"^history: num_tokens falls"),
        (lambda r: r["history"][0].pop("node"), r"^history\[0\]: fields missing: node"),
        (lambda r: r["tokens"].update(spent="4"), r"^tokens.spent: '4' must be a whole"),
        (lambda r: r.update(tokens=[]), r"^tokens: \[\] must be an object"),
        (lambda r: r.pop("question"), r"^the whole: fields missing: question"),
        (lambda r: r["tree"]["nodes"][2].update(visits=8), r"^digest: .* damaged"),
    ],
)
def test_what_is_no_record_is_refused_and_the_place_is_named(change: Callable, message: str):
    saved = through_a_file(record_json(finished()))
    change(saved)
    with pytest.raises(ValueError, match=message):
        record_from_json(saved)


# --- digests


def in_another_order(tree: Tree, rng: random.Random) -> Tree:
    """The same tree, with its nodes added in another order: parents first, siblings shuffled."""
    other, new_ids, ready = Tree(), {ROOT: ROOT}, list(tree[ROOT].children)
    while ready:
        node = tree[ready.pop(rng.randrange(len(ready)))]
        at = other.add(new_ids[node.parent], node.step, node.key, restarts=node.restarts)
        new_ids[node.id] = at
        ready += node.children
    for old, new in new_ids.items():
        for name in ("count", "draws", "visits", "value_sum", "prior", "score", "answer"):
            setattr(other[new], name, getattr(tree[old], name))
    return other


@given(trees(), st.randoms(use_true_random=False))
def test_the_order_in_which_nodes_were_added_is_not_in_the_digest(tree: Tree, rng: random.Random):
    other = in_another_order(tree, rng)
    assert tree_digest(other) == tree_digest(tree)
    assert tree_diff(tree, other) == []


@given(trees(), trees())
def test_digests_are_equal_exactly_when_nothing_differs(a: Tree, b: Tree):
    assert (tree_digest(a) == tree_digest(b)) == (not tree_diff(a, b))


@pytest.mark.parametrize("name", ["visits", "value_sum", "count", "score"])
def test_a_number_changes_the_digest(name: str):
    tree = grown()
    before = tree_digest(tree)
    setattr(tree[2], name, (getattr(tree[2], name) or 0) + 1)
    assert tree_digest(tree) != before


@pytest.mark.parametrize(
    "change",
    [
        {"token_ids": (8,)},
        {"end": "stop"},
        {"verdict": Verdict.VERIFIED},
    ],
)
def test_a_step_changes_the_digest(change: dict):
    tree = grown()
    before = tree_digest(tree)
    tree[2].step = replace(tree[2].step, **change)
    assert tree_digest(tree) != before


def test_an_answer_and_a_restart_change_the_digest():
    digests = {tree_digest(grown())}
    tree = grown()
    tree[3].answer = "8"
    digests.add(tree_digest(tree))
    tree[4].restarts = False
    digests.add(tree_digest(tree))
    assert len(digests) == 3


def test_reasons_are_not_in_the_digest():
    tree = grown()
    before = tree_digest(tree)
    tree[2].step = replace(tree[2].step, reason="1 + 1 is not 3", logprobs=(-0.2,))
    assert tree_digest(tree) == before


def test_a_sum_in_another_order_has_the_same_digest():
    a, b = grown(), grown()
    a[1].value_sum, b[1].value_sum = (0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3)
    assert a[1].value_sum != b[1].value_sum
    assert tree_digest(a) == tree_digest(b)


def test_the_digest_is_the_same_on_every_machine():
    # Regenerate only where the schema changes on purpose: saved records carry it.
    assert tree_digest(Tree()) == "7114aea40bba1febc72613591352eea6"
    assert tree_digest(grown()) == "28c24a0b0d0c1a7f03c395ac4d190d9b"


def test_a_deep_tree_is_saved_and_read():
    tree, at = Tree(), ROOT
    for depth in range(3000):
        at = tree.add(at, step(depth), (depth,))
    read = tree_from_json(through_a_file(tree_json(tree)))
    assert read[at].depth == 3000
    assert tree_digest(read) == tree_digest(tree)
    assert tree_diff(tree, read) == []

"""Tests for search/tree_dot.py, read back by a small parser and drawn by `dot` if there is one."""

import re
import shutil
import subprocess

import pytest
from toy_world import ToyWorld, reply_to

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Tree
from cotree.search.tree_dot import to_dot
from cotree.search.tree_strategy import Growing
from cotree.search.types import Job, Reply, Step

DOT = shutil.which("dot")
NASTY = 'a"];\nn0 -> n0 [label="\\N & </script>\n\x00\x1b \u202e end\\'

_ATTRIBUTE = r'[a-z]+="(?:[^"\\]|\\.)*"'
_ATTRIBUTES = rf"\[(?:{_ATTRIBUTE}(?:, {_ATTRIBUTE})*)?\]"
_LINE = re.compile(
    rf"  (?:(?P<kind>graph|node)|(?P<node>n\d+)|(?P<edge>n\d+ -> n\d+)) (?P<all>{_ATTRIBUTES});"
)


def parsed(source: str) -> dict[str, dict[str, str]]:
    """Attributes by node or edge; fails on what is not in the grammar of the lines above."""
    first, *lines, last, empty = source.split("\n")
    assert (first, last, empty) == ("digraph tree {", "}", "")
    found: dict[str, dict[str, str]] = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        assert match, line
        name = match["kind"] or match["node"] or match["edge"]
        assert name not in found
        pairs = re.findall(r'([a-z]+)="((?:[^"\\]|\\.)*)"', match["all"])
        found[name] = dict(pairs)
        assert len(found[name]) == len(pairs)
    return found


def step(text: str, end: str = "boundary", verdict: Verdict = Verdict.UNCHECKED) -> Step:
    return Step(tuple(text.encode()[:4]), (-0.1,) * len(text.encode()[:4]), text, end, verdict)


def grown() -> Tree:
    tree = Tree()
    good, bad = step("good\n", verdict=Verdict.VERIFIED), step("bad\n", verdict=Verdict.REFUTED)
    tree.grow(Job(0, ROOT, 0, "rollout"), Reply(0, (good, step("yes", "stop")), "7", 1.0))
    tree.grow(Job(1, ROOT, 1, "rollout"), Reply(1, (bad, step("no", "length")), None, 0.0))
    tree.grow(Job(2, 4, 0, "revise"), Reply(2, (step("anew", "stop"),), "8", 0.5))
    tree[1].visits, tree[1].value_sum, tree[1].prior, tree[1].count = 4, 3.0, 0.25, 3
    return tree


class Rollouts(Growing):
    """Whole completions from the root."""

    def _next(self) -> Job:
        return self._job(ROOT, "rollout")

    def _grown(self, job: Job, reply: Reply, grown: list[int]) -> None:
        for node in (ROOT, *grown):
            self.tree[node].visits += 1
            self.tree[node].value_sum += reply.score


def test_every_node_and_edge_is_there():
    found = parsed(to_dot(grown()))
    assert set(found) == {
        *("graph", "node", "n0", "n1", "n2", "n3", "n4", "n5"),
        *("n0 -> n1", "n1 -> n2", "n0 -> n3", "n3 -> n4", "n4 -> n5"),
    }


def test_labels_say_what_is_known():
    found = parsed(to_dot(grown()))
    assert found["n0"]["label"] == r"question\l#0  N 0\l"
    assert found["n1"]["label"] == r"✓ good\l#1  Q 0.75  N 4  P 0.25\l"
    assert found["n2"]["label"] == r"yes\l#2  N 0\lstop · answer 7\l"
    assert found["n3"]["label"] == r"✗ bad\l#3  N 0\l"
    assert found["n4"]["label"] == r"no\l#4  N 0\lcut\l"
    assert found["n0 -> n1"]["label"] == "×3"


def test_the_path_to_the_best_is_bold_and_nothing_else_is():
    found = parsed(to_dot(grown(), best=2))
    bold = {name for name, looks in found.items() if "penwidth" in looks}
    assert bold == {"n0", "n1", "n2", "n0 -> n1", "n1 -> n2"}
    assert not [looks for looks in parsed(to_dot(grown())).values() if "penwidth" in looks]


def test_refuted_steps_and_what_follows_are_red_but_not_a_revision():
    found = parsed(to_dot(grown()))
    red = {name for name, looks in found.items() if "color" in looks}
    assert red == {"n3", "n4", "n0 -> n3", "n3 -> n4"}
    assert found["n4 -> n5"] == {"style": "dashed"}


def test_what_a_model_wrote_stays_in_its_label():
    tree = Tree()
    tree.add(ROOT, step(NASTY), (0,))
    tree[1].answer = NASTY
    source = to_dot(tree, best=1)
    found = parsed(source)
    assert set(found) == {"graph", "node", "n0", "n1", "n0 -> n1"}
    # Undone, the escapes give the text again: line breaks apart, control characters replaced.
    label = re.sub(r"\\([\\\"])", r"\1", found["n1"]["label"].replace("&amp;", "&"))
    beginning = 'a"];\\ln0 -> n0 [label="\\N & </script>\\l\ufffd\ufffd \ufffd end\\\\l'
    assert label.startswith(beginning)
    assert source.replace("\n", "").isprintable()


def test_long_texts_are_shortened():
    tree = Tree()
    tree.add(ROOT, step("x" * 100 + "\n" + "y\n" * 10), (0,))
    label = parsed(to_dot(tree))["n1"]["label"]
    assert label == "x" * 31 + r"…\ly\ly\l…\l#1  N 0\l"


def test_an_empty_step_has_a_label():
    tree = Tree()
    tree.add(ROOT, Step((5,), (-0.1,), "", "stop"), (0,))
    assert parsed(to_dot(tree))["n1"]["label"] == r"\l#1  N 0\lstop\l"


def test_a_best_node_that_is_not_there_is_refused():
    for best in (6, -1):
        with pytest.raises(ValueError, match=f"node {best} is not in the tree; .* 0 to 5"):
            to_dot(grown(), best)


def test_a_searched_tree_can_be_read_back():
    world, strategy = ToyWorld(), Rollouts()
    for job in strategy.ask(20):
        strategy.tell(reply_to(world, world.question(1), strategy, job, seed=0))
    found = parsed(to_dot(strategy.tree, best=len(strategy.tree) - 1))
    assert len(found) == 2 + len(strategy.tree) + len(strategy.tree) - 1


@pytest.mark.skipif(not DOT, reason="no dot of Graphviz on the PATH to draw the tree with")
def test_graphviz_draws_it():
    tree = grown()
    tree.add(ROOT, step(NASTY), (0,))
    done = subprocess.run(
        [str(DOT), "-Tsvg"], input=to_dot(tree, best=2), capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count('class="node"') == len(tree)

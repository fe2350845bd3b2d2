"""What differs between two trees, such as those of two runs that should be the same."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from cotree.search.tree import ROOT, Node, Tree
from cotree.search.tree_json import branch, compared

_LONGEST_TEXT = 40
"""Characters of a step's text that are shown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two trees, a and b, do not agree on; `str` of it is a line to read."""

    path: tuple[tuple[int, ...], ...]
    """Token ids of the steps from the root to the node."""
    text: str
    """Of the node's step."""
    node_a: int | None
    """The node's id in a; None: a lacks it."""
    node_b: int | None
    name: str
    """Of the field that differs. `nodes`: one tree lacks the node and all that follow it."""
    a: float | str | None
    """What a has; of `nodes`, how many."""
    b: float | str | None

    def __str__(self) -> str:
        """A line without line breaks or control characters, whatever a model wrote."""
        ids = "/".join(str(one) for one in (self.node_a, self.node_b) if one is not None)
        if self.path:
            cut = len(self.text) > _LONGEST_TEXT
            text = repr(self.text[:_LONGEST_TEXT]) + ("..." if cut else "")
            place = f"depth {len(self.path)}, node {ids}, {text}"
        else:
            place = "root"
        if self.name != "nodes":
            return f"{place}: {self.name} {self.a!r} in a, {self.b!r} in b"
        owner, size = ("a", self.a) if self.node_b is None else ("b", self.b)
        below = "" if size == 1 else f", with all that follows it: {size} nodes"
        return f"{place}: only in {owner}{below}"


def tree_diff(a: Tree, b: Tree) -> list[Difference]:
    """The differences of two trees, those nearest to the root first; [] if they are equal.

    Nodes are matched by the tokens of the steps that lead to them (see `branch`), not by their ids:
    the order in which a tree grew makes no difference. What is compared is listed in `compared`. Of
    a subtree that only one of them has, the first node stands for all.
    """
    found: list[Difference] = []
    pairs: deque[tuple[Node, Node, tuple[tuple[int, ...], ...]]] = deque([(a[ROOT], b[ROOT], ())])
    sizes_a, sizes_b = _sizes(a), _sizes(b)
    while pairs:
        left, right, path = pairs.popleft()
        found += _of_fields(left, right, path)
        rights = {branch(child): child for child in b.children(right.id)}
        for child in a.children(left.id):
            below = (*path, branch(child)[0])
            twin = rights.pop(branch(child), None)
            if twin is None:
                found.append(
                    Difference(below, _text(child), child.id, None, "nodes", sizes_a[child.id], 0)
                )
            else:
                pairs.append((child, twin, below))
        found += [
            Difference(
                (*path, branch(child)[0]),
                _text(child),
                None,
                child.id,
                "nodes",
                0,
                sizes_b[child.id],
            )
            for child in rights.values()
        ]
    # A node's own fields are found after its parent's children: put it all in one order.
    return sorted(found, key=lambda one: len(one.path))


def _of_fields(a: Node, b: Node, path: tuple[tuple[int, ...], ...]) -> list[Difference]:
    here, there = compared(a), compared(b)
    return [
        Difference(path, _text(a), a.id, b.id, name, here[name], there[name])
        for name in here
        if here[name] != there[name]
    ]


def _text(node: Node) -> str:
    return node.step.text if node.step else ""


def _sizes(tree: Tree) -> list[int]:
    """Nodes of the subtree of each node, itself included."""
    sizes = [1] * len(tree)
    for node in reversed(tree.nodes[1:]):
        sizes[node.parent] += sizes[node.id]
    return sizes

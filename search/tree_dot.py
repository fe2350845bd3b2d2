"""A tree as Graphviz source: `dot -Tsvg tree.dot > tree.svg` draws it."""

from __future__ import annotations

from cotree.rewards.types import Verdict
from cotree.search.tree import Node, Tree

_LONGEST_LINE = 32
"""Characters of a line of a label."""
_MOST_LINES = 3
"""Of a step's text in a label."""
_REFUTED = 'color="#a8201a", fontcolor="#a8201a"'
_MARKS = {Verdict.VERIFIED: "✓ ", Verdict.REFUTED: "✗ ", Verdict.UNCHECKED: ""}
_ENDS = {"boundary": "", "stop": "stop", "length": "cut"}


def to_dot(tree: Tree, best: int | None = None) -> str:
    """Graphviz source of a tree: a box a node, with the beginning of its text and its statistics.

    Refuted steps and all that follow them are red; refuted steps have a cross as well. The path to
    `best` is bold. A dashed edge leads to a revision, which does not continue its parent's text.

    Args:
        tree: any; hundreds of nodes are still readable.
        best: the node whose path is marked.

    Raises:
        ValueError: `best` is no node of the tree.
    """
    if best is not None and not 0 <= best < len(tree):
        raise ValueError(f"node {best} is not in the tree; its nodes are 0 to {len(tree) - 1}.")
    on_path: set[int] = set() if best is None else set(tree.path(best))
    lines = [
        "digraph tree {",
        '  graph [rankdir="TB", bgcolor="white"];',
        '  node [shape="box", fontname="monospace", fontsize="10", style="rounded"];',
    ]
    for node in tree.nodes:
        looks = [f'label="{_label(node)}"']
        if node.is_refuted:
            looks.append(_REFUTED)
        if node.id in on_path:
            looks.append('penwidth="3", style="rounded,bold"')
        lines.append(f"  n{node.id} [{', '.join(looks)}];")
    for node in tree.nodes[1:]:
        looks = [f'label="×{node.count}"'] if node.count > 1 else []
        if node.restarts:
            looks.append('style="dashed"')
        if node.is_refuted:
            looks.append(_REFUTED)
        if node.id in on_path:
            looks.append('penwidth="3"')
        lines.append(f"  n{node.parent} -> n{node.id} [{', '.join(looks)}];")
    return "\n".join([*lines, "}", ""])


def _label(node: Node) -> str:
    if node.step is None:
        lines = ["question"]
    else:
        lines = _shortened(node.step.text)
        lines[0] = _MARKS[node.step.verdict] + lines[0]
    value = "" if node.value is None else f"Q {node.value:.2f}  "
    prior = "" if node.prior is None else f"  P {node.prior:.2f}"
    lines.append(f"#{node.id}  {value}N {node.visits}{prior}")
    ends = [_ENDS[node.step.end]] if node.step else []
    if node.answer is not None:
        ends.append(f"answer {_shortened(node.answer)[0]}")
    lines += [" · ".join(filter(None, ends))] if any(ends) else []
    # `\l` ends a line that is flush left.
    return "".join(f"{_escaped(line)}\\l" for line in lines)


def _shortened(text: str) -> list[str]:
    """The first lines of a text, each cut; one empty line of an empty text."""
    lines = text.strip().splitlines() or [""]
    shown = [
        line if len(line) <= _LONGEST_LINE else f"{line[: _LONGEST_LINE - 1]}…"
        for line in lines[:_MOST_LINES]
    ]
    return [*shown, "…"] if len(lines) > _MOST_LINES else shown


def _escaped(line: str) -> str:
    """As part of a quoted label, where backslashes and ampersands have meanings of their own."""
    shown = "".join(char if char.isprintable() else "\ufffd" for char in line)
    for char, escape in (("\\", "\\\\"), ('"', '\\"'), ("&", "&amp;")):
        shown = shown.replace(char, escape)
    return shown

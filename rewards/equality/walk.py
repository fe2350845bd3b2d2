"""Walks over a tree without recursion, so that a tree of any depth can be measured."""

from collections.abc import Iterator
from typing import get_args

from cotree.rewards.equality.nodes import BigOperator, Constant, Node, Number, Symbol, Words

# `isinstance` against a union of two dozen types took a tenth of a comparison.
_NODES = frozenset(get_args(Node))
_LEAVES = frozenset((Number, Symbol, Constant, Words))


def children(node: Node) -> list[Node]:
    """The nodes directly below `node`, from left to right."""
    found: list[Node] = []
    if type(node) in _LEAVES:
        return found
    for name in node.__slots__:
        _collect(getattr(node, name), found)
    return found


def walk(node: Node) -> Iterator[tuple[Node, int]]:
    """Every node with its depth; the root, which comes first, has depth 1."""
    pending = [(node, 1)]
    while pending:
        current, depth = pending.pop()
        yield current, depth
        pending.extend((child, depth + 1) for child in children(current))


def within(node: Node, *, max_nodes: int, max_depth: int) -> bool:
    """Whether the tree is at most so large; looks at no more nodes than that."""
    for count, (_, depth) in enumerate(walk(node)):
        if count >= max_nodes or depth > max_depth:
            return False
    return True


def symbols(node: Node) -> frozenset[str]:
    r"""Names of the variables that occur free: in `\sum_{k=1}^n k` that is n."""
    found: set[str] = set()
    pending: list[tuple[Node, frozenset[str]]] = [(node, frozenset())]
    while pending:
        current, bound = pending.pop()
        if isinstance(current, Symbol):
            if current.name not in bound:
                found.add(current.name)
        elif isinstance(current, BigOperator):
            limits = [limit for limit in (current.low, current.high) if limit is not None]
            pending.extend((limit, bound) for limit in limits)
            pending.append((current.body, bound | {current.variable}))
        else:
            pending.extend((child, bound) for child in children(current))
    return frozenset(found)


def _collect(field: object, found: list[Node]) -> None:
    if type(field) in _NODES:
        found.append(field)  # pyright: ignore[reportArgumentType]
    elif isinstance(field, tuple):
        for item in field:  # pyright: ignore[reportUnknownVariableType]
            _collect(item, found)  # pyright: ignore[reportUnknownArgumentType]

r"""Reading and rebuilding trees: what they contain, renamed symbols, both signs of `\pm`."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import cast

from cotree.rewards.equality.nodes import Negation, Node, PlusMinus, Sum, Symbol
from cotree.rewards.equality.walk import children


def contains(node: Node, kinds: type | tuple[type, ...]) -> bool:
    """Whether `node` or any node below it is one of `kinds`."""
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, kinds):
            return True
        pending.extend(children(current))
    return False


def rebuilt(node: Node, change: Callable[[Node], Node | None]) -> Node:
    """The tree with every node for which `change` returns one replaced, from the root down."""
    changed = change(node)
    if changed is not None:
        return changed
    updates: dict[str, object] = {}
    for field in fields(node):
        old: object = getattr(node, field.name)
        new = _rebuilt_value(old, change)
        if new is not old:
            updates[field.name] = new
    # What changed has the type it had: nodes stay nodes, tuples stay tuples.
    return replace(node, **updates) if updates else node  # pyright: ignore[reportArgumentType]


def substituted(node: Node, values: Mapping[str, Node]) -> Node:
    """The tree with symbols replaced by name."""
    return rebuilt(node, lambda n: values.get(n.name) if isinstance(n, Symbol) else None)


def both_signs(node: Node) -> list[Node]:
    r"""The values a node with `\pm` stands for: all upper signs, then all lower ones.

    Signs in one item go together, as in `x \pm y \mp z`; a listing's items are independent.
    """
    if not contains(node, PlusMinus):
        return [node]
    return [rebuilt(node, _signed(sign)) for sign in (1, -1)]


def _signed(sign: int) -> Callable[[Node], Node | None]:
    def change(node: Node) -> Node | None:
        if not isinstance(node, PlusMinus):
            return None
        right = rebuilt(node.right, change)
        right = right if node.first * sign > 0 else Negation(right)
        return right if node.left is None else Sum((rebuilt(node.left, change), right))

    return change


def _rebuilt_value(value: object, change: Callable[[Node], Node | None]) -> object:
    if isinstance(value, tuple):
        items = cast("tuple[object, ...]", value)
        new = tuple(_rebuilt_value(item, change) for item in items)
        return new if any(a is not b for a, b in zip(new, items, strict=True)) else items
    if hasattr(value, "__dataclass_fields__"):
        return rebuilt(cast("Node", value), change)
    return value

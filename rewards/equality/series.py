r"""Sums and products with dots: `a_0 + a_1 + \cdots + a_k`, written out for a few lengths.

Two expressions with dots are equal if they are equal for every length tried. The terms before and
behind the dots say how an index runs; what follows no such pattern is left as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from fractions import Fraction
from typing import cast

from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import Node, Number, Product, Sum, Symbol
from cotree.rewards.equality.scalar import symbols
from cotree.rewards.equality.substitution import rebuilt
from cotree.rewards.equality.walk import children

DOTS = "..."
"""The name of the symbol that stands for an ellipsis."""
LENGTHS = (5, 8)
"""Values given to the last index."""
MAX_TERMS = 100
"""Terms that one ellipsis is written out as."""

_SUBSCRIPT = re.compile(r"(?P<stem>[^_]+)_(?P<letter>[a-z])?(?P<offset>[+-]?[0-9]{1,3})?")


class _NoPatternError(Exception):
    """The terms around the dots do not say how to go on."""


def has_dots(*nodes: Node) -> bool:
    """Whether any of the trees has an ellipsis in it."""
    return any(DOTS in symbols(node) for node in nodes)


def written_out(reference: Node, answer: Node) -> Iterator[tuple[Node, Node]]:
    """Both sides with their dots replaced by terms, once for each length.

    Nothing if neither side has dots, or some have no pattern.
    """
    found = _ellipses(reference) + _ellipses(answer)
    if not found:
        return
    names = sorted(set().union(*(_index_names(node) for node in found)))
    for length in LENGTHS:
        indices = {name: length + position for position, name in enumerate(names)}
        try:
            pair = [_filled(_at(side, indices)) for side in (reference, answer)]
        except _NoPatternError:
            return
        yield pair[0], pair[1]


def _ellipses(node: Node) -> list[Sum | Product]:
    found: list[Sum | Product] = []
    pending = [node]
    while pending:
        current = pending.pop()
        if isinstance(current, Sum | Product) and _dots(_parts(current)) is not None:
            found.append(current)
        pending.extend(children(current))
    return found


def _parts(node: Sum | Product) -> tuple[Node, ...]:
    return node.terms if isinstance(node, Sum) else node.factors


def _dots(parts: Sequence[Node]) -> int | None:
    """Where the dots are, if terms stand on both sides of them."""
    places = [i for i, part in enumerate(parts) if part == Symbol(DOTS)]
    return places[0] if len(places) == 1 and 0 < places[0] < len(parts) - 1 else None


def _index_names(node: Sum | Product) -> set[str]:
    """Letters in subscripts, and symbols that stand where the first terms have a number."""
    parts = _parts(node)
    place = _dots(parts)
    assert place is not None
    names: set[str] = set()
    for left, right in ((parts[place - 1], parts[place + 1]),):
        for name in symbols(left) | symbols(right):
            match = _SUBSCRIPT.fullmatch(name)
            if match and match["letter"]:
                names.add(match["letter"])
        names |= _against_numbers(left, right)
    return names


def _against_numbers(left: Node, right: Node) -> set[str]:
    if left == right:
        return set()
    if isinstance(left, Number) or isinstance(right, Number):
        return set(symbols(left) | symbols(right))
    if type(left) is not type(right):
        return set()
    below, opposite = children(left), children(right)
    if len(below) != len(opposite):
        return set()
    pairs = zip(below, opposite, strict=True)
    return set().union(*(_against_numbers(a, b) for a, b in pairs))


def _at(node: Node, indices: dict[str, int]) -> Node:
    """The tree with numbers for the indices, in subscripts too."""

    def change(each: Node) -> Node | None:
        if not isinstance(each, Symbol):
            return None
        if each.name in indices:
            return Number(Fraction(indices[each.name]))
        match = _SUBSCRIPT.fullmatch(each.name)
        if match and match["letter"] in indices:
            return Symbol(f"{match['stem']}_{indices[match['letter']] + int(match['offset'] or 0)}")
        return None

    return rebuilt(node, change)


def _filled(node: Node) -> Node:
    def change(each: Node) -> Node | None:
        if not isinstance(each, Sum | Product):
            return None
        place = _dots(_parts(each))
        if place is None:
            return None
        parts = [rebuilt(part, change) for part in _parts(each)]
        return type(each)((*parts[:place], *_between(parts, place), *parts[place + 1 :]))

    return rebuilt(node, change)


def _between(parts: Sequence[Node], place: int) -> list[Node]:
    """The terms that the dots stand for."""
    start, end = parts[place - 1], parts[place + 1]
    distances = _leaf_steps(start, end)
    try:
        steps = _leaf_steps(parts[place - 2], start) if place > 1 else None
    except _NoPatternError:
        steps = None  # what stands further in front is no term of the series
    if not steps or len(steps) != len(distances):
        unit = max((abs(d) for d in distances), default=Fraction(0))
        if not unit:
            raise _NoPatternError
        steps = [distance / unit for distance in distances]
    counts = {d / s for d, s in zip(distances, steps, strict=True) if s}
    if len(counts) != 1:
        raise _NoPatternError
    (count,) = counts
    if count.denominator != 1 or not 1 <= count <= MAX_TERMS:
        raise _NoPatternError
    return [_moved(start, end, iter(steps), i) for i in range(1, count.numerator)]


def _leaf_steps(left: Node, right: Node) -> list[Fraction]:
    """How far each number that differs is from its counterpart, in the order of the tree."""
    if left == right:
        return []
    if _same_shape(left, right):
        pairs = zip(children(left), children(right), strict=True)
        return [step for a, b in pairs for step in _leaf_steps(a, b)]
    low, high = _leaf(left), _leaf(right)
    if low is None or high is None or _stem(left) != _stem(right):
        raise _NoPatternError
    return [high - low]


def _same_shape(left: Node, right: Node) -> bool:
    """Whether two terms are built alike, so that their numbers are compared one by one."""
    if type(left) is not type(right) or isinstance(left, Number | Symbol):
        return False
    return 0 < len(list(children(left))) == len(list(children(right)))


def _moved(node: Node, other: Node, steps: Iterator[Fraction], count: int) -> Node:
    """`node` with every number that differs from `other` moved by `count` steps."""
    if node == other:
        return node
    if not _same_shape(node, other):
        value = (_leaf(node) or 0) + next(steps) * count
        return Symbol(f"{_stem(node)}_{value}") if _stem(node) else Number(value)
    updates: dict[str, object] = {}
    for field in fields(node):
        mine: object = getattr(node, field.name)
        theirs: object = getattr(other, field.name)
        if isinstance(mine, tuple):
            pairs = zip(cast("tuple[Node]", mine), cast("tuple[Node]", theirs), strict=True)
            updates[field.name] = tuple(_moved(a, b, steps, count) for a, b in pairs)
        elif hasattr(mine, "__dataclass_fields__"):
            updates[field.name] = _moved(cast("Node", mine), cast("Node", theirs), steps, count)
    return replace(node, **updates)  # pyright: ignore[reportArgumentType]


def _leaf(node: Node) -> Fraction | None:
    """The number a node is, or the one in its subscript."""
    if isinstance(node, Symbol):
        match = _SUBSCRIPT.fullmatch(node.name)
        return (
            Fraction(match["offset"]) if match and match["offset"] and not match["letter"] else None
        )
    return rational(node)


def _stem(node: Node) -> str:
    return node.name.partition("_")[0] if isinstance(node, Symbol) else ""

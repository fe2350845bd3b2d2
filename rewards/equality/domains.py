r"""What stands behind an answer and only says where its symbols live: `k \in \mathbb{Z}`, `x > 0`.

Which sets of numbers a parameter ranges over is left out of the comparison, and its name is free:
`\pi + 2k\pi, k \in \mathbb{Z}` is `\pi + 2n\pi`. A condition such as `x > 0` may be left out by
one side; where both give one, they must agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from cotree.rewards.equality.nodes import Constant, Listing, Node, Power, Relation, Symbol
from cotree.rewards.equality.ranges import describes_a_range
from cotree.rewards.equality.relations import named
from cotree.rewards.equality.scalar import symbols
from cotree.rewards.equality.substitution import substituted

_NUMBER_SETS = frozenset({"integers", "naturals", "rationals", "reals", "Z", "N", "Q", "R"})
"""As constants and, where somebody wrote `k \\in Z`, as plain letters."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """A listing taken apart."""

    values: tuple[Node, ...]
    conditions: tuple[Node, ...]
    parameters: frozenset[str]


def without_domains(reference: Node, answer: Node) -> tuple[Node, Node]:
    """Both sides without what only says where symbols live, the answer's parameter renamed."""
    if not isinstance(reference, Listing) and not isinstance(answer, Listing):
        return reference, answer
    left, right = _parts(reference), _parts(answer)
    if left.conditions and right.conditions:
        left, right = _with_conditions(left), _with_conditions(right)
    wanted, found = _joined(left, reference), _joined(right, answer)
    return wanted, _renamed(wanted, found, left.parameters, right.parameters)


def _parts(node: Node) -> _Parts:
    if not isinstance(node, Listing) or node.joined == "or":
        return _Parts((node,), (), frozenset())
    rest: list[Node] = []
    parameters: set[str] = set()
    for item in node.items:
        name = _member_of_numbers(item)
        if name is None:
            rest.append(item)
        else:
            parameters.add(name)
    values = tuple(item for item in rest if not describes_a_range(item))
    if not rest or not values:
        # Inequalities alone are the answer, and so is `x \in \mathbb{R}`.
        return _Parts(tuple(rest) or node.items, (), frozenset(parameters))
    ranges = [item for item in rest if describes_a_range(item)]
    if len(values) > 1 or any(
        not symbols(item) <= symbols(value) for item in ranges for value in values
    ):
        return _Parts(tuple(rest), (), frozenset(parameters))
    return _Parts(values, tuple(ranges), frozenset(parameters))


def _member_of_numbers(node: Node) -> str | None:
    if not isinstance(node, Relation) or node.comparisons != ("in",):
        return None
    name, numbers = node.operands
    numbers = numbers.base if isinstance(numbers, Power) else numbers
    if not isinstance(name, Symbol) or not isinstance(numbers, Constant | Symbol):
        return None
    return name.name if numbers.name.partition("_")[0] in _NUMBER_SETS else None


def _with_conditions(parts: _Parts) -> _Parts:
    return _Parts(parts.values + parts.conditions, (), parts.parameters)


def _joined(parts: _Parts, node: Node) -> Node:
    if len(parts.values) == 1:
        return parts.values[0]
    joined = node.joined if isinstance(node, Listing) else "and"
    return Listing(parts.values, joined)


def _renamed(reference: Node, answer: Node, wanted: frozenset[str], found: frozenset[str]) -> Node:
    """The answer with its one own symbol renamed, if that or its counterpart is a parameter."""
    first, second = (symbols(named(side).value) for side in (reference, answer))
    left, right = first - second, second - first
    if len(left) != 1 or len(right) != 1 or not (left <= wanted or right <= found):
        return answer
    (new,), (old,) = left, right
    return substituted(answer, {old: Symbol(new)})

r"""Chains of equals signs: which contradict themselves, and which set several names equal.

`2 + 3 = 5` is 5 and `x = 10/4 = 2.5` is 2.5; `4 = 3` and `x = 5 = 6` commit to nothing, and
neither does `1 = 1`. `x = y = z = 0` gives three values.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from cotree.rewards.equality.approximation import approximate
from cotree.rewards.equality.decimals import last_place
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import (
    Degrees,
    Listing,
    Node,
    Number,
    Percent,
    Quantity,
    Relation,
    Symbol,
)
from cotree.rewards.equality.scalar import symbols
from cotree.rewards.equality.substitution import rebuilt

MAX_MEMBERS = 12
"""A longer chain is a calculation, and no answer."""
_CLOSE = Fraction(1, 10**20)
"""Relative; values are known to about thirty digits."""


@lru_cache(maxsize=64)
def commits(chain: Relation) -> bool:
    r"""Whether the numbers of a chain of `=` and `\approx` are one number, not twice the same tree.

    A decimal stands for what rounds to it or was cut off to it; behind `\approx`, so does an
    integer. Members with symbols, and those whose value is unknown, contradict nothing.
    """
    if len(set(chain.operands)) == 1 or len(chain.operands) > MAX_MEMBERS:
        return False
    comparisons: tuple[str, ...] = ("=", *chain.comparisons)
    pairs = zip(chain.operands, comparisons, strict=True)
    numbers = [(node, sign) for node, sign in pairs if not symbols(node)]
    return all(_agree(numbers[0][0], node, loosely=sign == "approx") for node, sign in numbers[1:])


def exact_member(members: Sequence[Node]) -> Node:
    """The last member of a chain, or the one before it that it is only a rounded form of."""
    *before, last = members
    place = last_place(last)
    if place is None or not before or symbols(before[-1]):
        return last
    value, shown = rational(before[-1]), rational(last)
    return last if shown is not None and value == shown else before[-1]


def spread(node: Node) -> Node:
    """`x = y = z = 0` as the listing `x = 0, y = 0, z = 0`; any other node as it is."""
    names = equal_names(node)
    if names is None or len(names) < 2 or not isinstance(node, Relation):
        return node
    value = node.operands[-1]
    if isinstance(value, Symbol):
        return node
    pairs = [Relation((name, value), ("=",)) for name in node.operands[:-1]]
    return Listing(tuple(pairs))


def equal_names(node: Node) -> frozenset[Node] | None:
    """The symbols that a chain sets equal, with the value behind them if there is one."""
    if not isinstance(node, Relation) or set(node.comparisons) != {"="}:
        return None
    *names, last = node.operands
    if not all(isinstance(name, Symbol) for name in names):
        return None
    if len(set(names)) < len(names) or last in names:
        return None
    return frozenset(name for name in node.operands if isinstance(name, Symbol))


def _agree(left: Node, right: Node, *, loosely: bool) -> bool:
    """As written, or without signs and units, which a calculation often leaves out."""
    return any(
        _close(first, second, loosely=loosely)
        for first, second in ((left, right), (_plain(left), _plain(right)))
    )


def _close(left: Node, right: Node, *, loosely: bool) -> bool:
    first, second = _value(left), _value(right)
    if first is None or second is None:
        return True
    if abs(first - second) <= _CLOSE * abs(first):
        return True
    place = last_place(right)
    if place is None and loosely:
        place = _last_digit(right)
    return _is_rounding(second, first, place) or _is_rounding(first, second, last_place(left))


def _is_rounding(shown: Fraction, value: Fraction, place: Fraction | None) -> bool:
    """Whether a number is the other one, rounded or cut off at a place."""
    if place is None:
        return False
    cut = abs(value) - abs(shown)
    return abs(value - shown) * 2 <= place or (0 <= cut < place and value * shown >= 0)


def _last_digit(node: Node) -> Fraction | None:
    """What one unit in the last digit of an integer is worth that is not zero."""
    if not isinstance(node, Number) or node.value.denominator != 1 or not node.value:
        return None
    digits = str(node.value) if abs(node.value) < 10**60 else ""
    return Fraction(10 ** (len(digits) - len(digits.rstrip("0")))) if digits else None


def _value(node: Node) -> Fraction | None:
    value = rational(node)
    return value if value is not None else approximate(node)


def _plain(node: Node) -> Node:
    def change(each: Node) -> Node | None:
        return _plain(each.value) if isinstance(each, Degrees | Percent | Quantity) else None

    return rebuilt(node, change)

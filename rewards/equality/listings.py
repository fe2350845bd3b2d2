r"""Several values side by side: solutions `x = 1, x = 2`, sets `\{1, 2\}`, roots `\pm 2`.

Values without names, or all of one name, are matched in any order; values of different names by
their names, or by position where only one side names them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import (
    Bracketed,
    Listing,
    Node,
    PlusMinus,
    Relation,
    Symbol,
    Words,
)
from cotree.rewards.equality.relations import Named, Same, named, same_named, same_names
from cotree.rewards.equality.substitution import both_signs, contains

_UNKNOWNS = frozenset({"x", "y", "z", "t", "k", "m", "n", "r", "lambda", "theta"})
"""`a_1, a_2` are members of a sequence, in which the order counts."""
MAX_MATCHED = 100
"""Longer listings are compared only as numbers."""


def is_several(node: Node) -> bool:
    r"""Whether a node stands for values side by side, be it one: a listing, a set, `x = \pm 2`."""
    if isinstance(node, Listing):
        return True
    if isinstance(node, Bracketed):
        return node.left == "{"
    if isinstance(node, Relation):
        if node.comparisons == ("in",):
            return is_several(node.operands[1])
        value = named(node).value
        return value is not node and is_several(value)
    return contains(node, PlusMinus)


def members(node: Node) -> list[Named]:
    r"""The values in the order written, each with its name; `\pm` gives two.

    The first name of `n = 1, 2, 3` is that of all three.
    """
    found: list[Named] = []
    if isinstance(node, Listing):
        for item in node.items:
            found += members(item)
        if found and found[0].name is not None and all(m.name is None for m in found[1:]):
            found = [Named(found[0].name, m.value) for m in found]
        return found
    if isinstance(node, Relation) and node.comparisons == ("in",):
        return [Named(node.operands[0], each.value) for each in members(node.operands[1])]
    own = named(node)
    if own.name is not None:
        return [Named(own.name, each.value) for each in members(own.value)]
    if isinstance(own.value, Bracketed) and own.value.left == "{":
        return [each for item in own.value.items for each in members(item)]
    if own.value is not node:
        return members(own.value)
    return [Named(None, value) for value in both_signs(node)]


def is_set(node: Node) -> bool:
    """Whether braces are written, so that nothing counts twice."""
    if isinstance(node, Relation):
        return is_set(node.operands[-1])
    return isinstance(node, Bracketed) and node.left == "{"


def hedges(reference: Node, answer: Node) -> bool:
    """Whether the answer says "Ann or Ben" where "Ann and Ben" was asked for."""
    if not isinstance(reference, Listing) or not isinstance(answer, Listing):
        return False
    worded = any(isinstance(item, Words) for item in reference.items)
    return worded and (reference.joined, answer.joined) == ("and", "or")


def same_as_sets(reference: Sequence[Named], answer: Sequence[Named], same: Same) -> bool:
    """Whether every value of one is a value of the other, however often it is written."""
    if max(len(reference), len(answer)) > MAX_MATCHED:
        return same_members(reference, answer, same)
    return (
        _names_fit(reference, answer)
        and all(any(same(a.value, b.value) for b in answer) for a in reference)
        and all(any(same(a.value, b.value) for a in reference) for b in answer)
    )


def same_members(reference: Sequence[Named], answer: Sequence[Named], same: Same) -> bool:
    """Whether two listings hold the same values, each as often."""
    if len(reference) != len(answer):
        return False
    if len(reference) > MAX_MATCHED:
        return _same_numbers(reference, answer)
    if _are_distinct(reference) and not _are_roots([*reference, *answer]):
        if _are_distinct(answer):
            return _matched(reference, answer, same, by_name=True)
        if all(each.name is None for each in answer):
            pairs = zip(reference, answer, strict=True)
            return all(same(a.value, b.value) for a, b in pairs)
    if not _names_fit(reference, answer):
        return False
    return _matched(reference, answer, same, by_name=False)


def _matched(
    reference: Sequence[Named], answer: Sequence[Named], same: Same, *, by_name: bool
) -> bool:
    unmatched = list(answer)
    for wanted in reference:
        # Most listings are in one order, or hold the very same trees.
        unmatched.sort(key=lambda each: each.value != wanted.value)
        for index, each in enumerate(unmatched):
            if same_named(wanted, each, same) if by_name else _same_items(wanted, each, same):
                del unmatched[index]
                break
        else:
            return False
    return True


def _same_items(wanted: Named, found: Named, same: Same) -> bool:
    """By value; `x = 1` beside the equation `x - 1 = 0` is an equation too."""
    if isinstance(wanted.value, Relation) != isinstance(found.value, Relation):
        return same(_equation(wanted), _equation(found))
    return same(wanted.value, found.value)


def _equation(item: Named) -> Node:
    return item.value if item.name is None else Relation((item.name, item.value), ("=",))


def _are_distinct(values: Sequence[Named]) -> bool:
    names = [each.name for each in values]
    return len(names) > 1 and None not in names and len(set(names)) == len(names)


def _are_roots(values: Sequence[Named]) -> bool:
    """Whether the names are one unknown's, told apart by numbers: `x_1 = 2, x_2 = 3`."""
    stems: set[str] = set()
    for each in values:
        if not isinstance(each.name, Symbol):
            return False
        stem, _, number = each.name.name.partition("_")
        if not number.isdigit():
            return False
        stems.add(stem)
    return len(stems) == 1 and stems <= _UNKNOWNS


def _names_fit(reference: Sequence[Named], answer: Sequence[Named]) -> bool:
    """Whether solutions for one unknown are not offered for another."""
    first = {each.name for each in reference if each.name is not None}
    second = {each.name for each in answer if each.name is not None}
    if len(first) == 1 and len(second) == 1:
        return all(same_names(a, b) for a in first for b in second)
    return True


def _same_numbers(reference: Sequence[Named], answer: Sequence[Named]) -> bool:
    left = [rational(each.value) for each in reference]
    right = [rational(each.value) for each in answer]
    return None not in left and None not in right and Counter(left) == Counter(right)

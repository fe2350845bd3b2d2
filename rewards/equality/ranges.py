r"""From trees to sets of real numbers: intervals, unions, inequalities in one unknown.

Inequalities are solved where the unknown stands alone, in a straight line or in `|...|`.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import (
    Bracketed,
    Call,
    Constant,
    Listing,
    Negation,
    Node,
    Number,
    Quotient,
    Relation,
    SetBuilder,
    SetOperation,
    Sum,
    Symbol,
    Words,
)
from cotree.rewards.equality.realsets import (
    INFINITE,
    RealSet,
    between,
    complement,
    everything,
    intersection,
    point,
    sign_of_infinity,
    union,
)
from cotree.rewards.equality.scalar import symbols
from cotree.rewards.equality.substitution import both_signs, substituted

_ALL = frozenset({"all real numbers", "all reals", "real numbers", "the real numbers", "all real"})
_NONE = frozenset(
    {"no solution", "no solutions", "no real solution", "no real solutions"}
    | {"empty set", "the empty set"}
)


def real_set(node: Node, *, round_is_interval: bool) -> RealSet | None:
    r"""The set of reals a node stands for; None if it is no such set or cannot be worked out.

    Args:
        node: an interval, set, union, inequality, chain, membership or a listing of these.
        round_is_interval: whether `(a, b)` is an interval here, and not a point. Always so inside
            a union and with an infinite end.
    """
    match node:
        case Constant("reals"):
            return RealSet((everything(),))
        case Constant("empty"):
            return RealSet(())
        case Words(text):
            return _described(text)
        case Bracketed("{", "}", items):
            return union([point(value) for item in items for value in both_signs(item)])
        case Bracketed(left, right, (low, high)) if is_interval(
            node, round_is_interval=round_is_interval
        ):
            return between(low, high, strict=(left in "(]", right in ")["))
        case SetOperation():
            return _operation(node)
        case SetBuilder(_, condition):
            return real_set(condition, round_is_interval=True)
        case Relation():
            return _solutions(node)
        case Listing(items, joined):
            return _several(items, joined)
        case _:
            return None


def is_interval(node: Node, *, round_is_interval: bool) -> bool:
    """Whether two items in brackets are the ends of an interval."""
    if not isinstance(node, Bracketed) or len(node.items) != 2 or node.left in "{<":
        return False
    if any(isinstance(item, Bracketed) for item in node.items):
        return False
    if node.left == "(" and node.right == ")":
        return round_is_interval or any(sign_of_infinity(item) for item in node.items)
    return True


def describes_a_range(node: Node) -> bool:
    """Whether the node can only be a set of reals, or conditions that describe one."""
    match node:
        case Words(text):
            return _described(text) is not None
        case SetOperation() | SetBuilder() | Constant("reals" | "empty"):
            return True
        case Bracketed():
            return is_interval(node, round_is_interval=False)
        case Relation(operands, comparisons):
            if comparisons == ("in",):
                return not isinstance(operands[1], Bracketed) or operands[1].left != "{"
            return any(c not in ("=", "approx", "in") for c in comparisons)
        case Listing(items):
            return any(
                isinstance(i, Relation | SetOperation) and describes_a_range(i) for i in items
            )
        case _:
            return False


def _described(text: str) -> RealSet | None:
    words = " ".join(text.lower().split()).strip(" .")
    if words in _ALL:
        return RealSet((everything(),))
    return RealSet(()) if words in _NONE else None


def _operation(node: SetOperation) -> RealSet | None:
    parts = [real_set(part, round_is_interval=True) for part in node.parts]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if node.operator == "union":
        return union(known)
    first, *others = known
    for other in others:
        wanted = other if node.operator == "intersection" else complement(other)
        result = intersection(first, wanted) if wanted else None
        if result is None:
            return None
        first = result
    return first


def _several(items: Sequence[Node], joined: str) -> RealSet | None:
    """`x < 1 or x > 2` is a union; with "and" or a comma, the intersection unless it is empty."""
    parts = [real_set(item, round_is_interval=True) for item in items]
    known = [part for part in parts if part is not None]
    if not known or len(known) < len(parts) or len({part.variable for part in known}) > 1:
        return None
    if joined == "and":
        common: RealSet | None = known[0]
        for part in known[1:]:
            common = intersection(common, part) if common else None
        if common and common.intervals:
            return common
    return union(known)


def _solutions(relation: Relation) -> RealSet | None:
    """The numbers for which a relation in one unknown holds."""
    operands, comparisons = relation.operands, relation.comparisons
    if comparisons == ("in",):
        inner = real_set(operands[1], round_is_interval=True)
        if not isinstance(operands[0], Symbol):
            return None
        return RealSet(inner.intervals, operands[0].name) if inner else None
    if comparisons in (("=",), ("!=",)):
        name, value = operands
        if not isinstance(name, Symbol) or name.name in symbols(value):
            return None
        points = union([point(each) for each in both_signs(value)])
        found = complement(points) if comparisons == ("!=",) and points else points
        return RealSet(found.intervals, name.name) if found else None
    if all(c in ("<", "<=") for c in comparisons):
        return _chain(operands, [c == "<" for c in comparisons])
    if all(c in (">", ">=") for c in comparisons):
        return _chain(operands[::-1], [c == ">" for c in comparisons][::-1])
    return None


def _chain(operands: Sequence[Node], strict: Sequence[bool]) -> RealSet | None:
    """Solutions of `a < f(x) < b` or `f(x) < g(x)`, ascending."""
    if len(operands) == 3:
        low, subject, high = operands
        if symbols(low) & symbols(subject) or symbols(high) & symbols(subject):
            return None
        return _within(subject, low, high, strict=(strict[0], strict[1]))
    if len(operands) != 2:
        return None
    left, right = operands
    if isinstance(left, Symbol) and left.name not in symbols(right):
        return _within(left, None, right, strict=(True, strict[0]))
    if isinstance(right, Symbol) and right.name not in symbols(left):
        return _within(right, left, None, strict=(strict[0], True))
    if not symbols(left):
        return _within(right, left, None, strict=(strict[0], True))
    if not symbols(right):
        return _within(left, None, right, strict=(True, strict[0]))
    difference = Sum((left, Negation(right)))
    return _within(difference, None, Number(Fraction(0)), strict=(True, strict[0]))


def _within(
    subject: Node, low: Node | None, high: Node | None, *, strict: tuple[bool, bool]
) -> RealSet | None:
    if isinstance(subject, Symbol):
        found = between(
            low if low is not None else Negation(INFINITE),
            high if high is not None else INFINITE,
            strict=strict,
        )
        return RealSet(found.intervals, subject.name)
    if isinstance(subject, Call) and subject.name == "abs":
        return _absolute(subject.arguments[0], low, high, strict=strict)
    line = _line(subject)
    if line is None:
        return None
    name, slope, offset = line
    ends = [None if end is None else _solved(end, slope, offset) for end in (low, high)]
    if slope < 0:
        ends.reverse()
        strict = (strict[1], strict[0])
    return _within(Symbol(name), ends[0], ends[1], strict=strict)


def _absolute(
    inner: Node, low: Node | None, high: Node | None, *, strict: tuple[bool, bool]
) -> RealSet | None:
    if low is None and high is not None:
        return _within(inner, Negation(high), high, strict=(strict[1], strict[1]))
    if low is None:
        return None
    above = _within(inner, low, high, strict=strict)
    below = _within(
        inner,
        None if high is None else Negation(high),
        Negation(low),
        strict=(strict[1], strict[0]),
    )
    if above is None or below is None:
        return None
    return union([below, above])


def _line(node: Node) -> tuple[str, Fraction, Fraction] | None:
    """Name, slope and offset if the node is a straight line in its only symbol."""
    names = symbols(node)
    if len(names) != 1:
        return None
    (name,) = names
    # Two points make the line; the odd ones tell it from any polynomial somebody would write.
    xs = [Fraction(n, d) for n, d in ((0, 1), (1, 1), (22, 7), (-355, 113), (17, 5))]
    ys = [rational(substituted(node, {name: Number(x)})) for x in xs]
    known = [y for y in ys if y is not None]
    if len(known) < len(ys) or known[0] == known[1]:
        return None
    slope, offset = known[1] - known[0], known[0]
    fits = all(y == slope * x + offset for x, y in zip(xs, known, strict=True))
    return (name, slope, offset) if fits else None


def _solved(end: Node, slope: Fraction, offset: Fraction) -> Node:
    if slope == 1 and offset == 0:
        return end
    value = rational(end)
    if value is not None:
        return Number((value - offset) / slope)
    return Quotient(Sum((end, Number(-offset))), Number(slope))

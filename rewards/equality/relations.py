r"""Equations: what a name is set equal to, and when two equations say the same.

`x = 5`, `f(x) = x + 1` and `(p, q) = (3, 2)` name a value, and only the value is compared with a
bare one. Other equations are equal up to a constant factor that is not zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from cotree.rewards.equality.approximation import approximate
from cotree.rewards.equality.chains import commits, exact_member
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import (
    BigOperator,
    Bracketed,
    Call,
    Constant,
    Negation,
    Node,
    Number,
    PlusMinus,
    Product,
    Relation,
    Sum,
    Symbol,
    Words,
)
from cotree.rewards.equality.scalar import Sameness, same_scalar, symbols
from cotree.rewards.equality.substitution import contains, rebuilt, substituted

Same = Callable[[Node, Node], bool]

_ZERO = Number(Fraction(0))
_PLACES = (Fraction(13, 7), Fraction(-5, 3), Fraction(19, 11), Fraction(2, 5), Fraction(-31, 9))


@dataclass(frozen=True, slots=True)
class Named:
    """A value and what it is called; `name` is None for a bare value."""

    name: Node | None
    value: Node


def named(node: Node) -> Named:
    r"""The value a node commits to, without the name in front of it.

    Of a chain `x = 5 + 6 = 11` the last exact member counts; what follows `\approx` only if
    nothing but a name stands before it. `5 = x` is `x = 5`. An equation that gives no name, such
    as `x + y = 3`, is its own value, and so is a chain that contradicts itself (`commits`).
    """
    if not isinstance(node, Relation) or not set(node.comparisons) <= {"=", "approx"}:
        return Named(None, node)
    if not commits(node):
        return Named(None, node)
    exact = list(node.operands)
    if "approx" in node.comparisons:
        exact = exact[: node.comparisons.index("approx") + 1]
    if len(exact) == 1:
        if is_name(exact[0]):
            return Named(exact[0], node.operands[-1])
        return Named(None, exact[0])
    first, last = exact[0], exact_member(exact)
    if is_name(first):
        return Named(first, last)
    if is_name(last) and not symbols(first):
        return Named(last, first)
    if not any(symbols(member) for member in exact):
        return Named(None, last)
    if len(exact) == len(node.operands):
        return Named(None, node)
    return Named(None, Relation(tuple(exact), ("=",) * (len(exact) - 1)))


def value_of_equation(node: Node) -> Node | None:
    """The right side of `m + n = 7`: a number that an expression is found to have, not zero.

    For answers to questions whose reference is a bare value. `x + y = 0` is a line, not zero.
    """
    if not isinstance(node, Relation) or node.comparisons != ("=",):
        return None
    left, right = node.operands
    if symbols(left) and not symbols(right) and rational(right) != 0:
        return right
    return None


def is_name(node: Node) -> bool:
    r"""Whether a node can name a quantity: `x`, `f(2)`, `AB`, `\frac{NO}{BO}`, `(p, q)`.

    Sums, signs and coefficients do not name: `x + y = 3` and `2x = 6` are equations.
    """
    match node:
        case Symbol() | Words() | BigOperator():
            return True
        case Bracketed("(", ")", items):
            return all(is_name(item) for item in items)
        case Call(_, arguments):
            return contains(node, (Symbol, Words)) or not _is_known_call(node) or not arguments
        case Number() | Negation() | Sum() | PlusMinus() | Constant() | Relation():
            return False
        case _:
            return contains(node, (Symbol, Words)) and not contains(
                node, (Number, Negation, Sum, PlusMinus, Relation)
            )


def same_names(left: Node, right: Node) -> bool:
    """Whether two names may stand for one quantity.

    `f(x)` and `f(n)` are one function, `a_n` and `a_k` one sequence; `y` and `f(x)` both name a
    function's value; `S` may be short for `S_{ABC}`. Otherwise two symbols must be the same.
    """
    if left == right:
        return True
    match left, right:
        case Call(), Call():
            return left.name == right.name and len(left.arguments) == len(right.arguments)
        case (Call(), Symbol()) | (Symbol(), Call()):
            return True
        case Symbol(a), Symbol(b):
            return _same_subscripted(a, b)
        case Words(a), Words(b):
            return a.lower().split() == b.lower().split()
        case _:
            return False


def same_named(reference: Named, answer: Named, same: Same) -> bool:
    """Whether two named values agree; symbols that only name a function's argument may differ."""
    assert reference.name is not None
    assert answer.name is not None
    if not same_names(reference.name, answer.name):
        return False
    value = answer.value
    if isinstance(reference.name, Call) and isinstance(answer.name, Call):
        value = _renamed(value, answer.name.arguments, reference.name.arguments)
    elif isinstance(reference.name, Symbol) and isinstance(answer.name, Symbol):
        old, new = _index(answer.name.name), _index(reference.name.name)
        if old and new and old != new:
            value = _renamed(value, (Symbol(old),), (Symbol(new),))
    return value is not None and same(reference.value, value)


def same_equation(reference: Node, answer: Node) -> bool:
    """Whether two equations differ by a constant factor, which is never zero.

    With r and a the two sides' differences, r(x) a(y) = r(y) a(x) for all x and y makes r / a a
    constant.
    """
    left, right = _difference(reference), _difference(answer)
    if left is None or right is None or symbols(left) != symbols(right) or not symbols(left):
        return False
    return not _vanishes(left) and not _vanishes(right) and _proportional(left, right)


def same_inequality(reference: Relation, answer: Relation) -> bool:
    """Whether two inequalities in any unknowns differ by a positive constant factor."""
    left, right = _excess(reference), _excess(answer)
    if left is None or right is None or left[1] != right[1]:
        return False
    if symbols(left[0]) != symbols(right[0]) or not _proportional(left[0], right[0]):
        return False
    sign = _sign_of_ratio(left[0], right[0])
    return sign is not None and sign > 0


def _same_subscripted(left: str, right: str) -> bool:
    first, second = left.partition("_"), right.partition("_")
    if first[0] != second[0]:
        return False
    return not first[2] or not second[2] or bool(_index(left) and _index(right))


def _index(name: str) -> str:
    """The letter below a symbol that runs over a sequence: n for `a_n`; blank if there is none."""
    below = name.partition("_")[2]
    return below if len(below) == 1 and below.isalpha() and below.islower() else ""


def _is_known_call(node: Call) -> bool:
    """Whether the function is one with a value of its own: `sin(2)` is a number, `f(2)` a name."""
    return rational(node) is not None or approximate(node) is not None


def _renamed(value: Node, old: tuple[Node, ...], new: tuple[Node, ...]) -> Node | None:
    """`value` with the argument names of `new`; None if the arguments are no names that fit."""
    if old == new:
        return value
    pairs = list(zip(old, new, strict=True))
    if not all(isinstance(a, Symbol) and isinstance(b, Symbol) for a, b in pairs):
        return None
    if len(set(old)) < len(old) or len(set(new)) < len(new):
        return None
    taken = symbols(value) - {a.name for a in old if isinstance(a, Symbol)}
    if any(isinstance(b, Symbol) and b.name in taken for b in new):
        return None
    return substituted(value, {a.name: b for a, b in pairs if isinstance(a, Symbol)})


def _difference(node: Node) -> Node | None:
    if not isinstance(node, Relation) or node.comparisons != ("=",):
        return None
    left, right = node.operands
    if contains(node, (PlusMinus, Bracketed, Words)):
        return None
    return Sum((left, Negation(right)))


def _excess(node: Relation) -> tuple[Node, bool] | None:
    """`a < b` as (b - a, strict)."""
    if len(node.operands) != 2 or contains(node, (PlusMinus, Bracketed, Words)):
        return None
    left, right = node.operands
    match node.comparisons[0]:
        case "<" | "<=" as comparison:
            return Sum((right, Negation(left))), comparison == "<"
        case ">" | ">=" as comparison:
            return Sum((left, Negation(right))), comparison == ">"
        case _:
            return None


def _vanishes(node: Node) -> bool:
    return same_scalar(node, _ZERO) is not Sameness.DIFFERENT


def _proportional(left: Node, right: Node) -> bool:
    crossed = [Product((left, _primed(right))), Product((_primed(left), right))]
    return same_scalar(*crossed) is Sameness.EQUAL


def _primed(node: Node) -> Node:
    """The node with every symbol replaced by another of its own."""
    return rebuilt(node, lambda n: Symbol(f"{n.name}'") if isinstance(n, Symbol) else None)


def _sign_of_ratio(left: Node, right: Node) -> int | None:
    names = sorted(symbols(left) | symbols(right))
    for shift in range(len(_PLACES)):
        values: dict[str, Node] = {
            name: Number(_PLACES[(index + shift) % len(_PLACES)] + index)
            for index, name in enumerate(names)
        }
        found = [_number(substituted(each, values)) for each in (left, right)]
        if all(found):
            product = (found[0] or 0) * (found[1] or 0)
            return 1 if product > 0 else -1
    return None


def _number(node: Node) -> Fraction | None:
    value = rational(node)
    return value if value is not None else approximate(node)

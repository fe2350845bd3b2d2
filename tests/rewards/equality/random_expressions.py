"""Random expressions: trees, rewritings that keep the value, changes that do not, and spellings.

Values are computed here with Python's own complex numbers, so that a test of equality does not
believe the evaluation that it tests.
"""

import cmath
from collections.abc import Callable, Mapping
from fractions import Fraction

from hypothesis import strategies as st

from cotree.rewards.equality.nodes import (
    Call,
    Constant,
    Negation,
    Node,
    Number,
    Power,
    Product,
    Quotient,
    Sum,
    Symbol,
)

NAMES = ("x", "y", "k")
POINTS: tuple[Mapping[str, float], ...] = (
    {"x": 1.37, "y": 0.61, "k": 2.23},
    {"x": 0.83, "y": 1.91, "k": 0.47},
    {"x": 2.71, "y": 1.13, "k": 1.59},
)


def integer(value: int) -> Node:
    """An integer leaf, signed as the parser would read it."""
    return Number(Fraction(value)) if value >= 0 else Negation(Number(Fraction(-value)))


ONE, TWO = integer(1), integer(2)
leaves = st.one_of(
    st.integers(1, 40).map(integer),
    st.sampled_from(NAMES).map(Symbol),
    st.just(Constant("pi")),
)


def _grow(inner: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map(lambda items: Sum(tuple(items))),
        st.lists(inner, min_size=2, max_size=3).map(lambda items: Product(tuple(items))),
        pairs.map(lambda pair: Quotient(*pair)),
        inner.map(Negation),
        st.tuples(inner, st.integers(2, 3)).map(lambda p: Power(p[0], integer(p[1]))),
        inner.map(lambda node: Call("sqrt", (Power(node, TWO),))),
        st.tuples(st.sampled_from(["sin", "cos"]), st.sampled_from(NAMES)).map(
            lambda p: Call(p[0], (Symbol(p[1]),))
        ),
    )


expressions: st.SearchStrategy[Node] = st.recursive(leaves, _grow, max_leaves=7)
"""Trees over x, y, k and pi; not all have a value at every point."""

Rewriting = Callable[[Node], Node]


def _split_quotient(node: Quotient) -> Node:
    return Product((node.numerator, Power(node.denominator, integer(-1))))


def _expand(node: Power, exponent: Number) -> Node:
    return Product((node.base,) * int(exponent.value))


def _distributed(node: Product) -> Node:
    for at, factor in enumerate(node.factors):
        if isinstance(factor, Sum):
            rest = node.factors[:at] + node.factors[at + 1 :]
            return Sum(tuple(Product((*rest, term)) for term in factor.terms))
    return node


def _square_of(function: str) -> Node:
    return Power(Call(function, (Symbol("x"),)), TWO)


def rewritings(node: Node) -> list[Node]:
    """Other trees with the value of `node`, wherever it has one."""
    found: list[Node] = [
        Negation(Negation(node)),
        Sum((node, ONE, integer(-1))),
        Product((node, Sum((_square_of("sin"), _square_of("cos"))))),
        Quotient(Product((node, TWO)), TWO),
        Sum((Product((TWO, node)), Negation(node))),
    ]  # fmt: skip
    if isinstance(node, Sum):
        found += [Sum(node.terms[::-1]), Sum((node.terms[0], Sum(node.terms[1:])))]
        found.append(Negation(Sum(tuple(Negation(term) for term in node.terms))))
    if isinstance(node, Product):
        found += [Product(node.factors[::-1]), _distributed(node)]
    if isinstance(node, Quotient):
        found += [
            _split_quotient(node),
            Negation(Quotient(Negation(node.numerator), node.denominator)),
        ]
    if isinstance(node, Power) and isinstance(node.exponent, Number):
        found.append(_expand(node, node.exponent))
    if isinstance(node, Call) and node.name == "sqrt":
        found.append(Power(node.arguments[0], Quotient(ONE, TWO)))
    if isinstance(node, Call) and node.name == "sin":
        found.append(
            Call("cos", (Sum((Quotient(Constant("pi"), TWO), Negation(node.arguments[0]))),))
        )
    return found


def changes(node: Node) -> list[Node]:
    """Trees with one leaf or operator changed; some may still have the same value."""
    if isinstance(node, Number):
        return [Number(node.value + 1)]
    if isinstance(node, Symbol):
        return [Symbol(NAMES[(NAMES.index(node.name) + 1) % 3])]
    if isinstance(node, Constant):
        return [Constant("e"), ONE]
    if isinstance(node, Negation):
        return [node.operand, *map(Negation, changes(node.operand))]
    if isinstance(node, Quotient):
        top, bottom = node.numerator, node.denominator
        return [
            Product((top, bottom)),
            *(Quotient(other, bottom) for other in changes(top)),
            *(Quotient(top, other) for other in changes(bottom)),
        ]
    if isinstance(node, Power):
        return [node.base, *(Power(other, node.exponent) for other in changes(node.base))]
    if isinstance(node, Call):
        (inner,) = node.arguments
        return [inner, *(Call(node.name, (other,)) for other in changes(inner))]
    assert isinstance(node, Sum | Product)
    items = node.terms if isinstance(node, Sum) else node.factors
    same, opposite = (Sum, Product) if isinstance(node, Sum) else (Product, Sum)
    found: list[Node] = [opposite(items)]
    for at, item in enumerate(items):
        found += [same((*items[:at], other, *items[at + 1 :])) for other in changes(item)]
    return found


def value(node: Node, point: Mapping[str, float]) -> complex:
    """The value at a point, by Python's own complex arithmetic."""
    if isinstance(node, Number):
        return complex(node.value)
    if isinstance(node, Symbol):
        return complex(point[node.name])
    if isinstance(node, Constant):
        return complex({"pi": cmath.pi, "e": cmath.e}[node.name])
    if isinstance(node, Negation):
        return -value(node.operand, point)
    if isinstance(node, Sum):
        return sum((value(term, point) for term in node.terms), 0j)
    if isinstance(node, Product):
        total = 1 + 0j
        for factor in node.factors:
            total *= value(factor, point)
        return total
    if isinstance(node, Quotient):
        return value(node.numerator, point) / value(node.denominator, point)
    if isinstance(node, Power):
        return value(node.base, point) ** value(node.exponent, point)
    assert isinstance(node, Call)
    functions = {"sqrt": cmath.sqrt, "sin": cmath.sin, "cos": cmath.cos}
    return functions[node.name](value(node.arguments[0], point))


def clearly_different(left: Node, right: Node) -> bool:
    """Whether double precision settles that two trees differ at every point of `POINTS`."""
    for point in POINTS:
        try:
            first, second = value(left, point), value(right, point)
        except (ZeroDivisionError, OverflowError):
            return False
        size = max(abs(first), abs(second))
        if not 1e-6 < size < 1e6 or abs(first - second) < 1e-4 * size:
            return False
    return True


def spelled(node: Node, dialect: str) -> str:
    """`node` as text: `latex`, `loose` (LaTeX as people abbreviate it) or `plain` (no LaTeX)."""
    if isinstance(node, Number):
        return str(node.value)
    if isinstance(node, Symbol):
        return node.name
    if isinstance(node, Constant):
        return node.name if dialect == "plain" else rf"\{node.name} "
    if isinstance(node, Negation):
        return f"-{_grouped(node.operand, dialect)}"
    if isinstance(node, Sum):
        return "+".join(_grouped(term, dialect) for term in node.terms)
    if isinstance(node, Product):
        sign = {"latex": r" \cdot ", "loose": r"\times ", "plain": "*"}[dialect]
        return sign.join(_grouped(factor, dialect) for factor in node.factors)
    if isinstance(node, Quotient):
        top, bottom = spelled(node.numerator, dialect), spelled(node.denominator, dialect)
        if dialect == "plain":
            return f"({top})/({bottom})"
        if dialect == "loose" and len(top) == len(bottom) == 1:
            return rf"\frac{{{top}}}{bottom}"
        return (
            rf"\frac{{{top}}}{{{bottom}}}"
            if dialect == "latex"
            else rf"\dfrac{{{top}}}{{{bottom}}}"
        )
    if isinstance(node, Power):
        exponent = spelled(node.exponent, dialect)
        shown = f"**({exponent})" if dialect == "plain" else f"^{{{exponent}}}"
        return f"{_grouped(node.base, dialect)}{shown}"
    assert isinstance(node, Call)
    inner = spelled(node.arguments[0], dialect)
    if dialect == "plain":
        return f"{node.name}({inner})"
    return (
        rf"\{node.name}{{{inner}}}" if node.name == "sqrt" else rf"\{node.name}\left({inner}\right)"
    )


def _grouped(node: Node, dialect: str) -> str:
    text = spelled(node, dialect)
    if isinstance(node, Number | Symbol | Constant | Call):
        return text
    return rf"\left({text}\right)" if dialect == "latex" else f"({text})"

"""Polynomials with rational coefficients, read from the syntax tree of an answer. Bounded."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction

from cotree.rewards.equality.nodes import (
    Bracketed,
    Negation,
    Node,
    Number,
    Power,
    Product,
    Quotient,
    Relation,
    Sum,
    Symbol,
)
from cotree.rewards.equality.parser import ParseError, parse
from cotree.rewards.steps.amounts import UnreadableError

Monomial = tuple[tuple[str, int], ...]
"""Symbols and their powers, sorted; `()` is the constant term."""
Polynomial = Mapping[Monomial, Fraction]
"""No coefficient is zero, so that equal polynomials are equal mappings."""

MAX_TERMS = 64
MAX_DEGREE = 12
MAX_DEPTH = 60
MAX_BITS = 512
"""Of a coefficient's numerator or denominator."""
MAX_LINE_CHARS = 300


def equation(text: str) -> tuple[Polynomial, Polynomial] | None:
    """Both sides of `a = b`; `None` for an expression without a relation.

    Raises:
        UnreadableError: the text is neither, or larger than the bounds.
    """
    node = _parsed(text)
    if not isinstance(node, Relation):
        return None
    if node.comparisons != ("=",):
        raise UnreadableError("no single equality")
    left, right = node.operands
    return polynomial(left), polynomial(right)


def expression(text: str) -> Polynomial:
    """The polynomial that the text is.

    Raises:
        UnreadableError: it is none, or larger than the bounds.
    """
    return polynomial(_parsed(text))


def _parsed(text: str) -> Node:
    if len(text) > MAX_LINE_CHARS:
        raise UnreadableError(f"{len(text)} characters; {MAX_LINE_CHARS} are read")
    try:
        return parse(text)
    except ParseError as error:
        raise UnreadableError(str(error)) from error


def polynomial(node: Node, depth: int = 0) -> Polynomial:
    """The canonical form of a tree of numbers, symbols, + - * / and small powers.

    Raises:
        UnreadableError: the tree has other parts, divides by a symbol, or exceeds a bound.
    """
    if depth > MAX_DEPTH:
        raise UnreadableError(f"nested deeper than {MAX_DEPTH}")
    if isinstance(node, Number):
        return _checked({(): node.value})
    if isinstance(node, Symbol):
        return {((node.name, 1),): Fraction(1)}
    if isinstance(node, Negation):
        return scaled(polynomial(node.operand, depth + 1), Fraction(-1))
    if isinstance(node, Sum):
        total: Polynomial = {}
        for term in node.terms:
            total = added(total, polynomial(term, depth + 1))
        return total
    if isinstance(node, Product):
        result: Polynomial = {(): Fraction(1)}
        for factor in node.factors:
            result = _multiplied(result, polynomial(factor, depth + 1))
        return result
    if isinstance(node, Quotient):
        divisor = constant(polynomial(node.denominator, depth + 1))
        if not divisor:
            raise UnreadableError("a division by a symbol or by zero")
        return scaled(polynomial(node.numerator, depth + 1), 1 / divisor)
    if isinstance(node, Power):
        return _raised(node, depth)
    if isinstance(node, Bracketed) and len(node.items) == 1:
        return polynomial(node.items[0], depth + 1)
    raise UnreadableError(f"a {type(node).__name__.lower()} is no polynomial")


def _raised(node: Power, depth: int) -> Polynomial:
    exponent = constant(polynomial(node.exponent, depth + 1))
    if exponent is None or exponent.denominator != 1 or not 0 <= exponent <= MAX_DEGREE:
        raise UnreadableError("an exponent that is no small number")
    base = polynomial(node.base, depth + 1)
    result: Polynomial = {(): Fraction(1)}
    for _ in range(int(exponent)):
        result = _multiplied(result, base)
    return result


def constant(poly: Polynomial) -> Fraction | None:
    """The value of a polynomial without symbols, else `None`."""
    return poly.get((), Fraction(0)) if set(poly) <= {()} else None


def added(left: Polynomial, right: Polynomial) -> Polynomial:
    """`left + right`."""
    total = dict(left)
    for monomial, coefficient in right.items():
        total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    return _checked(total)


def scaled(poly: Polynomial, factor: Fraction) -> Polynomial:
    """`factor * poly`."""
    return _checked({monomial: factor * value for monomial, value in poly.items()})


def difference(left: Polynomial, right: Polynomial) -> Polynomial:
    """`left - right`: zero where the two are equal."""
    return added(left, scaled(right, Fraction(-1)))


def symbols(poly: Polynomial) -> frozenset[str]:
    """The names that occur in it."""
    return frozenset(name for monomial in poly for name, _ in monomial)


def degree(poly: Polynomial) -> int:
    """The highest total degree; 0 for a constant."""
    return max((sum(power for _, power in monomial) for monomial in poly), default=0)


def are_proportional(left: Polynomial, right: Polynomial) -> bool:
    """Whether one is the other times a number that is not zero, so that both have equal roots."""
    if set(left) != set(right):
        return False
    return len({left[monomial] / right[monomial] for monomial in left}) <= 1


def _multiplied(left: Polynomial, right: Polynomial) -> Polynomial:
    total: dict[Monomial, Fraction] = {}
    if len(left) * len(right) > MAX_TERMS * MAX_TERMS:
        raise UnreadableError("too many terms")
    for first, a in left.items():
        for second, b in right.items():
            powers = dict(first)
            for name, power in second:
                powers[name] = powers.get(name, 0) + power
            monomial = tuple(sorted(powers.items()))
            total[monomial] = total.get(monomial, Fraction(0)) + a * b
    return _checked(total)


def _checked(terms: Mapping[Monomial, Fraction]) -> Polynomial:
    found = {monomial: value for monomial, value in terms.items() if value}
    if len(found) > MAX_TERMS or degree(found) > MAX_DEGREE:
        raise UnreadableError(f"more than {MAX_TERMS} terms or degree {MAX_DEGREE}")
    for value in found.values():
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise UnreadableError(f"a coefficient of more than {MAX_BITS} bits")
    return found

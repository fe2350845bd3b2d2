"""Points, vectors and matrices: what stands at each position, whatever the brackets."""

from __future__ import annotations

from fractions import Fraction

from cotree.rewards.equality.listings import members
from cotree.rewards.equality.nodes import (
    Bracketed,
    Listing,
    Matrix,
    Negation,
    Node,
    Number,
    Product,
    Quotient,
)


def is_matrix(node: Node) -> bool:
    """Whether a node is a matrix, be it with a factor before it."""
    shown = node if isinstance(node, Matrix) else _scaled(node)
    return isinstance(shown, Matrix) and not shown.determinant


def _scaled(node: Node) -> Node:
    r"""A matrix with its factor multiplied in: `2 \begin{pmatrix} … \end{pmatrix}`."""
    match node:
        case Negation(operand):
            inner, factor = _scaled(operand), Negation(Number(Fraction(1)))
        case Quotient(numerator, denominator):
            inner, factor = _scaled(numerator), Quotient(Number(Fraction(1)), denominator)
        case Product(factors):
            matrices = [each for each in factors if isinstance(each, Matrix)]
            rest = tuple(each for each in factors if not isinstance(each, Matrix))
            inner, factor = (matrices[0] if len(matrices) == 1 else node), Product(rest)
        case _:
            return node
    if not isinstance(inner, Matrix) or inner.determinant:
        return node
    return Matrix(tuple(tuple(Product((factor, item)) for item in row) for row in inner.rows))


def as_matrix(node: Node) -> Node:
    """`[[1, 2], [3, 4]]` as a matrix."""
    if not isinstance(node, Bracketed):
        return _scaled(node)
    rows = [item.items for item in node.items if isinstance(item, Bracketed)]
    return Matrix(tuple(rows)) if len(rows) == len(node.items) > 0 else node


def coordinates(node: Node) -> tuple[Node, ...] | None:
    """What stands at each position of a point, a list in that place, or a row or column."""
    if isinstance(node, Bracketed):
        return node.items if node.left != "{" else None
    if isinstance(node, Listing):
        return tuple(each.value for each in members(node))
    if isinstance(node, Matrix) and not node.determinant:
        if len(node.rows) == 1:
            return node.rows[0]
        if all(len(row) == 1 for row in node.rows):
            return tuple(row[0] for row in node.rows)
    return None


def brackets(node: Bracketed) -> str:
    """The kind of brackets: round ones and angles are one kind, and so are those of vectors."""
    shown = node.left + node.right
    # Two items in square brackets are an interval; more, or angles, are a vector.
    return "()" if shown == "<>" or (shown == "[]" and len(node.items) > 2) else shown

"""The leaves of a tree, and small questions about nodes that several parts of the grammar ask."""

from cotree.rewards.equality import numerals
from cotree.rewards.equality.commands import FENCES, LETTER_WRAPPERS
from cotree.rewards.equality.nodes import Bracketed, Constant, Node, Number, Symbol
from cotree.rewards.equality.tokens import Token, TooLarge

OPERAND_STARTS = frozenset(
    {"number", "symbol", "constant", "function", "(", "[", "{", "|", "frac", "sqrt", "binom"}
    | {"big", "begin", "angle", *FENCES, *LETTER_WRAPPERS}
)
"""Kinds of tokens that multiply what stands before them."""


def numeral(token: Token) -> Number:
    """The number that a token of kind `number` is.

    Raises:
        TooLarge: it has too many digits.
    """
    try:
        return numerals.number(token.text)
    except ValueError as error:
        raise TooLarge(str(error), token.position) from error


def constant(name: str) -> Node:
    """The constant or number set of this name."""
    return Constant(name)  # pyright: ignore[reportArgumentType]


def letter(name: str) -> Node:
    """A single letter: a variable, or one of the constants e and i."""
    return constant(name) if name in ("e", "i") else Symbol(name)


def ungrouped(node: Node) -> Node:
    """`[x]` as part of an expression groups, like parentheses."""
    if isinstance(node, Bracketed) and len(node.items) == 1 and node.left == "[":
        return node.items[0]
    return node


def plain_integer(node: Node) -> int | None:
    """The value of a node that is an integer written without a decimal point."""
    if isinstance(node, Number) and node.decimals is None and node.value.denominator == 1:
        return node.value.numerator
    return None

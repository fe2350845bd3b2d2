r"""The syntax tree of an answer. Says what was written, not what it means.

Brackets stay brackets here: whether `(1,2)` is a point or an open interval is decided where two
answers are compared, for the other side tells which. All nodes are immutable and hashable.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

Comparison = Literal["=", "!=", "<", "<=", ">", ">=", "in", "approx"]


@dataclass(frozen=True, slots=True)
class Number:
    """A numeral: `12`, `0.50`, `1,234`, `1.5e3`. Signs are `Negation`."""

    value: Fraction
    decimals: int | None = None
    """Digits shown after the decimal point; `None` when there is no point."""


@dataclass(frozen=True, slots=True)
class Symbol:
    r"""A variable, subscript and all: `x`, `a_1`, `\alpha`, `C`."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    r"""`pi`, `e`, `i`, `inf` (`\infty`) or `empty` (`\emptyset`)."""

    name: Literal["pi", "e", "i", "inf", "empty", "reals", "integers", "naturals", "rationals"]


@dataclass(frozen=True, slots=True)
class Words:
    r"""Text that is no mathematics: `\text{Monday}`, `odd`. Case and spaces as written."""

    text: str


@dataclass(frozen=True, slots=True)
class Negation:
    """`-x`."""

    operand: Node


@dataclass(frozen=True, slots=True)
class PlusMinus:
    r"""`a \pm b`, or `\pm b` with `left` absent; `\mp` has `first` = -1."""

    left: Node | None
    right: Node
    first: Literal[1, -1] = 1


@dataclass(frozen=True, slots=True)
class Sum:
    """`a + b + …`; a difference is a sum with a `Negation`."""

    terms: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """`a * b * …`, written or implied by juxtaposition."""

    factors: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Quotient:
    r"""`a / b`, `\frac{a}{b}`; a mixed number `1\frac{1}{2}` is a `Sum`."""

    numerator: Node
    denominator: Node


@dataclass(frozen=True, slots=True)
class Power:
    r"""`a^b`. Roots are powers too: `\sqrt[3]{x}` is `x^(1/3)`, see `Call("root")`."""

    base: Node
    exponent: Node


@dataclass(frozen=True, slots=True)
class Call:
    r"""A known function applied to arguments, or an unknown one such as `f(x)`.

    Known names and arguments: sqrt(x), root(x, n), abs(x), factorial(n), binom(n, k), floor(x),
    ceil(x), exp(x), ln(x), log(x, base), sin cos tan cot sec csc and their arc- and hyperbolic
    forms, gcd, lcm, min, max, mod(a, b), norm(x), conj(x), re(z), im(z), arg(z).
    """

    name: str
    arguments: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class BigOperator:
    r"""`\sum`, `\prod`, `\int`, `\lim`: kept for comparison by structure, evaluated if small."""

    name: Literal["sum", "prod", "int", "lim"]
    variable: str
    low: Node | None
    high: Node | None
    body: Node


@dataclass(frozen=True, slots=True)
class Percent:
    r"""`x\%` (also `x percent`): x / 100, but only because the sign stands there."""

    value: Node


@dataclass(frozen=True, slots=True)
class Degrees:
    r"""`x^\circ`, with minutes and seconds added in where written."""

    value: Node


@dataclass(frozen=True, slots=True)
class Quantity:
    r"""A value with the text around it that is no mathematics: `10\text{ cm}^2`, `\$5`."""

    value: Node
    unit: str


@dataclass(frozen=True, slots=True)
class BaseNumeral:
    """`1011_2`: digits and the base written below them."""

    digits: str
    base: int


@dataclass(frozen=True, slots=True)
class Ratio:
    """`a : b : …`, also a time of day `10:30`."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Bracketed:
    """Items between delimiters: a point, an interval or a set, by what stands around them.

    A pair of parentheses around one expression is grouping and leaves no node.
    """

    left: Literal["(", "[", "{", "]", "<"]
    right: Literal[")", "]", "}", "[", ">"]
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class SetBuilder:
    r"""`\{x \mid condition\}`."""

    variable: Node
    condition: Node


@dataclass(frozen=True, slots=True)
class Listing:
    """Several answers side by side, by commas, semicolons, `and` or `or`."""

    items: tuple[Node, ...]
    joined: Literal["and", "or"] = "and"
    """`or` only where the word stands there."""


@dataclass(frozen=True, slots=True)
class SetOperation:
    r"""`A \cup B`, `A \cap B`, `A \setminus B`."""

    operator: Literal["union", "intersection", "difference"]
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of equal length; a column vector has one item a row."""

    rows: tuple[tuple[Node, ...], ...]
    determinant: bool = False
    """Written between bars (`vmatrix`)."""


@dataclass(frozen=True, slots=True)
class Piecewise:
    r"""The rows of `\begin{cases}` as pairs of a value and the condition under which it holds."""

    rows: tuple[tuple[Node, Node], ...]


@dataclass(frozen=True, slots=True)
class Relation:
    """`a < b <= c`: operands and what stands between them; `a = b` has two operands."""

    operands: tuple[Node, ...]
    comparisons: tuple[Comparison, ...]


Node = (
    Number
    | Symbol
    | Constant
    | Words
    | Negation
    | PlusMinus
    | Sum
    | Product
    | Quotient
    | Power
    | Call
    | BigOperator
    | Percent
    | Degrees
    | Quantity
    | BaseNumeral
    | Ratio
    | Bracketed
    | SetBuilder
    | Listing
    | SetOperation
    | Matrix
    | Piecewise
    | Relation
)

r"""Mathematical text as a syntax tree: LaTeX, plain text, and what models make of both.

Recursive descent with one level per rank of operators. Every loop advances, every recursion is
counted, and the text, its tokens, its numerals and the tree's depth are bounded, so the time is
linear and the recursion limit is never met.

Readings where notation is ambiguous:
- `1,234` outside brackets is one number, inside brackets two; `1{,}234` is always one.
- `1/2x` is `(1/2)x`: a slash takes one factor. `\sin 2x` takes the juxtaposed factors.
- A run of two or three letters is a product, a longer one a word; see `vocabulary.is_word`.
- `x1` is the variable x_1; `2 3` is an error; `2\frac{1}{3}` is mixed, `2\frac{4}{3}` a product.
"""

import re

from cotree.rewards.equality import numerals
from cotree.rewards.equality.leaves import OPERAND_STARTS, ungrouped
from cotree.rewards.equality.nodes import (
    Bracketed,
    Call,
    Comparison,
    Negation,
    Node,
    Number,
    PlusMinus,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Relation,
    SetOperation,
    Sum,
    Symbol,
    Words,
)
from cotree.rewards.equality.operands import Operands, degrees_or_percent
from cotree.rewards.equality.text import clean
from cotree.rewards.equality.tokens import END, ParseError, TooLarge, tokenize

__all__ = ["MAX_CHARS", "ParseError", "TooLarge", "parse", "parse_clean"]

MAX_CHARS = 4_000
"""Longer answers are refused before any work is done on them."""

_INTEGER = re.compile(r"(-?)([0-9]{1,300})")
_COMMANDS = re.compile(r"\\[A-Za-z]+|[\\{}]")


def parse(text: str) -> Node:
    """The tree of an answer; typography is folded first (`clean`).

    Raises:
        ParseError: the text cannot be read; the message says where and what was expected.
        TooLarge: it exceeds a bound.
    """
    if len(text) > MAX_CHARS:
        raise TooLarge(f"{len(text)} characters; an answer may have {MAX_CHARS}", MAX_CHARS)
    return parse_clean(clean(text))


def parse_clean(text: str) -> Node:
    """The tree of a text that `clean` has made uniform.

    Raises:
        ParseError: the text cannot be read; the message says where and what was expected.
        TooLarge: it exceeds a bound.
    """
    if len(text) > 2 * MAX_CHARS:
        raise TooLarge(f"{len(text)} characters; an answer may have {MAX_CHARS}", MAX_CHARS)
    if match := _INTEGER.fullmatch(text):
        value = numerals.number(match[2])
        return Negation(value) if match[1] else value
    tokens = tokenize(text)
    try:
        return Parser(tokens).answer()
    except TooLarge:
        raise
    except ParseError:
        if not any(token.kind == "words" for token in tokens):
            raise
        # Prose with some notation in it: the answer is its words.
        return Words(" ".join(_COMMANDS.sub(" ", text).split()))


class Parser(Operands):
    """The operators between operands, from the loosest to the tightest."""

    def answer(self) -> Node:
        """The whole text."""
        if self.kind == "relation" and self.token.text in ("=", "approx"):
            self.advance()
        node = self.listing()
        if self.kind != END:
            raise self.error("an operator or the end")
        return node

    def relation(self) -> Node:
        """Operands with comparisons between them."""
        operands = [self._set_operation()]
        comparisons: list[Comparison] = []
        while self.kind == "relation":
            if self.token.text == ">" and self.fences and self.fences[-1] == "<":
                break
            comparisons.append(self.advance().text)  # pyright: ignore[reportArgumentType]
            operands.append(self._set_operation())
        modulus = self._modulus()
        if modulus is not None:
            operands = [Call("mod", (operand, modulus)) for operand in operands]
        if not comparisons:
            return operands[0]
        return Relation(tuple(operands), tuple(comparisons))

    def _modulus(self) -> Node | None:
        r"""`\pmod{7}` or `(mod 7)` after a congruence."""
        if self.accept("pmod"):
            return self.argument()
        if self.kind == "(" and self.ahead(1) == "mod":
            self.index += 2
            node = self.sum()
            self.expect(")")
            return node
        return None

    def _set_operation(self) -> Node:
        node = self._ratio()
        while self.kind == "set":
            operator = self.advance().text
            right = self._ratio()
            if isinstance(node, SetOperation) and node.operator == operator != "difference":
                node = SetOperation(node.operator, (*node.parts, right))
            else:
                self.chain()
                node = SetOperation(operator, (node, right))  # pyright: ignore[reportArgumentType]
        return node

    def _ratio(self) -> Node:
        node = self.sum()
        if self.kind != ":" or (self.fences and self.fences[-1] in ("}", "set}")):
            return node
        parts = [node]
        while self.accept(":"):
            parts.append(self.sum())
        last = parts[-1]
        if isinstance(last, Quantity):
            return Quantity(Ratio((*parts[:-1], last.value)), last.unit)
        return Ratio(tuple(parts))

    def sum(self) -> Node:
        """Terms joined by plus, minus and plus-minus."""
        terms: list[Node] = []
        if self.kind in ("pm", "mp"):
            node: Node = self._plus_minus(None)
        else:
            node = self._term()
        while self.kind in ("+", "-", "pm", "mp"):
            if self.kind in ("pm", "mp"):
                left = _sum([*terms, node])
                terms, node = [], self._plus_minus(left)
                continue
            terms.append(ungrouped(node))
            negative = self.advance().kind == "-"
            term = ungrouped(self._term())
            node = Negation(term) if negative else term
        return _sum([*terms, node])

    def _plus_minus(self, left: Node | None) -> Node:
        self.chain()
        first = 1 if self.advance().kind == "pm" else -1
        return PlusMinus(None if left is None else ungrouped(left), ungrouped(self._term()), first)

    def _term(self) -> Node:
        """A product with its sign: `-xy` is the negative of a product."""
        if self.kind == "-":
            self.descend()
            self.advance()
            node: Node = Negation(ungrouped(self._term()))
            self.ascend()
            return node
        self.accept("+")
        return self.product()

    def product(self) -> Node:
        """Factors joined by multiplication signs, division signs, or nothing."""
        if self.kind == "currency":
            unit = self.advance().text
            return Quantity(self.product(), unit)
        factors: list[Node] = [self.factor()]
        while True:
            kind = self.kind
            if kind == "times":
                self.advance()
                factors.append(self.factor())
            elif kind == "over":
                self.advance()
                factors[-1] = _divided(ungrouped(factors[-1]), ungrouped(self.factor()))
            elif kind == "mod":
                self.advance()
                self.chain()
                factors = [Call("mod", (self.joined(factors), self.factor()))]
            elif self._multiplies(kind, factors[-1]):
                self._juxtapose(factors)
            else:
                break
        node = factors[0] if len(factors) == 1 else self.joined(factors)
        return self._with_unit(node) if self.kind in ("words", "currency", "'") else node

    def joined(self, factors: list[Node]) -> Node:
        """Several factors as one product."""
        if len(factors) == 1:
            return factors[0]
        return Product(tuple(ungrouped(factor) for factor in factors))

    def _multiplies(self, kind: str, left: Node) -> bool:
        if kind not in OPERAND_STARTS or isinstance(left, Words) or self.differential():
            return False
        if kind == "number":
            return not isinstance(left, Number)
        if kind == "|":
            return not self.fences or self.fences[-1] not in ("|", "}", "set}", "lvert")
        if kind == "(":
            return self.ahead(1) != "mod"
        return kind != "[" or not self.french_interval_ends()

    def _juxtapose(self, factors: list[Node]) -> None:
        right = self.factor()
        left = factors[-1]
        if isinstance(right, Relation):
            # `2k\pi\ (k \in \mathbb{Z})`: a condition, which becomes an item of its own.
            self.conditions.append(right)
            return
        if isinstance(left, Symbol) and isinstance(right, Bracketed) and right.left == "(":
            factors[-1] = Call(left.name, right.items)  # the point `A(1,2)`, or a binary function
        else:
            factors.append(right)

    def _with_unit(self, node: Node) -> Node:
        """What follows a value and is no mathematics, with powers and slashes of units."""
        if isinstance(node, Words):
            return node
        unit = ""
        while self.kind in ("words", "currency", "'"):
            token = self.advance()
            unit = f"{unit} {token.text}".strip()
            while self.accept("^"):
                unit += "^" + "".join(self._unit_power())
            if self.ahead(0) in ("over", "times") and self.ahead(1) == "words":
                unit += "/" if self.advance().kind == "over" else "*"
        signed = degrees_or_percent(node, unit)
        return Quantity(ungrouped(node), unit) if signed is None else signed

    def _unit_power(self) -> str:
        braced = self.accept("{")
        sign = "-" if self.accept("-") else ""
        digits = self.expect("number").text
        if braced:
            self.expect("}")
        return sign + digits


def _sum(terms: list[Node]) -> Node:
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def _divided(left: Node, right: Node) -> Node:
    """`a/b/c` as `a/(bc)`, so that a chain does not make the tree deep."""
    if isinstance(left, Quotient):
        below = left.denominator
        inner = below.factors if isinstance(below, Product) else (below,)
        return Quotient(left.numerator, Product((*inner, right)))
    return Quotient(left, right)

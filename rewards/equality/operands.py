# ruff: noqa: SIM905 - tables of words read best as text
"""Operands with all that is written on them: numbers, symbols, functions, fractions, roots."""

import re
from collections.abc import Callable
from itertools import pairwise

from cotree.rewards.equality import numerals, vocabulary
from cotree.rewards.equality.applications import Applications
from cotree.rewards.equality.commands import BLACKBOARD, FENCES, LETTER_WRAPPERS
from cotree.rewards.equality.leaves import constant, letter, numeral, plain_integer, ungrouped
from cotree.rewards.equality.nodes import (
    BaseNumeral,
    Call,
    Degrees,
    Negation,
    Node,
    Number,
    Percent,
    Power,
    Quantity,
    Quotient,
    Sum,
    Symbol,
    Words,
)
from cotree.rewards.equality.tokens import END, Token, TooLarge

_FUNCTION_LETTERS = frozenset("fghFGH")
_LETTER = re.compile(r"\(?\s*([A-Za-z])\s*\)?\s*[.:]?")
_MAX_POSTFIXES = 8
_MAX_SUBSCRIPT_TOKENS = 40
_KEPT_ACCENTS = frozenset(
    "overline vec overrightarrow overleftarrow hat widehat bar tilde widetilde dot ddot "
    "overarc".split()
)


_SAME_ACCENT = {"overrightarrow": "vec", "widehat": "hat", "widetilde": "tilde", "bar": "overline"}


class Operands(Applications):
    """One operand at a time; what joins operands is in the parser."""

    def __init__(self, tokens: list[Token]) -> None:
        super().__init__(tokens)
        self._functions: set[str] = set()
        self._variables: frozenset[str] | None = None
        self._primaries: dict[str, Callable[[], Node]] = {
            "number": self._number, "symbol": self._symbol, "constant": self._constant,
            "function": self.function, "words": self._words, "frac": self._fraction,
            "sqrt": self._root, "binom": self._binomial, "big": self.big_operator,
            "angle": self._figure, "mathbb": self._blackboard, "begin": self.environment,
            "(": self.bracket, "[": self.bracket, "]": self.bracket, "{": self.braces,
            "set{": self.set_braces, "|": self.bars, "norm": self.norm_bars, "<": self.vector,
            **dict.fromkeys(FENCES, self.fence),
            **dict.fromkeys(LETTER_WRAPPERS - {"mathbb"}, self._accented),
        }  # fmt: skip

    def factor(self) -> Node:
        """An operand with its sign, exponent, factorial, percent or degree sign."""
        self.descend()
        if self.accept("-"):
            node: Node = Negation(self.factor())
        elif self.accept("+"):
            node = self.factor()
        else:
            node = self._postfixed(self.primary())
        self.ascend()
        return node

    def primary(self) -> Node:
        read = self._primaries.get(self.kind)
        if read is None:
            if self.kind == "relation" and self.token.text == "<":
                return self.vector()
            raise self.error("an operand")
        return read()

    def _postfixed(self, node: Node) -> Node:
        count = 0
        while self.kind in ("^", "!", "%", "_", "circ"):
            count += 1
            if count > _MAX_POSTFIXES:
                problem = f"more than {_MAX_POSTFIXES} marks on an operand"
                raise TooLarge(problem, self.token.position)
            kind = self.kind
            node = ungrouped(node)
            if kind == "_":
                node = self._in_base(node)
                continue
            if kind == "^" and self.ahead(1) != "circ" and not self._braced_degree():
                self.advance()
                node = Power(node, self.script())
            elif kind == "!":
                self.advance()
                double = self.kind == "!" and not self.token.spaced and self.accept("!")
                node = Call("double_factorial" if double else "factorial", (node,))
            elif kind == "%":
                self.advance()
                node = Percent(node)
            else:
                node = self._degrees(node)
        return node

    def _braced_degree(self) -> bool:
        return self.ahead(1) == "{" and self.ahead(2) == "circ"

    def _degrees(self, node: Node) -> Node:
        """From the degree sign on: minutes, seconds, or the scale of a temperature."""
        self.accept("^")
        braced = self.accept("{")
        self.expect("circ")
        scale = self._scale()
        if braced:
            self.expect("}")
            scale = scale or self._scale()
        if scale:
            return Quantity(node, f"°{scale}")
        parts = [node]
        for sixtieth, marks in ((60, 1), (3600, 2)):
            if self.kind == "number" and self._marks(self.index + 1) == marks:
                part = numeral(self.advance())
                self.index += marks
                parts.append(Number(part.value / sixtieth))
        return Degrees(parts[0] if len(parts) == 1 else Sum(tuple(parts)))

    def _marks(self, at: int) -> int:
        start = at
        while self.tokens[at].kind == "'":
            at += 1
        return at - start

    def _scale(self) -> str:
        named = self.kind in ("symbol", "words") and self.token.text in ("C", "F")
        return self.advance().text if named else ""

    def _number(self) -> Node:
        token = self.advance()
        if self.kind == "_":
            self.advance()
            return self._basenumeral(token.text)
        value = numeral(token)
        whole = plain_integer(value)
        if whole is None or self.kind not in ("frac", "number"):
            return value
        return self._mixed(value, whole)

    def _mixed(self, value: Number, whole: int) -> Node:
        r"""`1\frac{1}{2}` or `1 1/2`; a fraction that is not proper is a factor instead."""
        start = self.index
        if self.kind == "frac":
            saved = self.tokens[start : start + 3]
            part = self._fraction()
            if whole > 0 and _is_proper(part):
                return Sum((value, part))
            self.tokens[start : start + 3] = saved
            self.index = start
            return value
        if self.ahead(1) == "over" and self.ahead(2) == "number" and self.token.spaced:
            top, bottom = self.token, self.tokens[start + 2]
            if len(top.text) < 10 and len(bottom.text) < 10:
                part = Quotient(numerals.number(top.text), numerals.number(bottom.text))
                if _is_proper(part):
                    self.index += 3
                    return Sum((value, part))
        raise self.error("an operator between two numbers")

    def _basenumeral(self, digits: str) -> Node:
        r"""From behind the subscript sign of `1011_2`, `1011_{(2)}` or `1011_{\text{two}}`."""
        closing = [mark for mark in ("{", "(") if self.accept(mark)]
        base = self.expect("number", "words")
        text = "".join(c for c in base.text if c.isdigit())
        for mark in reversed(closing):
            self.expect({"{": "}", "(": ")"}[mark])
        if not digits.isalnum() or not text or len(text) > 2:
            raise self.error("digits and a base of one or two digits")
        return BaseNumeral(digits, int(text))

    def _in_base(self, node: Node) -> Node:
        """From the subscript sign on: `(1101)_2`."""
        whole = plain_integer(node)
        if whole is None or whole >= 10**60:
            raise self.error("no subscript on this operand")
        self.advance()
        return self._basenumeral(str(whole))

    def _symbol(self) -> Node:
        start = self.index
        name = self.advance().text
        bare = self.kind != "_" and self.kind != "'"
        if not bare:
            name += self.marks()
        if self.kind == "(" and self._is_function(name, start):
            self._functions.add(name)
            return Call(name, self.arguments())
        if bare:
            return letter(name)
        return Symbol(name)

    def marks(self) -> str:
        """Subscript and primes, as they continue the name of a symbol."""
        text = ""
        while self.kind in ("_", "'"):
            if self.accept("'"):
                text += "'"
                continue
            self.advance()
            text += "_" + self._subscript()
            if len(text) > 4 * _MAX_SUBSCRIPT_TOKENS:
                raise TooLarge("too long a subscript", self.token.position)
        return text

    def _subscript(self) -> str:
        if self.kind != "{":
            if self.kind in (END, "}", ")", "relation"):
                raise self.error("a subscript")
            return self.advance().text
        depth, parts = 0, list[str]()
        while True:
            token = self.advance()
            depth += {"{": 1, "}": -1}.get(token.kind, 0)
            if token.kind == END or len(parts) > _MAX_SUBSCRIPT_TOKENS:
                raise self.error("the end of a subscript")
            if depth == 0:
                return "".join(parts[1:])
            parts.append(token.text)

    def _is_function(self, name: str, start: int) -> bool:
        """`f(x)` is a call, `x(x+1)` a product.

        Calls are of f, g and h, unless that letter also stands without parentheses in the text;
        and of any letter that is defined (`P(x) = …`) at the start of an item.
        """
        if name in self._functions:
            return True
        if self._variables is None:
            marks = ("(", "_", "'", "^")
            self._variables = frozenset(
                token.text
                for token, after in pairwise(self.tokens)
                if token.kind == "symbol" and after.kind not in marks
            )
        letter = name.rstrip("'").partition("_")[0]
        if letter in _FUNCTION_LETTERS and letter not in self._variables:
            return True
        if start and self.tokens[start - 1].kind not in (",", "connector", "newline"):
            return False
        return self._defines(name)

    def _defines(self, name: str) -> bool:
        at, depth = self.index, 0
        for token in self.tokens[at : at + 40]:
            depth += {"(": 1, ")": -1}.get(token.kind, 0)
            at += 1
            if depth == 0:
                return name not in ("e", "i") and self.tokens[at].text == "="
        return False

    def _constant(self) -> Node:
        token = self.advance()
        if self.kind == "_":
            return Symbol(token.text + self.marks())
        return constant(token.text)

    def _words(self) -> Node:
        token = self.advance()
        if match := _LETTER.fullmatch(token.text):
            if self.kind in ("_", "'"):
                return Symbol(match[1] + self.marks())
            return letter(match[1])
        return Words(" ".join(token.text.split()))

    def _fraction(self) -> Node:
        self.advance()
        numerator = self.argument()
        return Quotient(ungrouped(numerator), ungrouped(self.argument()))

    def _root(self) -> Node:
        self.advance()
        degree: Node | None = None
        if self.kind == "[":
            self.advance()
            self.fences.append("(")
            degree = self.sum()
            self.fences.pop()
            self.expect("]")
        self.descend()
        radicand = self.primary()
        self.ascend()
        if degree is None or plain_integer(degree) == 2:
            return Call("sqrt", (radicand,))
        return Call("root", (radicand, degree))

    def _binomial(self) -> Node:
        self.advance()
        top = self.argument()
        return Call("binom", (top, self.argument()))

    def _figure(self) -> Node:
        r"""`\angle ABC`, `\triangle ABC`: one name, whatever its letters."""
        name = self.advance().text
        if self.kind == "number":
            name += " " + self.advance().text
            return Symbol(name)
        letters = ""
        braced = self.accept("{")
        while self.kind == "symbol" and len(letters) < 8:
            letters += self.advance().text
        if braced:
            self.expect("}")
        return Symbol(f"{name} {letters}{self.marks()}".strip())

    def _blackboard(self) -> Node:
        self.advance()
        braced = self.accept("{")
        name = self.expect("symbol").text
        if braced:
            self.expect("}")
        found = constant(BLACKBOARD[name]) if name in BLACKBOARD else Symbol(f"mathbb {name}")
        if self.kind == "_":
            return Symbol(f"{BLACKBOARD.get(name, name)}{self.marks()}")
        return found

    def _accented(self) -> Node:
        r"""`\vec{a}` is `a`; `\overline{AB}` a name of its own; `\overline{z}` a conjugate."""
        accent = self.advance().kind
        accent = _SAME_ACCENT.get(accent, accent)
        at = self.index + (self.kind == "{")
        letters = ""
        while self.tokens[at].kind in ("symbol", "number") and len(letters) < 16:
            letters += self.tokens[at].text
            at += 1
        closed = self.kind != "{" or self.tokens[at].kind == "}"
        if self.kind != "{":
            letters = self.token.text
        if accent == "overset" or (not letters and self.kind not in ("{", "(", "words")):
            raise self.error(f"a letter under {accent}")
        if not closed or not letters or letters.isdigit():
            inner = self.argument()
            return Call("conj", (inner,)) if accent in ("overline", "bar") else inner
        plain = len(letters) == 1 and accent in ("vec", "overrightarrow")
        named = accent in _KEPT_ACCENTS and not plain
        if accent in ("overline", "bar") and len(letters) == 1:
            return Call("conj", (self.argument(),))
        if named or len(letters) == 1:
            self.index = at + (self.kind == "{") if self.kind == "{" else self.index + 1
            return Symbol((f"{accent} {letters}" if named else letters) + self.marks())
        return self.argument()


def _is_proper(node: Node) -> bool:
    if not isinstance(node, Quotient):
        return False
    top, bottom = plain_integer(node.numerator), plain_integer(node.denominator)
    return top is not None and bottom is not None and 0 < top < bottom


def degrees_or_percent(node: Node, unit: str) -> Node | None:
    """The node where the unit is a word for a sign, else `None`."""
    word = unit.strip(" .").lower()
    if word in vocabulary.DEGREE_WORDS:
        return Degrees(node)
    return Percent(node) if word in vocabulary.PERCENT_WORDS else None

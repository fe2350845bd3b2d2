"""Brackets, bars, sets, braces and matrices: the part of the grammar that opens and closes."""

from abc import ABC, abstractmethod
from typing import Literal

from cotree.rewards.equality.commands import FENCE_FUNCTIONS, FENCES
from cotree.rewards.equality.cursor import Cursor
from cotree.rewards.equality.nodes import (
    Bracketed,
    Call,
    Listing,
    Matrix,
    Node,
    Quotient,
    SetBuilder,
)
from cotree.rewards.equality.tokens import END

Joined = Literal["and", "or"]
SEPARATORS = frozenset({",", "connector", "newline"})
_CLOSES = {"(": (")", "]"), "[": ("]", ")", "["), "]": ("[", "]", ")")}
_LISTS = frozenset({"cases", "align", "align*", "aligned", "gathered", "gather*", "split"})


class Brackets(Cursor, ABC):
    """What stands between delimiters."""

    @abstractmethod
    def relation(self) -> Node:
        """One item of a listing: an expression, or expressions with `=`, `<`, … between them."""

    def items(self) -> tuple[list[Node], Joined]:
        """One or more relations separated by commas, line breaks, `and` or `or`."""
        found, joined = [self.relation(), *self._pending_conditions()], "and"
        while self.kind in SEPARATORS:
            while self.kind in SEPARATORS:
                token = self.advance()
                joined = "or" if token.text == "or" else joined
            if self.kind in (END, "close"):
                break
            found += [self.relation(), *self._pending_conditions()]
        return found, "or" if joined == "or" else "and"

    def _pending_conditions(self) -> list[Node]:
        pending, self.conditions = self.conditions, []
        return pending

    def listing(self) -> Node:
        """The items as one node."""
        found, joined = self.items()
        return found[0] if len(found) == 1 else Listing(tuple(found), joined)

    def bracket(self) -> Node:
        """From `(`, `[` or a French `]`: a grouped expression, a point or an interval."""
        opening = self.advance().kind
        self.fences.append(opening)
        found, _ = self.items()
        self.fences.pop()
        closing = self.expect(*_CLOSES[opening]).kind
        if len(found) == 1 and (opening, closing) == ("(", ")"):
            return found[0]
        if len(found) == 1 and (opening, closing) != ("[", "]"):
            raise self.error(f"a second item between {opening!r} and {closing!r}")
        if len(found) == 1 and isinstance(found[0], Matrix):
            return found[0]
        return _bracketed(opening, closing, found)

    def french_interval_ends(self) -> bool:
        """Whether the `[` here closes `[0,1[` instead of opening a factor."""
        inside = bool(self.fences) and self.fences[-1] in ("[", "]")
        follows = self.ahead(1)
        return inside and (follows in (END, "set", "close") or follows in SEPARATORS)

    def arguments(self) -> tuple[Node, ...]:
        """What stands in the parentheses of a function call; nothing is allowed."""
        self.expect("(")
        if self.accept(")"):
            return ()
        self.fences.append("(")
        found, _ = self.items()
        self.fences.pop()
        self.expect(")")
        return tuple(found)

    def vector(self) -> Node:
        r"""From `\langle` or `<`: components of a vector."""
        opening = self.advance()
        self.fences.append("<")
        found, _ = self.items()
        self.fences.pop()
        if opening.kind == "relation" and self.token.text == ">":
            self.advance()
        else:
            self.expect(">")
        return Bracketed("<", ">", tuple(found))

    def set_braces(self) -> Node:
        r"""From `\{`: a set by its elements or by a condition."""
        self.advance()
        if self.accept("set}"):
            return Bracketed("{", "}", ())
        return self._set("set}")

    def braces(self) -> Node:
        r"""From a bare `{`: grouping, `{n \choose k}`, or a set whose backslashes were left out."""
        self.expect("{")
        node = self._set("}")
        if isinstance(node, Bracketed) and len(node.items) == 1 and node.left == "{":
            return node.items[0]
        return node

    def _set(self, closing: str) -> Node:
        self.fences.append(closing)
        found, _ = self.items()
        if self.kind in ("choose", "stacked") and len(found) == 1:
            stacked = self.advance().kind == "stacked"
            right = self.relation()
            pair = (found[0], right)
            node: Node = Quotient(*pair) if stacked else Call("binom", pair)
            found = [node]
        elif self.kind in ("mid", "|", ":") and len(found) == 1:
            self.advance()
            condition = self.listing()
            self.fences.pop()
            self.expect(closing)
            return SetBuilder(found[0], condition)
        self.fences.pop()
        self.expect(closing)
        return Bracketed("{", "}", tuple(found))

    def bars(self) -> Node:
        """From `|`: an absolute value, or a determinant."""
        self.advance()
        self.fences.append("|")
        inner = self.relation()
        self.fences.pop()
        if not self.accept("rvert"):
            self.expect("|")
        return _absolute(inner)

    def norm_bars(self) -> Node:
        r"""From `\|`: a norm."""
        self.advance()
        self.fences.append("norm")
        inner = self.relation()
        self.fences.pop()
        self.expect("norm", "rVert")
        return Call("norm", (inner,))

    def fence(self) -> Node:
        r"""From `\lfloor`, `\lceil`, `\lvert`: the function that the pair stands for."""
        opening = self.advance().kind
        self.fences.append(opening)
        inner = self.relation()
        self.fences.pop()
        if opening != "lvert" or not self.accept("|"):
            self.expect(FENCES[opening])
        name = FENCE_FUNCTIONS[opening]
        return _absolute(inner) if name == "abs" else Call(name, (inner,))

    def environment(self) -> Node:
        r"""From `\begin`: a matrix, or the rows of a system."""
        opening = self.advance()
        self.fences.append("environment")
        node = self._rows() if opening.text in _LISTS else self._matrix(opening.text)
        self.fences.pop()
        closing = self.expect("close")
        if closing.text != opening.text:
            raise self.error(rf"\end{{{opening.text}}}")
        return node

    def _rows(self) -> Node:
        at = self.index
        while self.tokens[at].kind not in ("close", END):
            at += 1
        cells = self.tokens[self.index : at]
        self.tokens[self.index : at] = [token for token in cells if token.kind != "&"]
        return self.listing()

    def _matrix(self, name: str) -> Node:
        rows: list[tuple[Node, ...]] = []
        while self.kind != "close":
            cells = [self.relation()]
            while self.accept("&"):
                cells.append(self.relation())
            rows.append(tuple(cells))
            if not self.accept("newline"):
                break
        if not rows or any(len(row) != len(rows[0]) for row in rows):
            raise self.error("matrix rows of equal length")
        return Matrix(tuple(rows), determinant=name == "vmatrix")


def _absolute(inner: Node) -> Node:
    if isinstance(inner, Matrix):
        return Matrix(inner.rows, determinant=True)
    return Call("abs", (inner,))


def _bracketed(opening: str, closing: str, found: list[Node]) -> Node:
    left: Literal["(", "[", "]"] = "(" if opening == "(" else "[" if opening == "[" else "]"
    right: Literal[")", "]", "["] = ")" if closing == ")" else "]" if closing == "]" else "["
    return Bracketed(left, right, tuple(found))

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
    Piecewise,
    Quotient,
    Relation,
    SetBuilder,
)
from cotree.rewards.equality.tokens import END, Token

Joined = Literal["and", "or"]
SEPARATORS = frozenset({",", "connector", "newline"})
_CLOSES = {"(": (")", "]"), "[": ("]", ")", "["), "]": ("[", "]", ")")}
_LISTS = frozenset(
    {"cases", "dcases", "rcases", "align", "align*", "aligned", "alignedat", "gathered", "gather"}
    | {"gather*", "split"}
)
_SYSTEMS = _LISTS | {"array", "matrix"}
"""Behind a brace, the rows of these are a system too."""


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
        r"""From `\{`: a set by its elements or by a condition, or the rows of a system."""
        self.advance()
        if self.kind == "begin" and self.token.text in _SYSTEMS:
            rows = self.environment(system=True)
            self.accept("set}")
            return rows
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
        elif self.kind in ("mid", "|", ":", "rvert") and len(found) == 1:
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

    def environment(self, *, system: bool = False) -> Node:
        r"""From `\begin`: a matrix, or the rows of a system."""
        opening = self.advance()
        self.fences.append("environment")
        listed = system or opening.text in _LISTS
        node = self._rows() if listed else self._matrix(opening.text)
        self.fences.pop()
        closing = self.expect("close")
        if closing.text != opening.text:
            raise self.error(rf"\end{{{opening.text}}}")
        return node

    def _rows(self) -> Node:
        """Equations side by side, or values with the conditions under which they hold."""
        self._drop_alignment()
        found: list[Node] = []
        pieces: list[tuple[Node, Node]] = []
        joined: Joined = "and"
        while self.kind not in ("close", END):
            row, conditional, joined = self._row(joined)
            if conditional and len(row) > 1:
                condition = row[1] if len(row) == 2 else Listing(tuple(row[1:]))
                pieces.append((row[0], condition))
            else:
                found += row
            self.accept("newline")
        if pieces and not found:
            return Piecewise(tuple(pieces))
        if pieces or not found:
            raise self.error("rows that are all equations, or all values with their conditions")
        return found[0] if len(found) == 1 else Listing(tuple(found), joined)

    def _row(self, joined: Joined) -> tuple[list[Node], bool, Joined]:
        """The items of a row, and whether those behind the first are its conditions."""
        row: list[Node] = []
        conditional = False
        while self.kind not in ("newline", "close", END):
            row += [self.relation(), *self._pending_conditions()]
            while self.kind in ("&", ",", "connector"):
                token = self.advance()
                if token.kind == "connector" and len(row) == 1:
                    conditional = conditional or token.text == "if"
                elif token.kind == "&":
                    conditional = conditional or not isinstance(row[0], Relation)
                joined = "or" if token.text == "or" else joined
        if len(row) == 2 and not isinstance(row[0], Relation):
            conditional = conditional or isinstance(row[1], Relation)
        return row, conditional, joined

    def _drop_alignment(self) -> None:
        """Removes each `&` of this environment that only aligns: beside a relation or a row's end.

        Those that stay separate a value from its condition.
        """
        ends = ("relation", "newline", "close", "&", "begin")
        kept: list[Token] = []
        at, depth = self.index, 0
        while self.tokens[at].kind != END and (depth or self.tokens[at].kind != "close"):
            token = self.tokens[at]
            depth += {"begin": 1, "close": -1}.get(token.kind, 0)
            previous = kept[-1].kind if kept else "begin"
            aligns = previous in ends or self.tokens[at + 1].kind in ends
            if depth or token.kind != "&" or not aligns:
                kept.append(token)
            at += 1
        self.tokens[self.index : at] = kept

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
        if all(len(row) == 1 and isinstance(row[0], Relation) for row in rows):
            return Listing(tuple(row[0] for row in rows)) if len(rows) > 1 else rows[0][0]
        return Matrix(tuple(rows), determinant=name == "vmatrix")


def _absolute(inner: Node) -> Node:
    if isinstance(inner, Matrix):
        return Matrix(inner.rows, determinant=True)
    return Call("abs", (inner,))


def _bracketed(opening: str, closing: str, found: list[Node]) -> Node:
    left: Literal["(", "[", "]"] = "(" if opening == "(" else "[" if opening == "[" else "]"
    right: Literal[")", "]", "["] = ")" if closing == ")" else "]" if closing == "]" else "["
    return Bracketed(left, right, tuple(found))

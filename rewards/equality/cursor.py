"""A place in a list of tokens, and the bounds every walk along it keeps."""

from cotree.rewards.equality.nodes import Node
from cotree.rewards.equality.tokens import END, ParseError, Token, TooLarge

MAX_NESTING = 32
"""Brackets, fractions, roots and exponents inside one another."""
MAX_CHAIN = 24
"""Operators that make the tree deeper by standing one after another, as in `a : b - c : d`."""


class Cursor:
    """Reads tokens from the left; all loops and recursions of the grammar go through it."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.index = 0
        self.fences: list[str] = []
        """What closes the bracket, bar or brace that is open here, innermost last."""
        self.conditions: list[Node] = []
        """Conditions in parentheses after an expression, until its item ends."""
        self._depth = 0
        self._chain = 0

    @property
    def token(self) -> Token:
        """The next token."""
        return self.tokens[self.index]

    @property
    def kind(self) -> str:
        """What the next token is."""
        return self.tokens[self.index].kind

    def ahead(self, count: int) -> str:
        """The kind of the token `count` further on; `END` beyond the last."""
        at = self.index + count
        return self.tokens[at].kind if at < len(self.tokens) else END

    def advance(self) -> Token:
        """The next token, and steps over it."""
        token = self.tokens[self.index]
        self.index += 1
        return token

    def accept(self, kind: str) -> bool:
        """Steps over the next token if it is of this kind."""
        if self.tokens[self.index].kind != kind:
            return False
        self.index += 1
        return True

    def expect(self, *kinds: str) -> Token:
        """The next token, which must be of one of these kinds.

        Raises:
            ParseError: it is not.
        """
        if self.kind not in kinds:
            raise self.error(" or ".join(repr(kind) for kind in kinds))
        return self.advance()

    def error(self, expected: str) -> ParseError:
        """What to raise when something else stands here."""
        found = "the end" if self.kind == END else repr(self.token.text)
        return ParseError(f"expected {expected}, found {found}", self.token.position)

    def descend(self) -> None:
        """Counts one more level of nesting.

        Raises:
            TooLarge: that is too many.
        """
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise TooLarge(f"nested deeper than {MAX_NESTING}", self.token.position)

    def ascend(self) -> None:
        """Leaves a level."""
        self._depth -= 1

    def chain(self) -> None:
        """Counts one operator that nests to the left.

        Raises:
            TooLarge: the text has too many.
        """
        self._chain += 1
        if self._chain > MAX_CHAIN:
            raise TooLarge(f"more than {MAX_CHAIN} operators in a chain", self.token.position)

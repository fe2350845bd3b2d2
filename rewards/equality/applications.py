"""What applies to something: functions, sums and integrals, exponents, arguments of commands."""

from abc import abstractmethod

from cotree.rewards.equality import numerals
from cotree.rewards.equality.brackets import Brackets
from cotree.rewards.equality.commands import TRIGONOMETRIC
from cotree.rewards.equality.leaves import OPERAND_STARTS, letter, numeral, ungrouped
from cotree.rewards.equality.nodes import BigOperator, Call, Matrix, Negation, Node, Power, Symbol
from cotree.rewards.equality.tokens import END

_LISTED = frozenset({"gcd", "lcm", "min", "max"})


class Applications(Brackets):
    """Functions and big operators, and the arguments and exponents they share with operands."""

    @abstractmethod
    def primary(self) -> Node:
        """An operand without exponent or sign."""

    @abstractmethod
    def factor(self) -> Node:
        """An operand with its sign, exponent, factorial, percent or degree sign."""

    @abstractmethod
    def product(self) -> Node:
        """Factors joined by multiplication and division."""

    @abstractmethod
    def sum(self) -> Node:
        """Terms joined by plus and minus."""

    @abstractmethod
    def joined(self, factors: list[Node]) -> Node:
        """Several factors as one product."""

    @abstractmethod
    def marks(self) -> str:
        """Subscript and primes, as they continue the name of a symbol."""

    def function(self) -> Node:
        """A named function with its exponent, base and arguments."""
        name = self.advance().text
        exponent: Node | None = None
        below: Node | None = None
        while self.kind in ("^", "_"):
            if self.advance().kind == "^":
                exponent = self.script()
            elif self.ahead(0) == "number" and self.ahead(1) not in OPERAND_STARTS:
                below = self.argument()  # `\log_28` is the logarithm of 8
            else:
                below = self.script(chained=False)
        if name in TRIGONOMETRIC and exponent == Negation(numerals.number("1")):
            name, exponent = f"arc{name}", None
        node = self._applied(name, below)
        return node if exponent is None else Power(node, exponent)

    def _applied(self, name: str, below: Node | None) -> Node:
        if below is not None and name not in ("log", "ln"):
            raise self.error(f"no subscript on {name}")
        found = self._function_arguments(name)
        if name in ("log", "ln"):
            if len(found) == 1 and below is None and name == "ln":
                return Call("ln", found)
            return Call("log", (*found, below or numerals.number("10"))[:2])
        if name == "cbrt":
            return Call("root", (*found, numerals.number("3")))
        if name == "det" and isinstance(found[0], Matrix):
            return Matrix(found[0].rows, determinant=True)
        return Call(name, found)

    def _function_arguments(self, name: str) -> tuple[Node, ...]:
        if self.kind == "(":
            found = self.arguments()
            if not found:
                raise self.error(f"an argument of {name}")
            return found
        if self.kind == "set{" and name in _LISTED:
            return getattr(self.set_braces(), "items", ())
        if self.kind in ("{", "|", "lvert", "[") or name in ("sqrt", "cbrt", "abs"):
            self.descend()
            node = ungrouped(self.primary())
            self.ascend()
            return getattr(node, "items", (node,)) if name in _LISTED else (node,)
        factors = [self.factor()]
        while self.kind in OPERAND_STARTS and self.kind not in ("function", "big", "(", "|", "["):
            if self.differential():
                break
            factors.append(self.factor())
        return (factors[0] if len(factors) == 1 else self.joined(factors),)

    def differential(self) -> bool:
        """Whether the `dx` that ends an integral stands here."""
        inside = bool(self.fences) and self.fences[-1] == "int"
        return inside and self.token.text == "d" and self.ahead(1) == "symbol"

    def big_operator(self) -> Node:
        r"""`\sum`, `\prod`, `\lim` or `\int` with its limits and body."""
        name = self.advance().text
        variable, low, high = "", None, None
        while self.kind in ("_", "^"):
            if self.advance().kind == "^":
                high = self.script()
            elif name == "int":
                low = self.script(chained=False)
            else:
                variable, low = self._bound()
        if name != "int":
            body = self.product()
            kinds = {"sum": "sum", "prod": "prod", "lim": "lim"}
            return BigOperator(kinds[name], variable, low, high, body)  # pyright: ignore[reportArgumentType]
        self.fences.append("int")
        body = self.sum()
        self.fences.pop()
        if self.token.text != "d":
            raise self.error("the differential of an integral")
        self.advance()
        return BigOperator("int", self.expect("symbol").text, low, high, body)

    def _bound(self) -> tuple[str, Node | None]:
        """The variable below a big operator, and where it starts or tends."""
        braced = self.accept("{")
        variable = self.expect("symbol").text
        if self.kind == "_":
            variable += self.marks()
        low: Node | None = None
        if braced:
            if self.accept("to") or (self.kind == "relation" and self.advance().text == "="):
                low = self.sum()
            self.expect("}")
        return variable, low

    def script(self, *, chained: bool = True) -> Node:
        r"""An exponent, or a limit: a group, or one operand without what follows it.

        Args:
            chained: whether a further `^` belongs to it, as in `9^9^9`; not in `\int_0^1`.
        """
        if self.kind in ("'", "+", "times") and self.ahead(1) in (END, "}", ",", ")", "set"):
            return Symbol(self.advance().text)
        if self.kind == "{" and self.ahead(1) in ("'", "+", "times") and self.ahead(2) == "}":
            self.advance()
            sign = self.advance().text
            self.advance()
            return Symbol(sign)
        if self.kind == "{":
            self.descend()
            node = self.braces()
            self.ascend()
            return node
        self.descend()
        if self.accept("-"):
            node = Negation(self.script())
        else:
            self.accept("+")
            # Not `_number`: in `\log_2 8` two numbers do stand side by side.
            node = numeral(self.advance()) if self.kind == "number" else self.primary()
            if chained and self.accept("^"):
                node = Power(node, self.script())
        self.ascend()
        return node

    def argument(self) -> Node:
        r"""What `\frac` and its like take: a group, one digit, or one symbol."""
        self.descend()
        if self.kind == "number" and len(self.token.text) > 1 and self.token.text.isdigit():
            token = self.token
            rest = token._replace(text=token.text[1:], position=token.position + 1, spaced=False)
            self.tokens[self.index] = rest
            node: Node = numerals.number(token.text[0])
        elif self.kind == "symbol":
            node = letter(self.advance().text)
        else:
            node = self.primary()
        self.ascend()
        return node

"""The value of an expression at a point, to a chosen number of digits, in bounded work."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import mpmath
from mpmath.ctx_mp import MPContext

from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.functions import FUNCTIONS, BeyondError, Context, Value
from cotree.rewards.equality.nodes import (
    BaseNumeral,
    BigOperator,
    Bracketed,
    Call,
    Constant,
    Degrees,
    Matrix,
    Negation,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Quotient,
    Sum,
    Symbol,
)

MAX_MAGNITUDE = 200_000
"""Largest binary exponent of a value. `9^{9^{9}}` is beyond, `2004!` far below."""
_MAX_TERMS = 200
"""Terms of a sum or product that are added up; a longer one is compared by its parts."""
_MAX_DETERMINANT = 5
_FUNCTION_COST = 12
_GAMMA_COST = 60

Point = Mapping[str, int]
"""Values of the symbols, in units of 2**-POINT_BITS."""
POINT_BITS = 16


class UndefinedError(Exception):
    """The expression has no value at this point: `0/0`, or a root of a negative among reals."""


class _Contexts(threading.local):
    """mpmath keeps its precision in a context; one for each thread, so that none sees another's."""

    def __init__(self) -> None:
        self.by_digits: dict[int, MPContext] = {}


_contexts = _Contexts()

# mpmath caches constants and grows them without a lock: grown here, they are only read later.
with mpmath.workprec(4_000):
    _ = [+mpmath.pi, +mpmath.e, +mpmath.ln2, +mpmath.ln10, +mpmath.euler]


def context(digits: int) -> MPContext:
    """This thread's mpmath context of a precision, in decimal digits."""
    found = _contexts.by_digits.get(digits)
    if found is None:
        found = MPContext()
        found.dps = digits
        _contexts.by_digits[digits] = found
    return found


class Evaluator:
    """Evaluates trees at one point; over the reals or over the complex numbers."""

    def __init__(self, *, digits: int, point: Point, real: bool, budget: int) -> None:
        self._ctx: Context = context(digits)
        self._point = point
        self._real = real
        self.budget = budget
        """Work left, in units of about a microsecond."""
        self._bound: dict[str, Value] = {}
        self._symbols: dict[str, Value] = {}

    def value(self, node: Node) -> Value:
        """The value of `node`.

        Raises:
            UndefinedError: it has none here.
            BeyondError: it is too large, or too much work.
        """
        self.spend(1)
        if isinstance(node, Number):
            return self._fraction(node.value.numerator, node.value.denominator)
        if isinstance(node, Symbol):
            return self._symbol(node)
        evaluate = self._BY_TYPE.get(type(node))
        if evaluate is None:
            return self._opaque(repr(node))
        return self._checked(evaluate(self, node))

    def spend(self, cost: int) -> None:
        """Takes from the budget.

        Raises:
            BeyondError: nothing is left.
        """
        self.budget -= cost
        if self.budget < 0:
            raise BeyondError

    def _checked(self, value: Value) -> Value:
        if self._ctx.isnan(value) or self._ctx.isinf(value):
            raise UndefinedError
        if value and self._ctx.mag(value) > MAX_MAGNITUDE:
            raise BeyondError
        if self._real and hasattr(value, "_mpc_"):
            if value.imag:
                raise UndefinedError
            return value.real
        return value

    def _fraction(self, numerator: int, denominator: int) -> Value:
        value = self._ctx.mpf(numerator)
        return value if denominator == 1 else value / denominator

    def _opaque(self, key: str) -> Value:
        """A value that depends on nothing but the key: for what is compared by its look alone."""
        return self._fraction(zlib.crc32(key.encode()) + 1, 1 << 31)

    def _symbol(self, node: Symbol) -> Value:
        if node.name in self._bound:
            return self._bound[node.name]
        value = self._symbols.get(node.name)
        if value is None:
            value = self._fraction(self._point[node.name], 1 << POINT_BITS)
            self._symbols[node.name] = value
        return value

    def _constant(self, node: Constant) -> Value:
        if node.name in self._bound:
            return self._bound[node.name]
        if node.name == "pi":
            return +self._ctx.pi
        if node.name == "e":
            return +self._ctx.e
        if node.name == "i":
            if self._real:
                raise UndefinedError
            return self._ctx.mpc(0, 1)
        if node.name == "inf":
            raise UndefinedError
        return self._opaque(node.name)

    def _negation(self, node: Negation) -> Value:
        return -self.value(node.operand)

    def _sum(self, node: Sum) -> Value:
        total = self._ctx.mpf(0)
        for term in node.terms:
            total += self.value(term)
        return total

    def _product(self, node: Product) -> Value:
        total = self._ctx.mpf(1)
        for factor in node.factors:
            total = self._checked(total * self.value(factor))
        return total

    def _quotient(self, node: Quotient) -> Value:
        below = self.value(node.denominator)
        if not below:
            raise UndefinedError
        return self.value(node.numerator) / below

    def _power(self, node: Power) -> Value:
        base, exponent = self.value(node.base), self.value(node.exponent)
        return self.power(base, exponent)

    def power(self, base: Value, exponent: Value) -> Value:
        """`base**exponent`, principal branch; `0**0` is undefined."""
        if not base:
            if self._ctx.re(exponent) <= 0:
                raise UndefinedError
            return base
        # log2 |base**exponent| is about exponent * log2 |base|: checked before any big number.
        if exponent and self._ctx.mag(exponent) > 40:
            raise BeyondError
        if abs(float(self._ctx.re(exponent))) * (abs(self._ctx.mag(base)) + 1) > MAX_MAGNITUDE:
            raise BeyondError
        whole = self._ctx.isint(exponent)
        self.spend(2 if whole else _FUNCTION_COST)
        return base ** (int(self._ctx.re(exponent)) if whole else exponent)

    def _percent(self, node: Percent) -> Value:
        return self.value(node.value) / 100

    def _degrees(self, node: Degrees) -> Value:
        return self.value(node.value) * self._ctx.pi / 180

    def _bracketed(self, node: Bracketed) -> Value:
        if len(node.items) == 1 and node.left == "[":
            return self.value(node.items[0])
        return self._opaque(repr(node))

    def _base_numeral(self, node: BaseNumeral) -> Value:
        value = rational(node)
        return self._opaque(repr(node)) if value is None else self._fraction(value.numerator, 1)

    def _call(self, node: Call) -> Value:
        arguments = [self.value(argument) for argument in node.arguments]
        function = FUNCTIONS.get(node.name)
        if function is None or len(arguments) not in (1, 2):
            return self._of_many(node.name, arguments)
        self.spend(_GAMMA_COST if node.name in ("factorial", "binom") else _FUNCTION_COST)
        try:
            return function(self._ctx, *arguments)
        except (ValueError, ZeroDivisionError, TypeError) as error:
            # mpmath's way to say: a pole, a wrong domain, or a wrong number of arguments.
            raise UndefinedError from error

    def _of_many(self, name: str, arguments: list[Value]) -> Value:
        if arguments and name in ("max", "min"):
            return self._extreme(name, arguments)
        if arguments and name in ("gcd", "lcm"):
            return self._divisor(name, arguments)
        return self._unknown(name, arguments)

    def _unknown(self, name: str, arguments: list[Value]) -> Value:
        """Some fixed function of the arguments, the same for the same name and values."""
        shown = [self._ctx.nstr(argument, 12) for argument in arguments]
        return self._opaque(f"{name}({', '.join(shown)})")

    def _extreme(self, name: str, arguments: list[Value]) -> Value:
        if any(hasattr(argument, "_mpc_") for argument in arguments):
            raise UndefinedError
        return max(arguments) if name == "max" else min(arguments)

    def _divisor(self, name: str, arguments: list[Value]) -> Value:
        if not all(self._ctx.isint(argument) for argument in arguments):
            return self._unknown(name, sorted(arguments, key=lambda a: float(self._ctx.re(a))))
        whole = [abs(int(argument)) for argument in arguments]
        total = whole[0]
        for other in whole[1:]:
            common = _gcd(total, other)
            total = common if name == "gcd" else total // (common or 1) * other
        return self._ctx.mpf(total)

    def _matrix(self, node: Matrix) -> Value:
        size = len(node.rows)
        if not node.determinant or size > _MAX_DETERMINANT or size != len(node.rows[0]):
            return self._opaque(repr(node))
        return _determinant([[self.value(item) for item in row] for row in node.rows])

    def _big_operator(self, node: BigOperator) -> Value:
        low = rational(node.low) if node.low is not None else None
        high = rational(node.high) if node.high is not None else None
        outer = self._bound.get(node.variable)
        try:
            if node.name in ("sum", "prod") and low is not None and high is not None:
                whole = low.denominator == high.denominator == 1
                if whole and 0 <= high - low < _MAX_TERMS:
                    return self._added_up(node, int(low), int(high))
            return self._by_parts(node)
        finally:
            if outer is None:
                self._bound.pop(node.variable, None)
            else:
                self._bound[node.variable] = outer

    def _added_up(self, node: BigOperator, low: int, high: int) -> Value:
        total = self._ctx.mpf(0 if node.name == "sum" else 1)
        for index in range(low, high + 1):
            self._bound[node.variable] = self._ctx.mpf(index)
            term = self.value(node.body)
            total = self._checked(total + term if node.name == "sum" else total * term)
        return total

    def _by_parts(self, node: BigOperator) -> Value:
        """Equal for equal limits and bodies, whatever the bound variable is called."""
        limits = [
            self._opaque("none") if limit is None
            else self._opaque(repr(limit)) if _infinite(limit) else self.value(limit)
            for limit in (node.low, node.high)
        ]  # fmt: skip
        self._bound[node.variable] = self._opaque("bound")
        return self._unknown(node.name, [*limits, self.value(node.body)])

    _BY_TYPE: ClassVar[dict[type, Callable[[Evaluator, Any], Value]]] = {
        Constant: _constant,
        Negation: _negation,
        Sum: _sum,
        Product: _product,
        Quotient: _quotient,
        Power: _power,
        Percent: _percent,
        Degrees: _degrees,
        Bracketed: _bracketed,
        BaseNumeral: _base_numeral,
        Call: _call,
        Matrix: _matrix,
        BigOperator: _big_operator,
    }


def _infinite(node: Node) -> bool:
    inner = node.operand if isinstance(node, Negation) else node
    return isinstance(inner, Constant) and inner.name == "inf"


def _gcd(left: int, right: int) -> int:
    while right:
        left, right = right, left % right
    return left


def _determinant(rows: list[list[Value]]) -> Value:
    if len(rows) == 1:
        return rows[0][0]
    total: Value = 0
    for column, factor in enumerate(rows[0]):
        minor = [row[:column] + row[column + 1 :] for row in rows[1:]]
        total += (-1) ** column * factor * _determinant(minor)
    return total

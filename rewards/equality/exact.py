"""The exact rational value of an expression, where it has one of reasonable size."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

from cotree.rewards.equality.nodes import (
    BaseNumeral,
    Bracketed,
    Call,
    Negation,
    Node,
    Number,
    Percent,
    Power,
    Product,
    Quotient,
    Sum,
)

MAX_BITS = 32_768
"""Bits of a numerator or denominator; beyond that an exact value is not computed."""
_MAX_ARGUMENT = 2_600
"""Of a factorial: the largest whose value has fewer than `MAX_BITS` bits."""
_MAX_BINOMIAL = 20_000
_MAX_ROOT_BITS = 4_096
_FLOOR_LIKE = {"floor": math.floor, "ceil": math.ceil}


class _NotRationalError(Exception):
    """No rational value, or too large a one."""


def rational(node: Node) -> Fraction | None:
    r"""The exact value of `node`, or `None` if it has none or one beyond `MAX_BITS`.

    Evaluates numbers, `+ - * /`, powers with integer exponents, roots that come out even,
    factorials, binomials, absolute values, gcd and the like, percent signs (as hundredths) and
    base-n numerals. Every intermediate value is bounded before it is computed, so the time is
    bounded too; `0/0` and `0^0` have no value.
    """
    if isinstance(node, Number):
        return node.value
    try:
        return _value(node)
    except (_NotRationalError, ZeroDivisionError):
        return None


def _value(node: Node) -> Fraction:
    if isinstance(node, Number):
        return node.value
    evaluate = _EVALUATORS.get(type(node))
    if evaluate is None:
        raise _NotRationalError
    value = evaluate(node)
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NotRationalError
    return value


def _negation(node: Negation) -> Fraction:
    return -_value(node.operand)


def _sum(node: Sum) -> Fraction:
    total = Fraction(0)
    for term in node.terms:
        total += _value(term)
        _check(total)
    return total


def _product(node: Product) -> Fraction:
    total = Fraction(1)
    for factor in node.factors:
        total *= _value(factor)
        _check(total)
    return total


def _quotient(node: Quotient) -> Fraction:
    return _value(node.numerator) / _value(node.denominator)


def _percent(node: Percent) -> Fraction:
    return _value(node.value) / 100


def _bracketed(node: Bracketed) -> Fraction:
    if len(node.items) == 1 and node.left == "[":
        return _value(node.items[0])
    raise _NotRationalError


def _base_numeral(node: BaseNumeral) -> Fraction:
    if not 2 <= node.base <= 36 or not all(int(c, 36) < node.base for c in node.digits):
        raise _NotRationalError
    return Fraction(int(node.digits, node.base))


def _power(node: Power) -> Fraction:
    base, exponent = _value(node.base), _value(node.exponent)
    if exponent.denominator != 1:
        base = _root(base, exponent.denominator)
    return _integer_power(base, exponent.numerator)


def _integer_power(base: Fraction, exponent: int) -> Fraction:
    if base == 0 and exponent <= 0:
        raise _NotRationalError
    if abs(base) == 1:
        return base if exponent % 2 else Fraction(1)
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if bits * abs(exponent) > MAX_BITS:
        raise _NotRationalError
    return base**exponent


def _root(value: Fraction, degree: int) -> Fraction:
    """The real root of a rational, if it is rational."""
    if value < 0 and degree % 2 == 0:
        raise _NotRationalError
    sign = -1 if value < 0 else 1
    return sign * Fraction(
        _integer_root(abs(value.numerator), degree), _integer_root(value.denominator, degree)
    )


def _integer_root(value: int, degree: int) -> int:
    if value < 2:
        return value
    if value.bit_length() > _MAX_ROOT_BITS or degree >= value.bit_length():
        raise _NotRationalError
    # Newton's method on integers, from above, ends at the floor of the root.
    guess = 1 << -(-value.bit_length() // degree)
    while True:
        lower = ((degree - 1) * guess + value // guess ** (degree - 1)) // degree
        if lower >= guess:
            break
        guess = lower
    if guess**degree != value:
        raise _NotRationalError
    return guess


def _call(node: Call) -> Fraction:
    # By name first: most calls (sin, ln, f) have no rational value whatever their arguments.
    function = _FUNCTIONS.get(node.name)
    if function is None:
        raise _NotRationalError
    return function([_value(argument) for argument in node.arguments])


def _sqrt(arguments: list[Fraction]) -> Fraction:
    (radicand,) = _taking(arguments, 1)
    return _root(radicand, 2)


def _nth_root(arguments: list[Fraction]) -> Fraction:
    radicand, degree = _taking(arguments, 2)
    if degree.denominator != 1 or degree < 2:
        raise _NotRationalError
    return _root(radicand, degree.numerator)


def _factorial(arguments: list[Fraction]) -> Fraction:
    (count,) = _taking(arguments, 1)
    if count.denominator != 1 or not 0 <= count <= _MAX_ARGUMENT:
        raise _NotRationalError
    return Fraction(math.factorial(count.numerator))


def _double_factorial(arguments: list[Fraction]) -> Fraction:
    (count,) = _taking(arguments, 1)
    if count.denominator != 1 or not 0 <= count <= _MAX_ARGUMENT:
        raise _NotRationalError
    return Fraction(math.prod(range(count.numerator, 0, -2)))


def _binomial(arguments: list[Fraction]) -> Fraction:
    top, bottom = _taking(arguments, 2)
    if top.denominator != 1 or bottom.denominator != 1 or not 0 <= top <= _MAX_BINOMIAL:
        raise _NotRationalError
    return Fraction(math.comb(top.numerator, bottom.numerator) if bottom >= 0 else 0)


def _absolute(arguments: list[Fraction]) -> Fraction:
    (value,) = _taking(arguments, 1)
    return abs(value)


def _rounded(name: str) -> Callable[[list[Fraction]], Fraction]:
    def evaluate(arguments: list[Fraction]) -> Fraction:
        (value,) = _taking(arguments, 1)
        return Fraction(_FLOOR_LIKE[name](value))

    return evaluate


def _of_integers(fold: Callable[..., int]) -> Callable[[list[Fraction]], Fraction]:
    def evaluate(arguments: list[Fraction]) -> Fraction:
        if not arguments or any(value.denominator != 1 for value in arguments):
            raise _NotRationalError
        bits = sum(value.numerator.bit_length() for value in arguments)
        if bits > MAX_BITS:
            raise _NotRationalError
        return Fraction(fold(*(value.numerator for value in arguments)))

    return evaluate


def _extreme(choose: Callable[[list[Fraction]], Fraction]) -> Callable[[list[Fraction]], Fraction]:
    def evaluate(arguments: list[Fraction]) -> Fraction:
        if not arguments:
            raise _NotRationalError
        return choose(arguments)

    return evaluate


def _modulo(arguments: list[Fraction]) -> Fraction:
    value, modulus = _taking(arguments, 2)
    return value % modulus


def _logarithm(arguments: list[Fraction]) -> Fraction:
    """An integer power of the base, by division; others are left to numerical comparison."""
    value, base = _taking(arguments, 2)
    if value <= 0 or base <= 1 or base.denominator != 1:
        raise _NotRationalError
    inverse = value < 1
    number = 1 / value if inverse else value
    if number.denominator != 1 or number.numerator.bit_length() > _MAX_ROOT_BITS:
        raise _NotRationalError
    rest, power = number.numerator, 0
    while rest % base.numerator == 0:
        rest, power = rest // base.numerator, power + 1
    if rest != 1:
        raise _NotRationalError
    return Fraction(-power if inverse else power)


def _taking(arguments: list[Fraction], count: int) -> list[Fraction]:
    if len(arguments) != count:
        raise _NotRationalError
    return arguments


def _check(value: Fraction) -> None:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
        raise _NotRationalError


_FUNCTIONS: dict[str, Callable[[list[Fraction]], Fraction]] = {
    "sqrt": _sqrt,
    "root": _nth_root,
    "factorial": _factorial,
    "double_factorial": _double_factorial,
    "binom": _binomial,
    "abs": _absolute,
    "floor": _rounded("floor"),
    "ceil": _rounded("ceil"),
    "gcd": _of_integers(math.gcd),
    "lcm": _of_integers(math.lcm),
    "min": _extreme(min),
    "max": _extreme(max),
    "mod": _modulo,
    "log": _logarithm,
}
_EVALUATORS: dict[type, Callable[..., Fraction]] = {
    Negation: _negation,
    Sum: _sum,
    Product: _product,
    Quotient: _quotient,
    Percent: _percent,
    Power: _power,
    Call: _call,
    Bracketed: _bracketed,
    BaseNumeral: _base_numeral,
}

"""Elementary functions on mpmath numbers, each refusing what would take long."""

from collections.abc import Callable
from typing import Any, TypeAlias

Value: TypeAlias = Any
"""An mpmath real or complex number; mpmath has no type annotations."""
Context: TypeAlias = Any
"""An mpmath context of one precision; this thread's own."""


class BeyondError(Exception):
    """The value is too large, or its computation would exceed the budget."""


def _root(ctx: Context, radicand: Value, degree: Value) -> Value:
    """Among real numbers an odd root of a negative number is negative, not the principal one."""
    if not ctx.isint(degree) or not degree:
        return radicand ** (1 / degree)
    if not hasattr(radicand, "_mpc_") and radicand < 0 and int(degree) % 2:
        return -((-radicand) ** (1 / degree))
    return radicand ** (1 / degree)


def _factorial(ctx: Context, count: Value) -> Value:
    if abs(count) > 5_000:
        raise BeyondError
    return ctx.factorial(count)


def _binomial(ctx: Context, top: Value, bottom: Value) -> Value:
    if abs(top) > 20_000 or abs(bottom) > 20_000:
        raise BeyondError
    return ctx.binomial(top, bottom)


def _exponential(ctx: Context, power: Value) -> Value:
    if power and ctx.mag(power) > 17:
        raise BeyondError
    return ctx.exp(power)


def _trigonometric(name: str) -> Callable[..., Value]:
    def evaluate(ctx: Context, angle: Value) -> Value:
        if angle and ctx.mag(angle) > 64:
            raise BeyondError  # reducing a large angle modulo pi takes as many digits as it has
        if hasattr(angle, "_mpc_") and ctx.mag(angle) > 12:
            raise BeyondError
        return getattr(ctx, name)(angle)

    return evaluate


def _logarithm(ctx: Context, value: Value, base: Value | None = None) -> Value:
    return ctx.ln(value) if base is None else ctx.ln(value) / ctx.ln(base)


def _modulo(ctx: Context, value: Value, modulus: Value) -> Value:
    return value - modulus * ctx.floor(value / modulus)


_INVERSES = {"arcsin": "asin", "arccos": "acos", "arctan": "atan", "arccot": "acot"} | {
    "arcsec": "asec", "arccsc": "acsc", "arcsinh": "asinh", "arccosh": "acosh", "arctanh": "atanh"
}  # fmt: skip
_DIRECT = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "sech", "csch")

FUNCTIONS: dict[str, Callable[..., Value]] = {
    "sqrt": lambda ctx, x: ctx.sqrt(x),
    "root": _root,
    "abs": lambda _, x: abs(x),
    "norm": lambda _, x: abs(x),
    "factorial": _factorial,
    "double_factorial": lambda ctx, x: ctx.fac2(x) if abs(x) < 5_000 else _factorial(ctx, x),
    "binom": _binomial,
    "floor": lambda ctx, x: ctx.floor(x),
    "ceil": lambda ctx, x: ctx.ceil(x),
    "exp": _exponential,
    "ln": _logarithm,
    "log": _logarithm,
    "mod": _modulo,
    "conj": lambda ctx, x: ctx.conj(x),
    "re": lambda ctx, x: ctx.re(x),
    "im": lambda ctx, x: ctx.im(x),
    "arg": lambda ctx, x: ctx.arg(x),
    "cis": lambda ctx, x: ctx.expj(x) if not x or ctx.mag(x) < 64 else _factorial(ctx, x),
    "sign": lambda ctx, x: ctx.sign(x),
    **{name: _trigonometric(name) for name in _DIRECT},
    **{name: _trigonometric(short) for name, short in _INVERSES.items()},
}
"""By name: of a context and one or two values."""

"""Whether what a program produced is what was expected.

The parent's work: the program never sees what is expected, and no method of an object that it
made is called.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Never

MAX_TOLERANCE = 0.01
"""Wider ones would accept guesses."""


def same_output(printed: bytes, expected: str, *, tolerance: float) -> bool:
    """Whether the lines are equal, but for spaces at their ends and blank lines at the end.

    Args:
        printed: standard output; what is no UTF-8 equals nothing.
        expected: the text it must be.
        tolerance: for words that `expected` writes with a decimal point, see `same_number`; 0
            compares text.
    """
    try:
        lines = _lines(printed.decode())
    except UnicodeDecodeError:
        return False
    wanted = _lines(expected)
    if lines == wanted or tolerance == 0.0 or len(lines) != len(wanted):
        return lines == wanted
    return all(
        len(words := line.split()) == len(want.split())
        and all(
            _same_word(word, other, tolerance=tolerance)
            for word, other in zip(words, want.split(), strict=True)
        )
        for line, want in zip(lines, wanted, strict=True)
    )


def same_value(returned: str, expected: object, *, tolerance: float) -> bool:
    """Whether JSON text holds the expected value.

    Tuples are lists, keys are strings, `True` is not `1`, and `2.0` is `2`. `NaN` equals nothing.

    Args:
        returned: what the function returned, as the sandboxed process wrote it.
        expected: plain data; bounds how deep the comparison goes.
        tolerance: for numbers where the expected one is a float, see `same_number`.
    """
    try:
        value = json.loads(returned, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return False
    return _same(value, expected, tolerance=tolerance)


def same_number(value: float, expected: float, *, tolerance: float) -> bool:
    """`|value - expected| <= tolerance * max(1, |expected|)`; exact when the tolerance is 0.

    Integers are compared exactly whatever the tolerance, so a large one cannot be guessed.
    """
    if isinstance(expected, int) or tolerance == 0.0:
        return value == expected
    try:
        return abs(float(value) - expected) <= tolerance * max(1.0, abs(expected))
    except OverflowError:
        return False


def _same(value: object, expected: object, *, tolerance: float) -> bool:
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, int | float) and isinstance(expected, int | float):
        return same_number(value, expected, tolerance=tolerance)
    if isinstance(value, list) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(
            _same(one, other, tolerance=tolerance)
            for one, other in zip(value, expected, strict=True)
        )
    if isinstance(value, dict) and isinstance(expected, Mapping):
        return value.keys() == expected.keys() and all(
            _same(one, expected[key], tolerance=tolerance) for key, one in value.items()
        )
    return type(value) is type(expected) and value == expected


def _same_word(word: str, expected: str, *, tolerance: float) -> bool:
    if word == expected:
        return True
    if "." not in expected:
        return False
    try:
        value, wanted = float(word), float(expected)
    except ValueError:
        return False
    return math.isfinite(value) and same_number(value, wanted, tolerance=tolerance)


def _lines(text: str) -> Sequence[str]:
    lines = [line.rstrip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _no_number(name: str) -> Never:
    raise ValueError(f"{name} is no JSON number")

r"""Reward 1.0 when the final answer equals the reference exactly, else 0.0. No symbolic algebra.

Safe on any text: nothing is evaluated (`9^9^9` is a string), numbers are bounded in length, and
there is no tolerance that a policy could learn to exploit.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.parser import ParseError, parse
from cotree.rewards.equality.text import clean
from cotree.rewards.extract import extract
from cotree.rewards.types import Problem, Reward, Status

MAX_NUMBER_CHARS = 200
"""Longer answers are compared as text; turning digits into an integer takes quadratic time."""

_INTEGER = r"[+-]?[0-9]+"
_NUMBER = re.compile(
    r"[+-]?(?:[0-9]{1,3}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?:\.[0-9]+)?|[0-9]+\.?[0-9]*|\.[0-9]+)"
    rf"|{_INTEGER}/[0-9]+|(?:[+-]?[0-9]*)\\frac(?:\{{{_INTEGER}\}}|[0-9])(?:\{{[0-9]+\}}|[0-9])"
)
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox)\{([^{}]*)\}")
_LOOSE_SPACE = re.compile(r"(?<![0-9]) | (?![0-9])")


class _Reference(NamedTuple):
    """A reference as read once."""

    text: str
    value: Fraction | None


def answer(completion: str, problem: Problem) -> Reward:
    r"""Compares the extracted answer with the reference, exactly.

    Typography is folded on both sides (`clean`). Integers, decimals, fractions and mixed numbers
    are compared as exact rationals (`0.5`, `1/2` and `\frac12` are equal; `0.333` and `1/3` are
    not), anything else as text without its spaces.

    Returns:
        1.0 with reason `match (rule)`, 0.0 with `mismatch (rule)`, or 0.0 with `no_answer`; the
        rule is the one of `extract` that found the answer. It never raises.
    """
    found = extract(completion)
    if found.answer is None:
        return Reward(0.0, "no_answer", status=Status.NO_ANSWER)
    if _equals(found.answer, _reference(problem.reference)):
        return Reward(1.0, f"match ({found.rule})")
    return Reward(0.0, f"mismatch ({found.rule})")


def equal(left: str, right: str) -> bool:
    """Whether two answers are the same rational number or, failing that, the same text."""
    return _equals(left, _Reference(_plain(right), number(_plain(right))))


def number(text: str) -> Fraction | None:
    r"""The value of an integer, decimal, `a/b`, `\frac{a}{b}` or mixed number; else `None`."""
    if len(text) > MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        return None
    try:
        return rational(parse(text))
    except ParseError:
        return None


def _equals(found: str, wanted: _Reference) -> bool:
    text = _plain(found)
    if text == wanted.text:
        return True
    return wanted.value is not None and number(text) == wanted.value


@lru_cache(maxsize=4096)
def _reference(reference: str) -> _Reference:
    """References are few and come back with every completion of their group."""
    text = _plain(reference)
    return _Reference(text, number(text))


def _plain(text: str) -> str:
    r"""Without typography, `\text{}`, and spaces except between digits: `1 2` is not 12."""
    return _LOOSE_SPACE.sub("", _TEXT.sub(r"\1", clean(text)).strip()).replace(r"\$", "")

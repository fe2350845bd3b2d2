r"""Reward 1.0 when the final answer equals the reference exactly, else 0.0. No symbolic algebra.

Safe on any text: nothing is evaluated (`9^9^9` is a string), numbers are bounded in length, and
there is no tolerance that a policy could learn to exploit.
"""

import re
import unicodedata
from fractions import Fraction

from cotree.rewards.extract import extract
from cotree.rewards.types import Problem, Reward

MAX_NUMBER_CHARS = 200
"""Longer answers are compared as text; turning digits into an integer takes quadratic time."""

_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?:\.[0-9]+)?")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)")
_RATIO = re.compile(r"([+-]?[0-9]+)/([0-9]+)")
_FRAC = re.compile(r"([+-]?)\\frac(?:\{([+-]?[0-9]+)\}|([0-9]))(?:\{([0-9]+)\}|([0-9]))")

_RAISED = re.compile("[\u00b2\u00b3\u00b9\u2070-\u207e]+")
_LOWERED = re.compile("[\u2080-\u208e]+")
_MIXED = re.compile("(?<=[0-9])([\u00bc-\u00be\u2150-\u215e])")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf)\{([^{}]*)\}")
_SPACING = re.compile(r"\\[,;:! ]|\\(?:left|right|quad|qquad)(?![A-Za-z])|~")
_LOOSE_SPACE = re.compile(r"(?<![0-9]) | (?![0-9])")
_SYMBOLS = str.maketrans({"−": "-", "–": "-", "⁄": "/", "∕": "/", "$": None, "×": r"\times"})


def answer(completion: str, problem: Problem) -> Reward:
    r"""Compares the extracted answer with the reference, exactly.

    Both sides are normalised (`normalize`). Integers, decimals and fractions are compared as
    exact rationals (`0.5`, `1/2` and `\frac12` are equal; `0.333` and `1/3` are not), anything
    else as text.

    Returns:
        1.0 with reason `match (rule)`, 0.0 with `mismatch (rule)`, or 0.0 with `no_answer`; the
        rule is the one of `extract` that found the answer. It never raises.
    """
    found = extract(completion)
    if found.answer is None:
        return Reward(0.0, "no_answer")
    if equal(found.answer, problem.reference):
        return Reward(1.0, f"match ({found.rule})")
    return Reward(0.0, f"mismatch ({found.rule})")


def equal(left: str, right: str) -> bool:
    """Whether two answers are the same rational number or, failing that, the same text."""
    left, right = normalize(left), normalize(right)
    if left == right:
        return True
    value = rational(left)
    return value is not None and value == rational(right)


def normalize(text: str) -> str:
    r"""The answer without its typography.

    Unicode variants are folded (NFKC), except where that would change the value: `2²` becomes
    `2^{2}` and `1½` becomes `1+1/2`, not `22` and `11/2`. Dollar signs, `\text{}`, `\left`,
    LaTeX spaces, the commas or spaces of a grouped number and a final period are dropped, other
    spaces too except between digits (`1 2` is not `12`).
    """
    text = _RAISED.sub(lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = unicodedata.normalize("NFKC", _MIXED.sub(r"+\1", text))
    text = text.replace(r"\$", "").translate(_SYMBOLS)
    text = _TEXT.sub(r"\1", _SPACING.sub("", text.replace("{,}", ",")))
    text = text.replace(r"\dfrac", r"\frac").replace(r"\tfrac", r"\frac")
    text = _LOOSE_SPACE.sub("", " ".join(text.split()))
    text = text.removesuffix(".")
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    return text


def rational(text: str) -> Fraction | None:
    r"""The exact value of a normalised integer, decimal, `a/b` or `\frac{a}{b}`; else `None`."""
    if len(text) > MAX_NUMBER_CHARS:
        return None
    if _DECIMAL.fullmatch(text):
        return Fraction(text)
    if ratio := _RATIO.fullmatch(text):
        numerator, denominator = int(ratio[1]), int(ratio[2])
    elif frac := _FRAC.fullmatch(text):
        numerator, denominator = int(frac[2] or frac[3]), int(frac[4] or frac[5])
        numerator = -numerator if frac[1] == "-" else numerator
    else:
        return None
    return Fraction(numerator, denominator) if denominator else None

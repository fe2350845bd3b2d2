r"""Generated worked solutions with known mistakes, to measure recall and false alarms of a scorer.

A trace is prose and arithmetic in the many ways people and models write it. At most one line has
a mistake in it; the lines after it go on from its wrong number, and are right by themselves.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from cotree.rewards.steps.words import word_set


class Line(NamedTuple):
    """A line of a trace, what it computes, and whether that is false."""

    span: tuple[int, int]
    kind: str
    wrong: bool


class Trace(NamedTuple):
    """A worked solution and the truth about each of its lines."""

    text: str
    lines: tuple[Line, ...]


class _Written(NamedTuple):
    """A line's text and the number the next lines may use."""

    text: str
    result: int


_Style = Callable[[random.Random, int, bool], _Written]

_NOUNS = sorted(word_set("apples books tickets pages marbles boxes cookies shells stamps coins"))
_OPENERS = ("", "", "So ", "Then ", "This gives ", "We get ", "He has ", "Hence, ", "Next: ")
_PROSE = (
    "First we collect what is given.",
    "- 3 items are left over, and 70% of them are red.",
    "1. Read the question of 2024-05-06 again (pages 3-5).",
    "Half of 10 = 5, and 5 times 3 = 15, as everyone knows.",
    "At 12:30 the ratio is 2:3, so nothing changes.",
    "Step 2 - 5 more minutes of work, about 1,000 words in all.",
    "The set {1, 2, 3} has 3 elements, and f(2) = 7 by definition.",
    "Adding 1 + 2 + ... + 10 = 55 is not needed.",
    "A dozen is 12; 2 dozen = 24, and $x$ stays unknown: 2x = 6 for now.",
    "| a | b |\n|---|---|\n| 3 | 4 |",
    "The remainder of 17 / 5 = 3 R 2, and 7 + 8 = 3 (mod 12).",
    "There are 3 * 4 small squares... and 2/3x of the rest.",
    "**Note:** 5 + 5 hours is 10 hours; 2 hours = 120 minutes.",
)


def generated_trace(seed: int, *, num_lines: int, wrong: bool) -> Trace:
    """The trace of a seed; the same arguments always give the same text.

    Args:
        seed: of all random choices.
        num_lines: lines with arithmetic, >= 1; prose lines come on top.
        wrong: whether one of those lines is false.
    """
    rng = random.Random(seed)
    at_fault = rng.randrange(num_lines) if wrong else -1
    number = rng.randrange(2, 60)
    parts: list[tuple[str, str, bool]] = []
    for index in range(num_lines):
        if rng.random() < 0.3:
            parts.append((rng.choice(_PROSE), "prose", False))
        kind = rng.choice(sorted(_STYLES))
        written = _STYLES[kind](rng, number, index == at_fault)
        parts.append((_mark(rng, index) + written.text, kind, index == at_fault))
        number = abs(written.result) % 997 + 2
    lines: list[Line] = []
    text = ""
    for piece, kind, is_wrong in parts:
        lines.append(Line((len(text), len(text) + len(piece)), kind, is_wrong))
        text += piece + "\n"
    return Trace(text, tuple(lines))


def _mark(rng: random.Random, index: int) -> str:
    marks = ("", "", "", "- ", "* ", f"{index + 1}. ", f"({index + 1}) ", f"Step {index + 1}: ")
    return rng.choice((*marks, f"**Step {index + 1}.** ")) + rng.choice(_OPENERS)


def mistaken(rng: random.Random, value: int) -> int:
    """Another number, as slips make them: off by a little, a digit changed or two swapped."""
    digits = list(str(abs(value)))
    choices = [value + 1, value - 1, value + 10, value - 10, value + 2, value * 10]
    place = rng.randrange(len(digits))
    digits[place] = str((int(digits[place]) + rng.randrange(1, 10)) % 10)
    choices.append(int("".join(digits)))
    swapped = str(abs(value))
    if len(swapped) > 1:
        choices.append(int(swapped[1] + swapped[0] + swapped[2:]))
    return rng.choice([choice for choice in choices if choice != value])


def _operation(rng: random.Random, number: int) -> tuple[str, int]:
    other = rng.randrange(2, 40)
    operator = rng.choice("+-*/")
    if operator == "/":
        return f"{number * other} / {other}", number
    results = {"+": number + other, "-": number - other, "*": number * other}
    return f"{number} {operator} {other}", results[operator]


def _plain(rng: random.Random, number: int, wrong: bool) -> _Written:
    left, value = _operation(rng, number)
    value = mistaken(rng, value) if wrong else value
    left = left.replace(" ", "") if rng.random() < 0.3 else left
    sign = rng.choice(("*", "*", "x", "×"))
    left = left.replace("*", sign) if " " in left else left
    return _Written(f"{left} = {value}{rng.choice(('', '.', ' in all.', ', as said.'))}", value)


def _brackets(rng: random.Random, number: int, wrong: bool) -> _Written:
    a, b, c = (rng.randrange(2, 20) for _ in range(3))
    value = number + a * (b - c)
    value = mistaken(rng, value) if wrong else value
    return _Written(f"{number} + {a} * ({b} - {c}) = {value}", value)


def _latex(rng: random.Random, number: int, wrong: bool) -> _Written:
    left, value = _operation(rng, number)
    value = mistaken(rng, value) if wrong else value
    left = left.replace("*", rng.choice((r"\times", r"\cdot"))).replace("/", r"\div")
    opening, closing = rng.choice((("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"), ("$$", "$$")))
    shown = rf"\boxed{{{value}}}" if rng.random() < 0.1 else str(value)
    return _Written(f"{opening}{left} = {shown}{closing}.", value)


def _fractions(rng: random.Random, number: int, wrong: bool) -> _Written:
    first, second = (Fraction(rng.randrange(1, 9), rng.randrange(2, 9)) for _ in range(2))
    total = first + second
    top = mistaken(rng, total.numerator) if wrong else total.numerator
    left = " + ".join(rf"\frac{{{f.numerator}}}{{{f.denominator}}}" for f in (first, second))
    return _Written(rf"${left} = \frac{{{top}}}{{{total.denominator}}}$", number)


def _annotation(rng: random.Random, number: int, wrong: bool) -> _Written:
    left, value = _operation(rng, number)
    value = mistaken(rng, value) if wrong else value
    inner = left.replace(" ", "")
    noun = rng.choice(_NOUNS)
    return _Written(f"the total is {left} = <<{inner}={value}>>{value} {noun}.", value)


def _units(rng: random.Random, number: int, wrong: bool) -> _Written:
    noun, other = rng.choice(_NOUNS), rng.randrange(2, 90)
    value = mistaken(rng, number + other) if wrong else number + other
    return _Written(f"{number} {noun} + {other} {noun} = {value} {noun}", value)


def _money(rng: random.Random, number: int, wrong: bool) -> _Written:
    cents, count = rng.randrange(100, 9999), rng.randrange(2, 12)
    value = mistaken(rng, cents * count) if wrong else cents * count
    shown = f"${value // 100:,}.{value % 100:02d}"
    return _Written(f"{count} * ${cents / 100:.2f} = {shown}", number)


def _percent(rng: random.Random, number: int, wrong: bool) -> _Written:
    percent, base = rng.choice((5, 10, 20, 25, 50, 75)), rng.randrange(1, 30) * 20
    value = mistaken(rng, percent * base // 100) if wrong else percent * base // 100
    return _Written(f"{percent}{rng.choice(('%', chr(92) + '%'))} of {base} = {value}", number)


def _rounded(rng: random.Random, number: int, wrong: bool) -> _Written:
    divisor = rng.choice((3, 6, 7, 9))
    exact = round(number * 100 / divisor)
    value = mistaken(rng, exact) if wrong else exact
    sign = rng.choice(("=", r"\approx", "≈"))
    return _Written(f"{number} / {divisor} {sign} {value // 100}.{value % 100:02d}", number)


def _thousands(rng: random.Random, number: int, wrong: bool) -> _Written:
    first, second = rng.randrange(1000, 90000), rng.randrange(1000, 90000)
    value = mistaken(rng, first + second) if wrong else first + second
    return _Written(f"{first:,} + {second:,} = {value:,} people", number)


def _chain(rng: random.Random, number: int, wrong: bool) -> _Written:
    a, b = rng.randrange(2, 20), rng.randrange(2, 20)
    middle = mistaken(rng, number * a) if wrong else number * a
    value = middle + b
    return _Written(f"{number} * {a} + {b} = {middle} + {b} = {value}", value)


def _aligned(rng: random.Random, number: int, wrong: bool) -> _Written:
    a, b = rng.randrange(2, 20), rng.randrange(2, 20)
    value = mistaken(rng, number + a - b) if wrong else number + a - b
    body = rf"{number} + {a} - {b} &= {number + a} - {b} \\ &= {value}"
    return _Written(rf"\begin{{align*}} {body} \end{{align*}}", value)


def _power(rng: random.Random, number: int, wrong: bool) -> _Written:
    base, exponent = rng.randrange(2, 13), rng.randrange(2, 4)
    value = mistaken(rng, base**exponent) if wrong else base**exponent
    form = rng.choice((f"${base}^{exponent}", f"${base}^{{{exponent}}}"))
    return _Written(f"{form} = {value}$", number)


def _variable(rng: random.Random, number: int, wrong: bool) -> _Written:
    # A name used once: a second value would make the scorer abstain, and rightly.
    name, a, b = rng.choice("kmnpqrstuvw"), rng.randrange(2, 12), rng.randrange(1, 30)
    value = mistaken(rng, a * number + b) if wrong else a * number + b
    return _Written(f"{name} = {number}\nNow ${a}{name} + {b} = {value}$", value)


_STYLES: dict[str, _Style] = {
    "plain": _plain,
    "brackets": _brackets,
    "latex": _latex,
    "fractions": _fractions,
    "annotation": _annotation,
    "units": _units,
    "money": _money,
    "percent": _percent,
    "rounded": _rounded,
    "thousands": _thousands,
    "chain": _chain,
    "aligned": _aligned,
    "power": _power,
    "variable": _variable,
}

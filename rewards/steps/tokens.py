r"""Running text with arithmetic in it, cut into tokens. Linear time; every token knows its place.

A token of kind `unknown` is anything a rule should not guess at: it makes the side of an equation
it touches unreadable. That is the safe direction: see `equalities`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from cotree.rewards.steps.words import word_set

Kind = Literal[
    "number",
    "operator",  # + - * / ^ of
    "open",
    "close",
    "equal",  # = and approximations
    "compare",  # < > != and the like: ends a side, is not judged
    "symbol",  # one letter, or a Greek one
    "word",
    "percent",
    "currency",  # also `$` and `\(` around mathematics: both are looked through
    "superscript",
    "bang",
    "question",
    "function",  # frac, sqrt
    "stop",  # punctuation and arrows that end an expression
    "newline",
    "annotation",  # <<48/2=24>>
    "unknown",
]

MAX_NUMBER_CHARS = 40
"""Longer numerals are `unknown`: reading digits takes quadratic time."""

_NUMBER = (
    r"[0-9]{1,3}(?:(?:,\\!|,|\{,\}|\\,|\\!,)[0-9]{3}){1,12}(?![0-9])(?:\.[0-9]+)?"
    r"|[0-9]+(?:\.[0-9]+)?|\.[0-9]+"
)
_TEXT_COMMANDS = "text|textbf|textit|textrm|mbox|mathrm|mathbf|operatorname|emph|textsf"
_SCANNER = re.compile(
    rf"""
    (?P<annotation><<[^<>\n]{{0,200}}>>)
  | (?P<newline>\n|\\\\(?:\[[^\]\n]{{0,12}}\])?|\\(?:begin|end)\s?\{{[a-zA-Z]{{1,20}}\*?\}})
  | (?P<number>(?<![0-9.,])(?:{_NUMBER}))
  | (?P<degree>\^\s?\{{?\s?\\circ\s?\}}?|°)
  | (?P<wrapped>\\(?:{_TEXT_COMMANDS})\s?\{{[^{{}}\n]{{0,200}}\}})
  | (?P<command>\\[a-zA-Z]+)
  | (?P<space>\s+|\\[,;:!>\ ]|[&`"“”~\u200b])
  | (?P<percent>\\?%)
  | (?P<currency>\\?\$|[€£¥₹]|\\[()\[\]])
  | (?P<arrow>[-=]{1, 4}>|⇒|→|⟹|∴|\#+|•|—)
  | (?P<compare>!=|<=|>=|:=|=/=|[≠≤≥<>≡])
  | (?P<equal>==?|≈|≃)
  | (?P<bold>\*\*+|__+)
  | (?P<operator>[-+*/^−–×÷·∗⋅])
  | (?P<superscript>[⁰¹²³⁴⁵⁶⁷⁸⁹]+)
  | (?P<open>[(\[{{])
  | (?P<close>[)\]}}])
  | (?P<word>[^\W\d_]+(?:['’-][^\W\d_]+)*)
  | (?P<ellipsis>\.\.+|…)
  | (?P<stop>[.,;:])
  | (?P<bang>!)
  | (?P<question>\?)
    """,
    re.VERBOSE,
)

_OPERATORS = {"−": "-", "–": "-", "×": "*", "÷": "/", "·": "*", "∗": "*", "⋅": "*"}
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_GREEK = word_set(
    "alpha beta gamma delta epsilon theta lambda mu nu rho sigma tau phi psi omega pi ell"
)
_COMMANDS: dict[str, tuple[Kind, str]] = {
    **dict.fromkeys(("times", "cdot", "ast"), ("operator", "*")),
    "div": ("operator", "/"),
    **dict.fromkeys(("frac", "dfrac", "tfrac", "cfrac"), ("function", "frac")),
    "sqrt": ("function", "sqrt"),
    **dict.fromkeys(("approx", "simeq", "thickapprox"), ("equal", "≈")),
    **dict.fromkeys(
        ("ne", "neq", "le", "leq", "ge", "geq", "lt", "gt", "equiv", "leqslant", "geqslant"),
        ("compare", ""),
    ),
    **dict.fromkeys(
        ("Rightarrow", "implies", "to", "rightarrow", "therefore", "Longrightarrow", "iff"),
        ("stop", "→"),
    ),
    **{name: ("symbol", name) for name in _GREEK},
}
_BLANK_COMMANDS = word_set(
    "left right big Big bigg Bigg bigl bigr Bigl Bigr displaystyle textstyle quad qquad boxed "
    "fbox underline thinspace"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of the text and what it is."""

    kind: Kind
    text: str
    """As the rules read it: `*` for every multiplication sign, `=` or `≈` for `equal`."""
    start: int
    end: int
    glued: bool
    """Nothing, not even a space, stands between this token and the one before."""
    value: Fraction = Fraction(0)
    """Of a number."""
    decimals: int = 0
    """Digits after a number's point."""


def tokens(text: str, *, offset: int = 0) -> list[Token]:
    """The tokens of `text`, white space and looked-through markup left out.

    Args:
        text: any text.
        offset: added to all positions; where `text` starts in the completion.
    """
    found: list[Token] = []
    end = 0  # of the last token; a gap is white space
    at = 0
    while at < len(text):
        match = _SCANNER.match(text, at)
        if match is None:
            found.append(Token("unknown", text[at], at + offset, at + 1 + offset, at == end))
            at = end = at + 1
            continue
        at = match.end()
        made = _made(match, text, glued=match.start() == end, offset=offset)
        found += made
        if made:
            end = at
    return found


def _made(match: re.Match[str], text: str, *, glued: bool, offset: int) -> list[Token]:
    """The tokens of one match: none for white space, several for a wrapper of text."""
    group, raw = match.lastgroup, match[0]
    start, end = match.start() + offset, match.end() + offset

    def one(kind: Kind, shown: str = raw) -> list[Token]:
        return [Token(kind, shown, start, end, glued)]

    if group == "space":
        return []
    if group == "number":
        return [_number(raw, start, end, glued=glued)]
    if group == "wrapped":
        opening = raw.index("{") + 1
        return tokens(raw[opening:-1], offset=start + opening)
    if group == "command":
        name = raw[1:]
        if name in _BLANK_COMMANDS:
            return []
        kind, shown = _COMMANDS.get(name, ("unknown", raw))
        return one(kind, shown)
    if group == "operator":
        return one("operator", _OPERATORS.get(raw, raw))
    if group == "equal":
        return one("equal", "≈" if raw in "≈≃" else "=")
    if group == "superscript":
        digits = raw.translate(_SUPERSCRIPTS)
        return one("superscript", digits) if len(digits) <= 3 else one("unknown")
    if group == "word":
        return one("symbol" if len(raw) == 1 else "word")
    if group == "bold":
        return _bold(match, text, one("operator", "^"))
    if group == "stop":
        return one(_stop(match, text))
    if group == "degree":
        return one("word", "degrees")
    if group == "arrow":
        return one("stop", "→")
    if group == "ellipsis":
        return one("unknown")
    return one(group)  # pyright: ignore[reportArgumentType] - the other groups are named as kinds


def _number(raw: str, start: int, end: int, *, glued: bool) -> Token:
    # `0900` is a time of day or a code.
    if len(raw) > MAX_NUMBER_CHARS or (raw[0] == "0" and raw[1:2].isdigit()):
        return Token("unknown", raw[:20], start, end, glued)
    plain = re.sub(r"[^0-9.]", "", raw)
    decimals = len(plain.partition(".")[2])
    return Token("number", plain, start, end, glued, Fraction(plain), decimals)


def _bold(match: re.Match[str], text: str, power: list[Token]) -> list[Token]:
    """`**` is a power between two operands alike in spacing, and bold type elsewhere: no token."""
    before, after = _neighbors(match, text)
    if match[0] != "**":
        return []
    if before.isspace() and after.isspace():
        return power
    return (
        power if (before.isdigit() or before == ")") and (after.isdigit() or after == "(") else []
    )


def _stop(match: re.Match[str], text: str) -> Kind:
    """Punctuation between two digits belongs to a numeral, a list or a clock: unknown."""
    before, after = _neighbors(match, text)
    return "unknown" if before.isdigit() and after.isdigit() else "stop"


def _neighbors(match: re.Match[str], text: str) -> tuple[str, str]:
    return text[max(match.start() - 1, 0) : match.start()], text[match.end() : match.end() + 1]


def with_times_signs(found: list[Token]) -> list[Token]:
    """The tokens with the letter x read as a multiplication sign where it can only be one.

    That is between two operands (`12 x 5`), and only if no x of the text stands elsewhere: a text
    with a variable x keeps its letters.
    """
    signs: set[int] = set()
    for index, token in enumerate(found):
        if token.kind != "symbol" or token.text not in "xX":
            continue
        before = found[index - 1].kind if index else "newline"
        at = index + 1
        while at < len(found) and found[at].kind == "currency":
            at += 1
        after = found[at].kind if at < len(found) else "newline"
        glued = token.glued and after == "open"  # 2x(3)
        if before not in _BEFORE_TIMES or after not in _AFTER_TIMES or glued:
            return found
        signs.add(index)
    return [
        replace(token, kind="operator", text="*") if index in signs else token
        for index, token in enumerate(found)
    ]


_BEFORE_TIMES = {"number", "close", "percent", "currency", "word", "superscript"}
_AFTER_TIMES = {"number", "open", "function", "annotation"}

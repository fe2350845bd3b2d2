r"""Notation that one side writes in a way the other side explains: `C_6^2` beside a number.

Each reading is tried only where the other side has nothing written in the same way, so `C_n^2`
stays a power beside another `C_n`, and `\overline{AB}` stays what it is beside `\overline{CD}`.
"""

from __future__ import annotations

import re
from fractions import Fraction

from cotree.rewards.equality.nodes import (
    Call,
    Constant,
    Listing,
    Negation,
    Node,
    Number,
    Power,
    Product,
    Quantity,
    Quotient,
    Ratio,
    Relation,
    Sum,
    Symbol,
)
from cotree.rewards.equality.substitution import rebuilt, substituted
from cotree.rewards.equality.units import unit_name
from cotree.rewards.equality.walk import walk

_ACCENTED = re.compile(r"(?:overline|vec|hat|overarc|angle|triangle) ([A-Za-z]{1,8})")
_CHOSEN_FROM = re.compile(r"([CAP])_([0-9]{1,4}|[a-z])")
_CHOOSING = ("C_", "A_", "P_", "C(", "P(")
_CONSTANTS_OF_INTEGRATION = ("C", "c")
_TO = re.compile(r" ?(?:\\text\{ ?to ?\}|\bto\b) ?")
_RATIO = re.compile(r"[0-9.]{1,20}(?: ?(?:\\text\{ ?to ?\}|\bto\b) ?[0-9.]{1,20}){1,4}")
_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_UNIT_SYMBOLS = frozenset("m g s h L l t N J W V A K".split())  # noqa: SIM905


def reading(text: str, node: Node | None, other: Node | None) -> str:
    """A text as the other side suggests to read it: `2 to 3` as a ratio, `100,200,300` as a list.

    Args:
        text: the cleaned text of one side.
        node: its tree, read without knowing the other side's.
        other: the other side's tree.
    """
    if isinstance(other, Ratio) and _RATIO.fullmatch(text):
        return _TO.sub(":", text)
    numbers = isinstance(other, Listing) and all(_is_number(item) for item in other.items)
    if numbers and isinstance(node, Number) and len(_COMMA.findall(text)) > 0:
        return _COMMA.sub(", ", text)
    return text


def explained(reference: Node, answer: Node) -> tuple[Node, Node]:
    """Both sides with the notation of either rewritten as the other side explains it."""
    if reference == answer:
        return reference, answer
    left, right = _names(reference), _names(answer)
    if any(" " in name for name in left | right):
        reference, answer = _without_accents(reference, right), _without_accents(answer, left)
    if any(name.startswith(_CHOOSING) for name in left | right):
        reference, answer = _with_binomials(reference, right), _with_binomials(answer, left)
    return reference, _with_constant_named(answer, reference, left, right)


def measured_as(node: Node, unit: str) -> Quantity | None:
    r"""A product that ends in the letters of this very unit as a quantity: `36 m^2`, `1.5 h`."""
    wanted = unit_name(unit)
    if wanted is None or not isinstance(node, Product | Quotient):
        return None
    spelled: list[str] = []
    value: Node = node
    if isinstance(node, Quotient):
        below = _unit_letter(node.denominator)
        if below is None or not isinstance(node.numerator, Product):
            return None
        spelled.append(f"/{below}")
        value = node.numerator
    assert isinstance(value, Product)
    factors = list(value.factors)
    while len(factors) > 1 and (letters := _unit_letter(factors[-1])) is not None:
        spelled.insert(0, letters)
        factors.pop()
    if not spelled or unit_name(" ".join(spelled)) != wanted:
        return None
    return Quantity(factors[0] if len(factors) == 1 else Product(tuple(factors)), unit)


def _names(node: Node) -> frozenset[str]:
    """Names of symbols and, with a parenthesis, of functions."""
    found: set[str] = set()
    for each, _ in walk(node):
        if isinstance(each, Symbol):
            found.add(each.name)
        elif isinstance(each, Call):
            found.add(f"{each.name}(")
    return frozenset(found)


def _unit_letter(node: Node) -> str | None:
    match node:
        case Symbol(name) if name in _UNIT_SYMBOLS:
            return name
        case Power(Symbol(name), Number(value)) if name in _UNIT_SYMBOLS and value in (2, 3):
            return f"{name}^{value}"
        case Power(Symbol(name), Negation(Number(value))) if name in _UNIT_SYMBOLS and value < 4:
            return f"{name}^-{value}"
        case _:
            return None


def _is_number(node: Node) -> bool:
    return isinstance(node, Number)


def _without_accents(node: Node, others: frozenset[str]) -> Node:
    r"""`\overline{AB}` as `AB` where the other side has no accents."""
    if any(_ACCENTED.fullmatch(name) for name in others):
        return node

    def change(each: Node) -> Node | None:
        match = _ACCENTED.fullmatch(each.name) if isinstance(each, Symbol) else None
        if match is None:
            return None
        letters: list[Node] = [_letter(letter, others) for letter in match[1]]
        return letters[0] if len(letters) == 1 else Product(tuple(letters))

    return rebuilt(node, change)


def _letter(letter: str, others: frozenset[str]) -> Node:
    if letter in ("e", "i") and letter not in others:
        return Constant("e" if letter == "e" else "i")
    return Symbol(letter)


def _with_binomials(node: Node, others: frozenset[str]) -> Node:
    r"""`C_n^k`, `C(n, k)` and `A_n^k` as numbers where the other side has no C or A."""
    taken = {name.rstrip("(").partition("_")[0] for name in others}

    def change(each: Node) -> Node | None:
        match each:
            case Power(Symbol(name), chosen) if found := _CHOSEN_FROM.fullmatch(name):
                if found[1] in taken:
                    return None
                top: Node = _letter_or_number(found[2])
                return _arrangements(found[1], top, chosen)
            case Call("C" | "P" as name, (top, chosen)) if name not in taken:
                return _arrangements(name, top, chosen)
            case _:
                return None

    return rebuilt(node, change)


def _letter_or_number(text: str) -> Node:
    return Number(Fraction(int(text))) if text.isdigit() else Symbol(text)


def _arrangements(kind: str, top: Node, chosen: Node) -> Node:
    binomial = Call("binom", (top, chosen))
    return binomial if kind == "C" else Product((binomial, Call("factorial", (chosen,))))


def _with_constant_named(
    answer: Node, reference: Node, left: frozenset[str], right: frozenset[str]
) -> Node:
    """An added constant `c` called `C` as in the reference, or the other way around."""
    for wanted, other in (_CONSTANTS_OF_INTEGRATION, _CONSTANTS_OF_INTEGRATION[::-1]):
        fits = wanted in left and other in right and wanted not in right and other not in left
        if fits and _is_added(wanted, reference) and _is_added(other, answer):
            return substituted(answer, {other: Symbol(wanted)})
    return answer


def _is_added(name: str, node: Node) -> bool:
    """Whether a symbol stands once in the tree, as a term of a sum."""
    count = sum(each == Symbol(name) for each, _ in walk(node))
    value = node.operands[-1] if isinstance(node, Relation) else node
    return count == 1 and isinstance(value, Sum) and Symbol(name) in value.terms

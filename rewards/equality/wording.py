"""Answers in words: without case, articles and spaces; small numbers may be spelled out."""

from __future__ import annotations

from fractions import Fraction

from cotree.rewards.equality.nodes import Constant, Negation, Node, Number, Product, Symbol, Words

_ARTICLES = frozenset({"a", "an", "the", "on"})
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
_NUMBERS = {word: number for number, word in enumerate(_SMALL.split())}


def same_words(reference: Node, answer: Node) -> bool:
    """Whether two answers, of which one is in words, say the same."""
    left, right = _numeral(reference), _numeral(answer)
    if left is not None or right is not None:
        return left is not None and left == right
    first, second = _spelled(reference), _spelled(answer)
    return first is not None and first == second


def _numeral(node: Node) -> Fraction | None:
    match node:
        case Number(value):
            return value
        case Negation(Number(value)):
            return -value
        case Words(text) if text.lower().strip(" .") in _NUMBERS:
            return Fraction(_NUMBERS[text.lower().strip(" .")])
        case _:
            return None


def _spelled(node: Node) -> str | None:
    match node:
        case Words(text):
            words = text.lower().strip(" .!").split()
            return "".join(words[1:] if len(words) > 1 and words[0] in _ARTICLES else words)
        case Symbol(name):
            return name.lower()
        case Constant("e" | "i" as name):
            return name
        case Product(factors) if all(isinstance(each, Symbol | Constant) for each in factors):
            letters = (each.name for each in factors if isinstance(each, Symbol | Constant))
            return "".join(letters).lower()
        case _:
            return None

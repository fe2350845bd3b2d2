r"""Whether an answer equals a reference. Pure, total and bounded: no text can make it fail or hang.

In rising cost: the same text; the same letter of a multiple choice; exact numbers; equality by kind
(`typed`), which compares expressions by their values at points (`scalar`).

| written                | equal                                  | not equal                  |
|------------------------|----------------------------------------|----------------------------|
| integer                | exactly that number, however written   | `699.04` for 699           |
| decimal, 2 places or 3 | what rounds to it at its last place    | anything else              |
| digits, as a reference |                                        |                            |
| decimal for a number   | six right digits, rounded or cut off   | `0.333` for 1/3            |
| that no decimal equals |                                        |                            |
| percent                | a hundredth; the bare number too       | `0.12` for 12              |
| unit                   | none on one side, or another name      | another unit: no conversion|
| degrees                | bare number; radians beside pi         |                            |
| expression             | equal value wherever both are defined  | unevaluated integrals      |
| chain `a = b = c`      | its last exact member                  | `4 = 3`, `1 = 1`           |
| equation               | same up to a factor; a bare value for  | `0 = 0` for anything else  |
|                        | `name = value`, `lim … = value`        |                            |
| names                  | `f(x)`, `f(z)`; `a_n`, `a_k`; `x_1`,   | `a_1 = 2, a_2 = 3` swapped |
|                        | `x_2` of one unknown in any order      |                            |
| point, interval, matrix| by position, with its brackets, or     | `[1,2]` for `(1,2)`        |
|                        | with none; a vector in any brackets    |                            |
| list, set              | any order; a set counts nothing twice  | one item more or less      |
| `98,99,100`            | a list; `100,200,300` is a number, or  | `1, 234` for `1,234`       |
|                        | a list where the other side is a list  |                            |
| inequality             | the same solutions                     | another end, open or closed|
| system, `cases`        | its rows as a list; piecewise values   | other rows or conditions   |
|                        | row by row, in any order               |                            |
| `1011_2`               | the digits, with or without the base   | the number in another base |
| ratio                  | proportional; `2 to 3`; a fraction     | `4:3` for `3:4`            |
| choice, words          | the letter; words without case and     | two letters; other words   |
|                        | articles; lists of words in any order  |                            |
| `①③`                   | labels in any order                    | the number 13              |
| `C_6^2`, `{}^6C_2`     | a binomial, beside no other C          |                            |
| `\overline{AB}`        | `AB`, beside no other accent           |                            |
| hedge                  | only as written in the reference       | `41 or 42`, `x \ge 5` for 5|

What cannot be parsed is compared as text, without case and loose spaces.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from cotree.rewards.equality.choices import choice
from cotree.rewards.equality.domains import without_domains
from cotree.rewards.equality.exact import rational
from cotree.rewards.equality.nodes import BaseNumeral, Node
from cotree.rewards.equality.parser import MAX_CHARS, ParseError, TooLarge, parse_clean
from cotree.rewards.equality.readings import explained, reading
from cotree.rewards.equality.text import clean
from cotree.rewards.equality.typed import Comparison, TooMuchWorkError, kind

CACHED_REFERENCES = 4096
"""References are few and come back with every completion of their group; answers do not."""

_THREE_BY_THREE = re.compile(r"[0-9]{3}(?:,[0-9]{3}){2,100}")
_LOOSE_SPACE = re.compile(r"(?<![a-z0-9]) | (?![a-z0-9])")

_DECIMAL_COMMA = re.compile(
    r"[+-]?(?:[0-9]{1,30},(?:[0-9]{1,2}|[0-9]{4,30})|[0-9]{1,3}(?:[ .'][0-9]{3}){1,9},[0-9]{1,30})"
)


class Outcome(StrEnum):
    """Right, wrong, or not an answer that can be read."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNREADABLE = "unreadable"
    """The answer cannot be parsed, or is beyond the bounds; as wrong, but counted apart."""


@dataclass(frozen=True, slots=True)
class Compared:
    """The outcome, what decided it, and details for the logs."""

    outcome: Outcome
    method: str
    """`text`, `choice`, `exact`, or the kind of the reference: `interval`, `matrix`, ..."""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class _Read:
    """A text as read once; `tree` is None when `error` says why there is none."""

    text: str
    tree: Node | None
    error: str = ""


def compare(reference: str, answer: str) -> Compared:
    """Compares an answer with a reference. Never raises because of either."""
    gold = _reference(reference)
    text = clean(answer)
    if not text:
        return Compared(Outcome.UNREADABLE, "text", "the answer is empty")
    if text == gold.text:
        return Compared(Outcome.EQUAL, "text")
    chosen = _compare_choices(reference, answer)
    if chosen is not None:
        return chosen
    if _same_with_decimal_comma(gold.text, text):
        return Compared(Outcome.EQUAL, "exact")
    gold, found = _reread(gold, _read(answer, text))
    if gold.tree is None or found.tree is None:
        return _compare_texts(gold, found)
    left, right = rational(gold.tree), rational(found.tree)
    if left is not None and left == right and not isinstance(gold.tree, BaseNumeral):
        return Compared(Outcome.EQUAL, "exact")
    try:
        sides = explained(*without_domains(gold.tree, found.tree))
        equal = Comparison().same(*sides)
    except TooMuchWorkError as error:
        return Compared(Outcome.UNREADABLE, kind(gold.tree), str(error))
    return Compared(Outcome.EQUAL if equal else Outcome.DIFFERENT, kind(gold.tree))


def check_reference(reference: str) -> None:
    """Checks that a reference can be read and equals itself.

    Raises:
        ValueError: it is blank, cannot be read, or does not equal itself.
    """
    gold = _reference(reference)
    if not gold.text:
        raise ValueError(f"the reference {reference!r} is blank; correct or drop the row.")
    if gold.tree is None:
        raise ValueError(
            f"the reference {reference!r} cannot be read: {gold.error}. Correct or drop the row, "
            'or grade it as text with the reward "answer".'
        )
    if compare(reference, reference).outcome is not Outcome.EQUAL:
        raise ValueError(f"the reference {reference!r} does not equal itself; correct the row.")


@lru_cache(maxsize=CACHED_REFERENCES)
def _reference(reference: str) -> _Read:
    return _read(reference, clean(reference))


def _read(raw: str, text: str) -> _Read:
    try:
        if len(raw) > MAX_CHARS:
            raise TooLarge(f"{len(raw)} characters; an answer may have {MAX_CHARS}", MAX_CHARS)
        return _Read(text, parse_clean(text))
    except ParseError as error:
        return _Read(text, None, str(error))


def _reread(gold: _Read, found: _Read) -> tuple[_Read, _Read]:
    """Both sides, where one is ambiguous as the other suggests to read it."""
    pairs = ((found, gold.tree), (gold, found.tree))
    texts = [reading(side.text, side.tree, other) for side, other in pairs]
    found = found if texts[0] == found.text else _read(texts[0], texts[0])
    # A reference such as `1,234,567` is one number, whatever an answer would have it be.
    grouped = texts[1] == gold.text or not _THREE_BY_THREE.fullmatch(gold.text)
    return (gold if grouped else _read(texts[1], texts[1])), found


def _compare_texts(gold: _Read, found: _Read) -> Compared:
    """What cannot be parsed is compared by its letters, without case and loose spaces."""
    if _folded(gold.text) == _folded(found.text):
        return Compared(Outcome.EQUAL, "text")
    if found.tree is None:
        return Compared(Outcome.UNREADABLE, "text", found.error)
    return Compared(Outcome.DIFFERENT, "text", gold.error)


def _folded(text: str) -> str:
    return _LOOSE_SPACE.sub("", " ".join(text.casefold().split()))


def _same_with_decimal_comma(left: str, right: str) -> bool:
    """`1,22` is `1.22` in half of the world. Three digits behind a comma are thousands anywhere."""
    if ("," in left) == ("," in right):
        return False
    one, other = (left, right) if "," in left else (right, left)
    if not _DECIMAL_COMMA.fullmatch(one):
        return False
    whole, _, decimals = one.partition(",")
    return "".join(c for c in whole if c not in " .'") + "." + decimals == other


def _compare_choices(reference: str, answer: str) -> Compared | None:
    """Compares letters where the reference is one; None where it is none, or names its text too."""
    wanted = choice(reference)
    if wanted is None:
        return None
    found = choice(answer)
    if found is not None and found.letter == wanted.letter:
        return Compared(Outcome.EQUAL, "choice")
    if wanted.tail:
        tail = compare(wanted.tail, answer)
        return Compared(tail.outcome, "choice", tail.detail)
    return None if found is None else Compared(Outcome.DIFFERENT, "choice")

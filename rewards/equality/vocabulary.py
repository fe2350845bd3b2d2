# ruff: noqa: SIM905 - tables of words read best as text
"""When a run of plain letters is a word or a unit, and when it is a product of variables."""

import re
from itertools import pairwise

from cotree.rewards.equality.commands import FUNCTION_SPELLINGS, FUNCTIONS

SHORT_WORDS = frozenset(
    "no yes odd even not is are was the its for all any one two six ten per day mon tue wed thu "
    "fri sat sun red nan dne nor who his her he she we it an to at by on of as if so cat dog man "
    "men box car bus win won yen men few new old hot she him boy men pct".split()
)
"""Words of two or three letters that answers contain; the others are taken as products."""

UNITS = frozenset(
    "cm mm km dm nm um mi ft yd in kg mg lb lbs oz ml mL dL kL gal qt pt hr hrs min mins sec secs "
    "ms ns mph kph kmh fps Hz kHz MHz GHz kW kWh Wh kJ MJ kPa Pa atm mol eV rad deg am pm AM PM "
    "yr yrs mo wk ha ac sq cu km/h cc USD EUR GBP Rs bps rpm ppm dB kN kB MB GB TB pts pcs ways "
    "units cents".split()
)
"""Abbreviations read as a unit where they follow a number."""
FUNCTION_UNITS = frozenset({"min", "sec", "in"})
SLASHED_UNITS = frozenset({"m", "g", "s", "h", "L", "l", "N", "J", "W", "V", "A", "K", "C"})
"""Single letters are variables, except before a slash and another unit: `5 m/s`."""

CONNECTORS = {
    "and": "and", "or": "or", "where": "and", "with": "and", "for": "if", "if": "if",
    "when": "if", "such that": "and", "or else": "or", "as well as": "and",
}  # fmt: skip
DEGREE_WORDS = frozenset({"degree", "degrees", "deg", "degs", "°"})
PERCENT_WORDS = frozenset({"percent", "pct", "per cent", "percents"})
NAMES = {
    "pi": "pi", "infinity": "inf", "inf": "inf", "infty": "inf", "oo": "inf",
}  # fmt: skip
GREEK_WORDS = frozenset(
    "alpha beta gamma delta epsilon theta lambda mu sigma phi psi omega rho tau".split()
)
CURRENCIES = frozenset("$€£¥₹₽₩₪¢")

_FIRST_NAME = re.compile(r"[A-Z][aeiou][a-z]")
_JOINED = re.compile(r"([nxyzt]?)(sin|cos|tan|cot|sec|csc|log|ln)([abnxyztABC]?)")


def function_name(run: str) -> str | None:
    """The function that a run of letters or a command names, by its usual spelling."""
    if run in FUNCTIONS:
        return run
    return FUNCTION_SPELLINGS.get(run)


def split_function(run: str) -> tuple[str, str, str] | None:
    """`xsinx` as `x`, `sin` and `x`: a function's name with a variable on either side of it."""
    match = _JOINED.fullmatch(run)
    return (match[1], match[2], match[3]) if match else None


def is_word(run: str) -> bool:
    """Whether a run of letters is a word and no product of variables.

    Words have four letters or more, one of them a vowel, and no three letters that follow one
    another in the alphabet throughout (`abcd` and `wxyz` are products). A shorter run is a product
    unless it is one of `SHORT_WORDS`, in lower case or capitalised (`NO` is a product), or looks
    like a name (`Tom`).
    """
    if run in ("DNE", "NaN", "NAN"):
        return True
    if _FIRST_NAME.fullmatch(run):
        return True
    if len(run) < 4:
        return run.lower() in SHORT_WORDS and (run.islower() or run.istitle())
    if not any(letter in "aeiouyAEIOUY" for letter in run):
        return False
    return any(ord(b) - ord(a) != 1 for a, b in pairwise(run))

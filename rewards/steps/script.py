"""A penalty for letters of scripts that the completion should not be written in."""

import unicodedata
from functools import lru_cache

from cotree.rewards.types import Problem, Reward

SCRIPTS = frozenset(
    [
        *("ARABIC", "ARMENIAN", "BENGALI", "BOPOMOFO", "CHEROKEE", "CJK", "CYRILLIC", "DEVANAGARI"),
        *("ETHIOPIC", "GEORGIAN", "GREEK", "GUJARATI", "GURMUKHI", "HANGUL", "HEBREW", "HIRAGANA"),
        *("KANNADA", "KATAKANA", "KHMER", "LAO", "LATIN", "MALAYALAM", "MONGOLIAN", "MYANMAR"),
        *("ORIYA", "SINHALA", "SYRIAC", "TAMIL", "TELUGU", "THAI", "TIBETAN"),
    ]
)
"""The first word of a letter's Unicode name, which is its script."""


def script(
    completion: str,
    problem: Problem,  # noqa: ARG001 - the signature of a reward
    *,
    allowed: str = "latin greek",
    allowed_frac: float = 0.0,
) -> Reward:
    """Minus the share of letters outside the allowed scripts: 0 for clean text, at worst -1.

        outside = (letters of other scripts) / (letters)
        value   = -outside if outside > allowed_frac, else 0

    Digits, punctuation and symbols belong to no script. Letters of mathematical alphabets count as
    the letters they stand for (NFKC), so that a bold Fraktur H is Latin. It never pays.

    Args:
        completion: any text.
        problem: not used.
        allowed: names of scripts, separated by spaces.
        allowed_frac: share that costs nothing (names, quotations), in [0, 1].

    Raises:
        ValueError: a script is unknown, none is named, or the share is out of its range.
    """
    names = frozenset(allowed.upper().split())
    if not names or not names <= SCRIPTS:
        raise ValueError(
            f"allowed = {allowed!r} must name scripts out of {', '.join(sorted(SCRIPTS))}; "
            f"unknown: {sorted(names - SCRIPTS)}."
        )
    if not 0.0 <= allowed_frac <= 1.0:
        raise ValueError(f"allowed_frac = {allowed_frac} must be in [0, 1].")
    letters = outside = 0
    for character in completion:
        found = _script(character)
        letters += found != ""
        outside += found != "" and found not in names
    share = outside / letters if letters else 0.0
    reason = f"{outside} of {letters} letters are not {allowed.lower()}"
    return Reward(-share if share > allowed_frac else 0.0, reason)


@lru_cache(maxsize=1 << 16)
def _script(character: str) -> str:
    """The script of a letter; empty for anything else."""
    if not character.isalpha():
        return ""
    folded = unicodedata.normalize("NFKC", character)[:1]
    return unicodedata.name(folded, "UNKNOWN").partition(" ")[0] if folded.isalpha() else ""

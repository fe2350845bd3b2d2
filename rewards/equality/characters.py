# ruff: noqa: SIM905 - tables of words read best as text
r"""Unicode characters that stand for mathematics, as the LaTeX they stand for."""

import unicodedata

_GREEK_START = 0x03B1
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho "
    "sigma sigma tau upsilon phi chi psi omega"
).split()

_SIGNS = {
    "−–—‒―‐‑﹣－": "-",
    "×✕✖⨯": r"\times ",
    "·∙⋅•∗": r"\cdot ",
    "÷": r"\div ",
    "⁄∕": "/",
    "∶：": ":",
    "√": r"\sqrt ",
    "∛": r"\sqrt[3] ",
    "∜": r"\sqrt[4] ",
    "∞": r"\infty ",
    "±": r"\pm ",
    "∓": r"\mp ",
    "≤≦⩽": r"\le ",
    "≥≧⩾": r"\ge ",
    "≠": r"\ne ",
    "≈≃≅": r"\approx ",
    "≡": r"\equiv ",
    "∈": r"\in ",
    "∉": r"\notin ",
    "∪": r"\cup ",
    "∩": r"\cap ",
    "∖": r"\setminus ",
    "⊂": r"\subset ",
    "⊆": r"\subseteq ",
    "∅⌀": r"\emptyset ",
    "°º˚": r"^\circ ",
    "′’‘ʹ": "'",
    "″”“ʺ": "''",
    "…⋯": r"\ldots ",
    "⌊": r"\lfloor ",
    "⌋": r"\rfloor ",
    "⌈": r"\lceil ",
    "⌉": r"\rceil ",
    "⟨〈": r"\langle ",
    "⟩〉": r"\rangle ",
    "∣": "|",
    "‖∥": r"\|",
    "∠": r"\angle ",
    "△": r"\triangle ",
    "∑": r"\sum ",
    "∏": r"\prod ",
    "∫": r"\int ",
    "→": r"\to ",
    "⇒": r"\Rightarrow ",
    "⇔": r"\iff ",
    "ℝ": r"\mathbb{R}",
    "ℤ": r"\mathbb{Z}",
    "ℕ": r"\mathbb{N}",
    "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}",
    "ϕ": r"\phi ",
    "ϵ": r"\epsilon ",
    "ϑ": r"\theta ",
    "ı": "i",
    "٪": r"\%",
    "٫": ".",
    "٬،、": ",",
    "；؛": ";",
    "。": ".",
}
_CAPITALS = "Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega".split()
_INVISIBLE = (
    "\u200b\u200c\u200d\u2060\ufeff\u00ad\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2066\u2067\u2068\u2069\u2061\u2062\u2063\u2064"
)


def _table() -> dict[int, str]:
    table = {ord(sign): latex for signs, latex in _SIGNS.items() for sign in signs}
    for offset, name in enumerate(_GREEK):
        table[_GREEK_START + offset] = rf"\{name} "
    for name in _CAPITALS:
        letter = unicodedata.lookup(f"GREEK CAPITAL LETTER {name.replace('Lambda', 'Lamda')}")
        table[ord(letter)] = rf"\{name} "
    # Not dropped: a digit on either side of an invisible character is not part of one numeral.
    table.update((ord(invisible), " ") for invisible in _INVISIBLE)
    return table


MATHS = _table()
"""For `str.translate`, before NFKC, which would turn a few of them into something else."""

RAISED = "\u00b2\u00b3\u00b9\u2070-\u207f"
LOWERED = "\u2080-\u208e\u2090-\u209c"
"""Regular expression classes of superscripts and subscripts."""


def vulgar_fraction(character: str) -> str:
    r"""`½` as `\frac{1}{2}`."""
    top, _, bottom = unicodedata.normalize("NFKC", character).partition("\u2044")
    return rf"\frac{{{top}}}{{{bottom or '1'}}}"


def ascii_digits(text: str) -> str:
    """`text` with the decimal digits of every script as 0 to 9."""
    return "".join(str(unicodedata.decimal(c)) if c > "\x7f" and c.isdecimal() else c for c in text)

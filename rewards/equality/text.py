r"""The text of an answer without its typography: one spelling for what looks the same."""

import re
import unicodedata

from cotree.rewards.equality.characters import (
    LOWERED,
    MATHS,
    RAISED,
    ascii_digits,
    vulgar_fraction,
)
from cotree.rewards.equality.commands import DROPPED, KNOWN, SPACES, SPELLINGS

_PLAIN = re.compile(r"[+-]?[0-9]+(?:\.[0-9]+)?")
_LOST_BACKSLASH = re.compile(r"([\t\f\b\r\v\a])([a-z]+)")
_ESCAPES = {"\t": "t", "\f": "f", "\b": "b", "\r": "r", "\v": "v", "\a": "a"}
_RAISED = re.compile(f"[{RAISED}]+")
_LOWERED = re.compile(f"[{LOWERED}]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")
_DOUBLED = re.compile(r"\\\\([A-Za-z]+|[()\[\]{}%$,;!:])")
_SIZED = re.compile(
    r"\\(left|right|middle|[bB]igg?)([lrm]?)(?![A-Za-z])\s*(\\[|]|[|.]|\\[lr]?[vV]ert(?![A-Za-z]))?"
)
_SWITCH = re.compile(r"\{\s*\\(?:rm|bf|it|sf|tt|text|mathrm)(?![A-Za-z{])\s*")
_SIZE_ARGUMENT = re.compile(
    r"\\(?:[hv]space|(?:text|page)?color|colorbox|tag|label|[hv]?phantom|raisebox|style|class)\*?"
    r"(?:\[[a-zA-Z]{1,10}\])?\s*\{[^{}]*\}"
)
_COMMAND = re.compile(r"\\(?:\\|[A-Za-z]+\*?|[^A-Za-z])")
_THIN_GROUP = re.compile(
    r"(?<=[0-9])(?:\\,|,\\!|\\!,|\{,\}\\!|\{,\\!\}|\{ \}|\{\\,\})\s*(?=[0-9]{3}(?![0-9]))"
)
_DECIMAL_BRACE = re.compile(r"(?<=[0-9])\{([.,])\}(?=[0-9])")
_BRACED_GROUP = re.compile(r"(?<=[0-9])\{,\}\s*(?=[0-9]{3}(?![0-9]))")
_SPACES = re.compile(r"\s+")
_QUOTES = {'"': '"', "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb", "'": "'"}
_ANNOUNCED = re.compile(
    r"(?P<open>\\(?:text(?:bf|rm|it)?|mathrm|mathbf|mbox)\{)?\s?(?:(?:so|thus|hence|therefore),? )?"
    r"(?:the )?(?:final |correct |right )?(?:answers?|ans|result)(?: is| are)?"
    r"(?:(?<= is)|(?<= are)|\s?[:=])\s?:?(?P<close>\s?\})?\s?(?=.)",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(r"\\Rightarrow(?![A-Za-z])")
_MERIDIEM = re.compile(r"(?<=[0-9 {])([ap])\. ?m\b\.?", re.IGNORECASE)
_ABBREVIATED = re.compile(r"(?<=[A-Za-z]{2})\.(?= [0-9A-Za-z])")
_CHOOSE = re.compile(
    r"(?:\{ ?\} ?|(?<![A-Za-z0-9)}\]]))[_^] ?(?:\{([A-Za-z0-9]{1,9})\}|([A-Za-z0-9])) ?"
    r"(?:\\(?:mathrm|text|rm) ?)?\{?C\}? ?_ ?(?:\{([A-Za-z0-9]{1,9})\}|([A-Za-z0-9]))"
)
_LABELS = re.compile("(?<=[\u2460-\u2473])(?=[\u2460-\u2473])")
_LABEL = re.compile("[\u2460-\u2473]")


def clean(text: str) -> str:
    r"""`text` with one spelling for everything that typography spells in several ways.

    Unicode signs, letters and digits become the LaTeX or ASCII they stand for, except where plain
    folding would change the value: `2²` becomes `2^{2}` and `1½` becomes `1\frac{1}{2}`.
    An invisible character becomes a space, so `4\u200b2` is not 42. Dollar signs, `\(` and `\[`,
    `\left`, styles and spacing commands go; `\dfrac` is `\frac`; a doubly escaped command loses a
    backslash; grouping commas in braces go (`1{,}234`); one final period goes. Linear time.
    """
    if _PLAIN.fullmatch(text):
        return text
    text = _unquoted(text.strip(" \n"))
    if not text.isascii():
        text = _fold_unicode(text)
    if not text.isprintable():
        text = _LOST_BACKSLASH.sub(_restored_command, text)
    if "\\" in text:
        text = _fold_commands(text)
    if "{,}" in text or "{.}" in text:
        text = _BRACED_GROUP.sub("", text)
        text = _DECIMAL_BRACE.sub(".", text)
    if "$" in text:
        # A dollar sign that is a currency was kept as `\$` above; these only delimit.
        text = re.sub(r"(?<!\\)\$", " ", text)
    text = _SPACES.sub(" ", text.replace("~", " ")).strip()
    return _without_words_around(_without_final_marks(text))


def _without_final_marks(text: str) -> str:
    while len(text) > 4 and text.startswith("**") and text.endswith("**"):
        text = text[2:-2].strip()
    if text.startswith("`") and text.endswith("`"):
        text = text.strip("`")
    if text.endswith("\\"):
        # What is left of `\ ` and of a line break at the end.
        text = text.rstrip("\\ ")
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    return text


def _unquoted(text: str) -> str:
    """A text in quotation marks without them."""
    closing = _QUOTES.get(text[:1], "")
    inner = text[1:-1]
    if len(text) < 3 or not closing or not text.endswith(closing):
        return text
    return text if text[0] in inner or closing in inner else inner


def _without_words_around(text: str) -> str:
    r"""The text without `The answer is` or `2x = 6 \Rightarrow` in front, and `a.m.` as `am`."""
    announced = _ANNOUNCED.match(text)
    if announced and bool(announced["open"]) >= bool(announced["close"]):
        opening = "" if announced["close"] else announced["open"] or ""
        text = opening + text[announced.end() :]
    conclusion = _FOLLOWS.split(text)[-1].strip() if r"\Rightarrow" in text else ""
    if conclusion and "=" in text[: -len(conclusion)]:
        text = conclusion
    if "." in text:
        text = _MERIDIEM.sub(r"\1m", text)
        text = _ABBREVIATED.sub("", text)
    if "C" in text and "_" in text:
        text = _CHOOSE.sub(_chosen, text)
    return text


def _chosen(match: re.Match[str]) -> str:
    r"""`{}^6C_2` as `\binom{6}{2}`."""
    return rf"\binom{{{match[1] or match[2]}}}{{{match[3] or match[4]}}}"


def _fold_unicode(text: str) -> str:
    text = _RAISED.sub(lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = _VULGAR.sub(lambda m: vulgar_fraction(m[0]), text)
    # Enclosed numerals are labels, of statements say, and no digits: each is an item of a list.
    text = _LABELS.sub(",", text)
    text = _LABEL.sub(lambda m: rf" \odot_{{{_label(m[0])}}} ", text)
    # Twice: mathematical alphanumerics such as an italic pi become letters only through NFKC.
    text = unicodedata.normalize("NFKC", text.translate(MATHS)).translate(MATHS)
    return ascii_digits(text)


def _label(character: str) -> str:
    return unicodedata.normalize("NFKC", character)


def _restored_command(match: re.Match[str]) -> str:
    r"""A backslash and letter that an unescaping step read as one control character."""
    name = _ESCAPES[match[1]] + match[2]
    return rf"\{name}" if name in KNOWN else f" {match[2]}"


def _fold_commands(text: str) -> str:
    if "\\\\" in text:
        if r"\\begin" in text:
            text = text.replace("\\\\", "\\")
        elif r"\begin" not in text:
            # In an environment two backslashes end a row, elsewhere they are one too many.
            text = _DOUBLED.sub(_single, text)
    text = _SIZED.sub(_sized, text)
    text = _SWITCH.sub(r"\\text{", text)
    text = _SIZE_ARGUMENT.sub(" ", text)
    text = _THIN_GROUP.sub("", text)
    return _COMMAND.sub(_command, text)


def _single(match: re.Match[str]) -> str:
    name = match[1]
    return rf"\{name}" if name in KNOWN or not name.isalpha() else match[0]


def _sized(match: re.Match[str]) -> str:
    delimiter = match[3] or ""
    if delimiter == ".":
        return " "
    side = "l" if match[1] == "left" or match[2] == "l" else ""
    side = "r" if match[1] == "right" or match[2] == "r" else side
    if delimiter == "|" and side:
        return rf"\{side}vert "
    if delimiter == r"\|" and side:
        return rf"\{side}Vert "
    return delimiter


def _command(match: re.Match[str]) -> str:
    name = match[0][1:]
    if name == "!":
        return ""
    if name in SPACES or name in DROPPED or name in "()[]":
        return " "
    spelled = SPELLINGS.get(name)
    if spelled is None:
        return match[0]
    if spelled in ("and", "or", "not"):
        return rf" \text{{{spelled}}} "
    if spelled == "%" or spelled == "$":
        return f"\\{spelled}"
    return rf"\{spelled} " if spelled.isalpha() and spelled != "c" else spelled

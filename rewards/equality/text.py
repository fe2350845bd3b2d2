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
_SIZE_ARGUMENT = re.compile(r"\\(?:hspace|vspace|color|tag|label|phantom|hphantom)\*?\{[^{}]*\}")
_COMMAND = re.compile(r"\\(?:\\|[A-Za-z]+\*?|[^A-Za-z])")
_THIN_GROUP = re.compile(
    r"(?<=[0-9])(?:\\,|,\\!|\\!,|\{,\}\\!|\{,\\!\}|\{ \}|\{\\,\})\s*(?=[0-9]{3}(?![0-9]))"
)
_DECIMAL_BRACE = re.compile(r"(?<=[0-9])\{([.,])\}(?=[0-9])")
_BRACED_GROUP = re.compile(r"(?<=[0-9])\{,\}\s*(?=[0-9]{3}(?![0-9]))")
_SPACES = re.compile(r"\s+")


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
    return _without_final_marks(text)


def _without_final_marks(text: str) -> str:
    while len(text) > 4 and text.startswith("**") and text.endswith("**"):
        text = text[2:-2].strip()
    if text.startswith("`") and text.endswith("`"):
        text = text.strip("`")
    if text.endswith(".") and not text.endswith(".."):
        text = text[:-1].rstrip()
    return text


def _fold_unicode(text: str) -> str:
    text = _RAISED.sub(lambda m: f"^{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = _LOWERED.sub(lambda m: f"_{{{unicodedata.normalize('NFKC', m[0])}}}", text)
    text = _VULGAR.sub(lambda m: vulgar_fraction(m[0]), text)
    # Twice: mathematical alphanumerics such as an italic pi become letters only through NFKC.
    text = unicodedata.normalize("NFKC", text.translate(MATHS)).translate(MATHS)
    return ascii_digits(text)


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

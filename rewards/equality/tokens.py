"""The words of mathematical notation: text that `clean` made uniform, cut into tokens."""

import re
from typing import NamedTuple

from cotree.rewards.equality import commands, numerals, vocabulary

MAX_TOKENS = 2_000
"""Bounds the nodes of a tree, and with them the work of every comparison."""


class ParseError(ValueError):
    """The text is not an answer that can be read; the message says what stands where."""

    def __init__(self, problem: str, position: int) -> None:
        super().__init__(f"{problem} at character {position}")
        self.position = position


class TooLarge(ParseError):  # noqa: N818 - the name others use
    """The text exceeds a bound, so no work is done on it."""


class Token(NamedTuple):
    """One token; `kind` is what the grammar asks for, `text` its canonical spelling."""

    kind: str
    text: str
    position: int
    spaced: bool = False
    """Whether white space stands before it."""


END = "end"
_SCAN = re.compile(
    rf"\s*(?:(?P<number>{numerals.PATTERN})"
    r"|(?P<letters>[A-Za-z]+)"
    r"|\\(?P<command>[A-Za-z]+\*?|[^A-Za-z])"
    r"|(?P<ellipsis>\.\.\.+)"
    r"|(?P<relation><=|>=|!=|==|=<|:=|=>|[=<>≈])"
    r"|(?P<sign>\*\*|\+/-|\+-(?=\s*[0-9a-z])|-\+|[-+*/^_!'(){}\[\]|,;:&%$€£¥₹₽₩₪¢]))"
)
_UNGROUPED = re.compile(numerals.UNGROUPED)
_SIGNS = {"**": "^", "+/-": "pm", "+-": "pm", "-+": "mp", ";": ",", "*": "times", "/": "over"}
_PHRASE = re.compile(r"(?:[ \-']+[A-Za-z]+(?:\.[a-z]\.?)?)*")
_TEXT_BODY = re.compile(r"\s*\{([^{}]*)\}")
_ENVIRONMENT = re.compile(r"\s*\{\s*([a-zA-Z]+\*?)\s*\}")
_COLUMNS = re.compile(r"\s*(?:\[[a-z]\])?\s*\{[clr| ]*\}")
_UNIT_TAIL = re.compile(r"(?:\^\{?[0-9]\}?)?(?:/[A-Za-z]+(?:\^\{?[0-9]\}?)?)?")
_LISTED = re.compile(r"[A-Za-z] ?[,;] ?[A-Za-z]| (?:and|or) ")
_POWER = re.compile(r"\^\{?[^{}]{0,20}")
_NESTED = re.compile(r"\s*\{")
_BASE = re.compile(r"\(?\s*(?:in\s+)?base[- ]*([0-9]+|[a-z]+)\s*\)?", re.IGNORECASE)
_BASE_WORDS = {
    "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16",
}  # fmt: skip
_PLAIN_PHRASE = re.compile(r"[^0-9=+<>\\^_|{}*]*")
_OPERAND_ENDS = frozenset({"number", "symbol", "constant", ")", "}", "]", "!"})
_CLOSERS = frozenset({")", "]", "}"})


def tokenize(text: str) -> list[Token]:
    """The tokens of a cleaned text, with an `END` token last.

    Raises:
        ParseError: a character or command that is no notation for an answer.
        TooLarge: more than `MAX_TOKENS` tokens, or a numeral with too many digits.
    """
    scanner = _Scanner()
    scanner.scan(text, 0)
    scanner.add(END, "", len(text))
    return scanner.tokens


class _Scanner:
    def __init__(self) -> None:
        self.tokens: list[Token] = []
        self._open: list[str] = []

    def add(self, kind: str, text: str, position: int, spaced: bool = False) -> None:
        if len(self.tokens) >= MAX_TOKENS:
            raise TooLarge(f"more than {MAX_TOKENS} tokens", position)
        self.tokens.append(Token(kind, text, position, spaced))

    def scan(self, text: str, offset: int) -> None:
        """Appends the tokens of `text`, whose first character is number `offset` of the whole."""
        at, end = 0, len(text)
        while at < end:
            match = _SCAN.match(text, at)
            if match is None or match.lastgroup is None:
                if not text[at:].strip():
                    return
                raise ParseError(f"unreadable {text[at : at + 12]!r}", offset + at)
            kind = match.lastgroup
            start, stop = match.span(kind)
            found = match[kind]
            spaced = start > at + (kind == "command")
            if kind == "number":
                at = self._number(text, start, stop, offset, spaced)
            elif kind == "letters":
                at = self._letters(text, start, stop, offset, spaced)
            elif kind == "command":
                at = self._command(text, found, start - 1, stop, offset)
            else:
                at = stop
                self._sign(kind, found, offset + start, spaced)

    def _sign(self, kind: str, found: str, position: int, spaced: bool) -> None:
        if found == "!=" and not spaced and self.tokens and self.tokens[-1].kind in ("number", ")"):
            self.add("!", "!", position)  # `4!=24` is an equation
            found = "="
        if kind == "relation":
            self.add("relation", commands.RELATIONS[found], position, spaced)
        elif kind == "ellipsis":
            self.add("symbol", "...", position, spaced)
        elif found in vocabulary.CURRENCIES:
            self.add("currency", found, position, spaced)
        else:
            self._bracket(found)
            self.add(_SIGNS.get(found, found), found, position, spaced)

    def _bracket(self, sign: str) -> None:
        """Keeps track of whether a comma would separate items here."""
        if sign in ("(", "["):
            self._open.append(sign)
        elif sign == "{":
            # A brace after an operand or a command holds an argument, not a set.
            previous = self.tokens[-1].kind if self.tokens else ""
            argument = previous in _OPERAND_ENDS or previous in ("^", "_", "frac", "sqrt", "binom")
            self._open.append("argument" if argument else "{")
        elif sign in _CLOSERS and self._open:
            self._open.pop()

    def _number(self, text: str, start: int, stop: int, offset: int, spaced: bool) -> int:
        listed = text[start - 1 : start] == "," and len(self.tokens) > 1
        listed = listed and self.tokens[-2].kind == "number"  # `98,99,100` is no grouped number
        if listed or any(sign != "argument" for sign in self._open):
            match = _UNGROUPED.match(text, start)
            assert match is not None  # every grouped numeral begins with an ungrouped one
            stop = match.end()
        if "." in text[start:stop] and text[stop : stop + 1] in ("\\", "(", "."):
            try:
                found = numerals.repeating(text, start)
            except ValueError as error:
                raise TooLarge(str(error), offset + start) from error
            stop = found[1] if found else stop
        self.add("number", text[start:stop], offset + start, spaced)
        return stop

    def _letters(self, text: str, start: int, stop: int, offset: int, spaced: bool) -> int:
        run, position = text[start:stop], offset + start
        connector = vocabulary.CONNECTORS.get(run.lower())
        if connector and len(self.tokens) > 0:
            self.add("connector", connector, position, spaced)
            return stop
        if self._is_unit(run, text[stop : stop + 1]):
            return self._unit(text, start, stop, offset)
        if name := vocabulary.function_name(run):
            self.add("function", name, position, spaced)
        elif run in vocabulary.NAMES:
            self.add("constant", vocabulary.NAMES[run], position, spaced)
        elif run in vocabulary.GREEK_WORDS:
            self.add("symbol", run, position, spaced)
        elif run == "mod":
            self.add("mod", run, position, spaced)
        elif parts := vocabulary.split_function(run):
            before, name, after = parts
            self._symbols(before, position, "", spaced)
            self.add("function", name, position + len(before))
            self._symbols(after, position + len(before) + len(name), "")
        elif vocabulary.is_word(run) and text[stop : stop + 1] not in ("^", "_"):
            return self._phrase(text, start, stop, offset, spaced)
        else:
            return self._symbols(run, position, text[stop:], spaced, stop)
        return stop

    def _symbols(
        self, run: str, position: int, rest: str, spaced: bool = False, stop: int = 0
    ) -> int:
        for index, letter in enumerate(run):
            self.add("symbol", letter, position + index, spaced and index == 0)
        digits = 0
        while rest[digits : digits + 1].isdigit() and digits < len(rest):
            digits += 1
        argument = len(self.tokens) > 1 and self.tokens[-2].kind in ("frac", "binom", "sqrt")
        power = _POWER.match(rest, digits)
        product = power is not None and run in power[0]  # `n2^{n+1}`
        if digits and stop and len(run) == 1 and not argument and not product:
            # `x1` written without a sub- or superscript sign is the variable x_1.
            self.add("_", "_", position + 1)
            self.add("number", rest[:digits], position + 1)
            return stop + digits
        return stop

    def _follows_a_value(self) -> bool:
        return bool(self.tokens) and self.tokens[-1].kind in ("number", ")", "}", "constant")

    def _is_read(self, body: str, following: str) -> bool:
        r"""Whether a text is more than words: `\text{3 or 4}`, or `\text{Ann, Bob}` on its own."""
        if body.isdigit() or (len(body) > 1 and not _PLAIN_PHRASE.fullmatch(body)):
            return True
        if self.tokens and self.tokens[-1].kind not in (",", "connector"):
            return False
        return _LISTED.search(body) is not None and not following.strip(" .}")

    def _is_unit(self, run: str, following: str) -> bool:
        if not self._follows_a_value():
            return False
        if run in vocabulary.FUNCTION_UNITS:
            return following in ("", ",", ";", "/", "^", ".")
        return run in vocabulary.UNITS or (run in vocabulary.SLASHED_UNITS and following == "/")

    def _unit(self, text: str, start: int, stop: int, offset: int) -> int:
        match = _UNIT_TAIL.match(text, stop)
        assert match is not None  # the pattern matches the empty text too
        phrase = _PHRASE.match(text, match.end())
        assert phrase is not None
        stop = phrase.end() if not _connects(phrase[0]) else match.end()
        self.add("words", text[start:stop], offset + start, True)
        return stop

    def _phrase(self, text: str, start: int, stop: int, offset: int, spaced: bool) -> int:
        match = _PHRASE.match(text, stop)
        assert match is not None  # the pattern matches the empty text too
        for word in re.finditer(r"[A-Za-z]+", match[0]):
            if word[0].lower() in vocabulary.CONNECTORS:
                stop += word.start()
                break
        else:
            stop = match.end()
        # Letters before a word belong to the phrase: `at least`, `in order`.
        self.add("words", text[start:stop].strip(), offset + start, spaced)
        return stop

    def _command(self, text: str, name: str, start: int, stop: int, offset: int) -> int:
        position = offset + start
        if name in commands.TEXT_WRAPPERS:
            return self._text(text, start, stop, offset)
        kind, spelled = _classified(name)
        if kind == "":
            raise ParseError(rf"unknown command \{name}", position)
        if kind == "skip":
            return stop
        if kind in ("begin", "close"):
            return self._environment(text, kind, start, stop, offset)
        if kind in ("{", "}"):
            kind = f"set{kind}"
        self._bracket({"set{": "(", "set}": ")", "<": "(", ">": ")"}.get(kind, kind))
        self.add(kind, spelled, position, text[start - 1 : start] == " ")
        return stop

    def _environment(self, text: str, kind: str, start: int, stop: int, offset: int) -> int:
        match = _ENVIRONMENT.match(text, stop)
        if match is None or match[1] not in commands.ENVIRONMENTS:
            name = match[1] if match else ""
            raise ParseError(f"unknown environment {name!r}", offset + start)
        self._bracket("(" if kind == "begin" else ")")
        self.add(kind, match[1], offset + start)
        if kind == "begin" and match[1] == "array":
            columns = _COLUMNS.match(text, match.end())
            return columns.end() if columns else match.end()
        return match.end()

    def _text(self, text: str, start: int, stop: int, offset: int) -> int:
        r"""`\text{…}`: a function, a letter, a connector, words, or mathematics after all."""
        match = _TEXT_BODY.match(text, stop)
        if match is None:
            return self._nested_text(text, start, stop, offset)
        body, position = match[1].strip(), offset + start
        bare = body.strip(" ().,:;").lower()
        spaced = True
        base = _BASE.fullmatch(body)
        digits = _BASE_WORDS.get(base[1].lower(), base[1]) if base else ""
        below = self.tokens and self.tokens[-1].kind == "_"
        below = below or (len(self.tokens) > 1 and self.tokens[-2].kind == "_")
        if digits.isdigit():
            self.add("_", "_", position)
            self.add("number", digits, position)
        elif below and bare in _BASE_WORDS:
            self.add("number", _BASE_WORDS[bare], position)
        elif body in vocabulary.FUNCTION_UNITS and self._follows_a_value():
            self.add("words", body, position, spaced)
        elif bare in vocabulary.CONNECTORS:
            self.add("connector", vocabulary.CONNECTORS[bare], position, spaced)
        elif name := vocabulary.function_name(body):
            self.add("function", name, position, spaced)
        elif not body:
            pass
        elif body in ("e", "i", "d") and text.startswith(("\\mathrm", "\\operatorname"), start):
            self.add("symbol", body, position, spaced)
        elif self._is_read(body, text[match.end() :]):
            self.scan(f" {body} ", offset + match.start(1))
        else:
            self.add("words", body, position, spaced)
        return match.end()

    def _nested_text(self, text: str, start: int, stop: int, offset: int) -> int:
        opening = _NESTED.match(text, stop)
        if opening is None:
            return stop  # `\mathrm x`: the letter itself follows
        depth, at = 1, opening.end()
        while at < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            at += 1
        if depth:
            raise ParseError("a brace is never closed", offset + start)
        self.scan(f" {text[opening.end() : at - 1]} ", offset + opening.end() - 1)
        return at


def _connects(phrase: str) -> bool:
    return any(word.lower() in vocabulary.CONNECTORS for word in phrase.split())


def _classified(name: str) -> tuple[str, str]:
    """The kind and canonical text of the token that a command is; kind "" for an unknown one."""
    if found := _TABLE.get(name):
        return found
    if function := vocabulary.function_name(name):
        return "function", function
    return "", name


_SPECIAL = {
    "div": ("over", "/"), "over": ("stacked", "over"), "%": ("%", "%"), "$": ("currency", "$"),
    "|": ("norm", "|"), "mid": ("mid", "|"), "\\": ("newline", ","), "cr": ("newline", ","),
    "&": ("words", "&"), "#": ("words", "#"), "_": ("_", "_"), "bmod": ("mod", "mod"),
    "langle": ("<", "<"), "rangle": (">", ">"), "begin": ("begin", ""), "end": ("close", ""),
    "underline": ("skip", ""), "boxed": ("skip", ""), "fbox": ("skip", ""), "-": ("skip", ""),
    "/": ("skip", ""),
}  # fmt: skip


def _table() -> dict[str, tuple[str, str]]:
    table: dict[str, tuple[str, str]] = {}
    table.update((name, ("symbol", name)) for name in commands.GREEK)
    table.update((name, ("symbol", plain)) for name, plain in commands.VARIANTS.items())
    table.update((name, ("constant", plain)) for name, plain in commands.CONSTANTS.items())
    table.update((name, ("relation", sign)) for name, sign in commands.RELATIONS.items())
    table.update((name, ("set", which)) for name, which in commands.SET_OPERATORS.items())
    table.update((name, ("times", "*")) for name in commands.MULTIPLY)
    table.update((name, ("symbol", "...")) for name in commands.ELLIPSES)
    table.update((name, ("big", name)) for name in commands.BIG_OPERATORS)
    table.update((name, (name, name)) for name in commands.LETTER_WRAPPERS | commands.STRUCTURE)
    table.update((name, ("angle", name)) for name in commands.NAMERS - {"Delta"})
    table.update((name, (sign, sign)) for name, sign in commands.OPEN.items())
    table.update((name, (sign, sign)) for name, sign in commands.CLOSE.items())
    table.update((name, (name, name)) for name in [*commands.FENCES, *commands.FENCES.values()])
    table.update(_SPECIAL)
    return table


_TABLE = _table()

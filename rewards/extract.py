r"""The answer a completion commits to. Never "any number anywhere" in training.

The rules are tried in a given order and the rule that hit is reported, so that logs show what a
policy's answers look like. All of them take linear time: the text is a language model's.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

END_OF_THINKING = "</think>"

ANCHORED = ("boxed", "answer_tag", "hashes", "phrase")
"""The rules for training: each needs a mark that says "this is the answer"."""
LENIENT = (*ANCHORED, "math", "bare")
"""The rules for grading texts that were not asked for a mark."""

MAX_GAP_CHARS = 80
"""Boxes further apart than this never form one list."""
MAX_BARE_CHARS = 400
"""A longer line without any mark is prose, not an answer."""

# What begins another turn: nothing after it belongs to this completion.
_TURN = re.compile(
    r"<\|(?:im_start|im_end|endoftext|end_of_text|eot_id|start_header_id|user|end)\|>|</s>"
)
_FINAL = re.compile(r"\bfinal answer[ \t*_]{0,8}(?:is\b|:)[ \t*_:]{0,8}(?=[^\s*_:])", re.IGNORECASE)
_HOPE = re.compile(r"\bI hope (?:it|this) is correct", re.IGNORECASE)

# An escaped character (`\{`, `\\`) opens and closes nothing, so it is a token of its own.
_BRACES = re.compile(r"\\(?:boxed|fbox)\s{0,8}(?:\{|(?P<digits>[0-9]{1,100}))|\\.|[{}]", re.DOTALL)
_GAP = re.compile(
    r"(?:\s|[$,;~&]|\\[,;:! ()\[\]]|\\q?quad\b|\\(?:text|mbox)\{\s{0,4}(?:and|or)\s{0,4}\}"
    r"|(?:and|or)\b)*"
)
_OR = re.compile(r"\bor\b")
_BLANK_LINE = re.compile(r"\n[ \t]{0,80}\n")

_HASHES = re.compile(r"^####[ \t]*(?=([^#\s]))", re.MULTILINE)

# "answer" in the languages that common multilingual benchmarks are written in.
_ANSWER = (
    r"(?:\b(?:answers?|ans|réponses?|respuesta|resposta|risposta|antwort|antwoord|odpowiedź"
    r"|odpověď|cevap|yanıt|svar|jawaban|đáp án|ответ|відповідь|απάντηση)\b"
    r"|\bcorrect (?:option|choice)\b|答案|答え|答|정답|답|الجواب|الإجابة|پاسخ|उत्तर|คำตอบ)"
)
_IS = (
    r"(?:(?:is|are|be|equals|est|es|é|è|ist"  # codespell:ignore ist
    r"|là|adalah)\b|是|为|為|は|는|은|है|هو|هي|คือ)"
)
_PHRASE = re.compile(
    rf"{_ANSWER}[ \t*_]{{0,8}}(?:[^.\n:：$\\=]{{0,40}}?{_IS}[ \t*_]{{0,8}}[:：]?|[:：=])"
    rf"|{_ANSWER}[ \t*_]{{0,8}}\s{{0,8}}(?=\\\[|\\\(|\$)"
    r"|^[ \t*_>]{0,8}A(?:ns)?[ \t*_]{0,4}:",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"\.(?=[\s*_]|$)|[。।]|(?<=\$)\.(?![0-9])")
_REASON = re.compile(
    r",?\s(?:because|since|which|where|so that|hence|therefore|as required|as desired)\b"
)
_SAYS = re.compile(r"\b(?:is|are|was|be|equals|equal to|there is|there are)\s*:?\s")

_ADVERB = re.compile(
    r"(?:therefore|thus|hence|so|then|now|just|simply|only|probably|clearly|indeed|donc|also)\b,?\s"
)
# Letters of scripts that mathematics is not written in, so prose around an answer.
_SCRIPT = "[\u0900-\u0965\u0970-\u0fff\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af\u0621-\u065f]"
_FOREIGN = re.compile(rf"^{_SCRIPT}[{_SCRIPT[1:-1]}\s]*|[{_SCRIPT[1:-1]}\s]*{_SCRIPT}$")

_FORMULA = re.compile(r"\$[^$]{1,300}\$|\\\(.{1,300}?\\\)")
_MATH = re.compile(r"\\.|\$\$?", re.DOTALL)
_CLOSING = {"$": "$", "$$": "$$", r"\(": r"\)", r"\[": r"\]"}

_WORD = re.compile(rf"(?<![\\A-Za-z])[A-Za-z]{{2,}}|{_SCRIPT}+")
_FUNCTIONS = frozenset(
    ("and", "or", "sin", "cos", "tan", "cot", "sec", "csc", "log", "ln", "exp", "sqrt", "pi", "mod")
)
_NUMERAL = re.compile(r"[+\-−]?\$?\d+(?:,\d{3})*(?:\.\d+)?(?:\s?\\?%)?")
_BOLD = re.compile(r"\*\*([^*\n]{1,200})\*\*")


class Extraction(NamedTuple):
    """What was found and by which rule; both stay `None` and "none" when nothing was."""

    answer: str | None
    rule: str


class Box(NamedTuple):
    r"""A closed `\boxed{...}`: where it starts and ends, and what is in it."""

    start: int
    end: int
    content: str


def extract(completion: str, order: Sequence[str] = ANCHORED) -> Extraction:
    r"""The final answer and the rule that found it: the first in `order` that is not blank.

    - `boxed`: the last balanced `\boxed{...}`; boxes joined only by commas or "and" are one list,
      and by "or" one hedge. Left to `phrase`, if that is in `order`, where "final answer is"
      follows the last box.
    - `answer_tag`: the last `<answer>...</answer>`.
    - `hashes`: the last line that starts with `#### ` and a number (GSM8K's form).
    - `phrase`: what follows the last "answer is", "answer:" or `A:`, to the end of the sentence;
      without these, the only number or formula of the sentence before "I hope it is correct".
    - `math`: the last `$...$`, `\(...\)` or `\[...\]`, with those joined to it as boxes are.
    - `bare`: the last line if it is one short expression, with a unit perhaps; else what is bold in
      it, the number behind its last `=`, or the expression behind its last "is". A number in a
      sentence is no answer.

    Only the text after the last `</think>` counts when there is one: a box in the reasoning is
    not yet an answer. Nor is what follows the mark of another turn (`<|im_start|>`).

    Args:
        completion: the policy's text.
        order: rule names; `ANCHORED` in training, `LENIENT` for texts that were asked for no mark.

    Raises:
        ValueError: `order` names no rules or an unknown one.
    """
    unknown = [rule for rule in order if rule not in _RULES]
    if unknown or not order:
        raise ValueError(f"unknown extraction rules {unknown or order}; known: {list(_RULES)}.")
    text = completion.rpartition(END_OF_THINKING)[2]
    turn = _TURN.search(text)
    if turn and text[: turn.start()].strip():
        text = text[: turn.start()]
    for rule in order:
        if rule == "boxed" and "phrase" in order and _is_superseded(text):
            continue
        candidate = _RULES[rule](text).strip()
        if candidate:
            return Extraction(candidate, rule)
    return Extraction(None, "none")


def boxes(text: str) -> list[Box]:
    r"""Every `\boxed{...}` whose braces balance, in the order in which they start."""
    found: list[Box] = []
    unclosed: list[re.Match[str]] = []
    for token in _BRACES.finditer(text):
        if token["digits"]:
            found.append(Box(token.start(), token.end(), token["digits"]))
        elif token[0].endswith("{") and token[0] != r"\{":
            unclosed.append(token)
        elif token[0] == "}" and unclosed:
            opening = unclosed.pop()
            if opening[0] != "{":
                content = text[opening.end() : token.start()]
                found.append(Box(opening.start(), token.end(), content))
    return sorted(found)


def _boxed(text: str) -> str:
    found = boxes(text)
    if not found or not found[-1].content.strip():
        return ""
    innermost = [
        box
        for index, box in enumerate(found)
        if index + 1 == len(found) or found[index + 1].start >= box.end
    ]
    return _joined(text, innermost)


def _joined(text: str, spans: Sequence[Box]) -> str:
    """The last span, with those before it that only commas, "and" or "or" keep apart."""
    contents, joint = [spans[-1].content], ", "
    for before, after in zip(spans[-2::-1], spans[:0:-1], strict=True):
        gap = text[before.end : after.start]
        if len(gap) > MAX_GAP_CHARS or not _GAP.fullmatch(gap) or _BLANK_LINE.search(gap):
            break
        if _OR.search(gap):
            joint = r" \text{ or } "
        if before.content not in contents:
            contents.append(before.content)
    return joint.join(reversed(contents))


def _is_superseded(text: str) -> bool:
    """Whether an explicit final answer follows the last box, and is no box itself."""
    if r"\boxed" not in text or _FINAL.search(text) is None:
        return False
    found = boxes(text)
    return bool(found) and _FINAL.search(text, found[-1].end) is not None


def _answer_tag(text: str) -> str:
    end = text.rfind("</answer>")
    start = text.rfind("<answer>", 0, max(end, 0))
    content = text[start + len("<answer>") : end] if start >= 0 else ""
    return _phrase(content) or content


def _hashes(text: str) -> str:
    """The last `#### ` line that begins like a number or ends the text; others are headings."""
    text, last = text.rstrip(), None
    for match in _HASHES.finditer(text):
        if not match[1].isalpha():
            last = match
    for match in _HASHES.finditer(text, last.end() if last else 0):
        last = last if text.find("\n", match.end()) >= 0 else match
    return text[last.end() :].partition("\n")[0] if last else ""


def _phrase(text: str) -> str:
    last = None
    for match in _PHRASE.finditer(text):
        last = match
    if last is None:
        return _concluded(text)
    rest = text[last.end() :].lstrip(" \t*_:：\n")
    for opening in (r"\[", "$$"):
        # A displayed formula may span lines.
        if rest.startswith(opening):
            shown, closed, _ = rest[len(opening) :].partition(_CLOSING[opening])
            if closed:
                return shown
    sentence = _sentence(rest.partition("\n")[0])
    if sentence[:1].isalpha():
        says = list(_SAYS.finditer(sentence))
        sentence = sentence[says[-1].end() :] if says else sentence
    return sentence


def _concluded(text: str) -> str:
    """The only formula or number of the sentence before "I hope it is correct"."""
    hope = _HOPE.search(text)
    if hope is None:
        return ""
    sentence = re.split(
        r"[.!?]\s|\n", text[max(hope.start() - 600, 0) : hope.start()].rstrip(" \n.")
    )[-1]
    formulas = _FORMULA.findall(sentence)
    found = formulas or _NUMERAL.findall(sentence)
    return found[0] if len(found) == 1 else ""


def _sentence(line: str) -> str:
    line = _HOPE.split(line, maxsplit=1)[0]
    line = _SENTENCE_END.split(line.strip(" \t*_`"), maxsplit=1)[0]
    line = _REASON.split(line, maxsplit=1)[0].strip(" \t*_`")
    if adverb := _ADVERB.match(line):
        line = line[adverb.end() :]
    return _FOREIGN.sub("", line).strip() or line


def _math(text: str) -> str:
    """The content of the last closed formula, or of several side by side."""
    text = _HOPE.split(text, maxsplit=1)[0]
    spans: list[Box] = []
    opening: re.Match[str] | None = None
    for token in _MATH.finditer(text):
        if opening is None:
            opening = token if token[0] in _CLOSING else None
        elif token[0] == _CLOSING[opening[0]]:
            content = text[opening.end() : token.start()].strip()
            if content:
                spans.append(Box(opening.start(), token.end(), content))
            opening = None
    return _joined(text, spans) if spans else ""


def _bare(text: str) -> str:
    text = _HOPE.split(text.strip(), maxsplit=1)[0].strip()
    if "\n" not in text and len(text) <= MAX_BARE_CHARS and _is_expression(text):
        return text
    line = text.rpartition("\n")[2][-MAX_BARE_CHARS:].strip()
    bold = _BOLD.findall(line)
    if bold:
        return bold[-1]
    result = line.rpartition("=")[2] if "=" in line else ""
    if len(_NUMERAL.findall(result)) == 1 and len(_words(result)) <= 1:
        return _NUMERAL.findall(result)[0]
    if _is_expression(line):
        return line
    sentences = [part for part in re.split(r"[.!?]\s|[。।]", line) if part.strip()]
    if not sentences:
        return ""
    says = _SAYS.split(sentences[-1])
    said = says[-1].strip(" .") if len(says) > 1 else ""
    counted = _NUMERAL.match(said) is not None and _is_expression(said)
    return said if counted or not _words(said) else ""


def _is_expression(text: str) -> bool:
    words = _words(text)
    if not words:
        return True
    if text[:1].isalpha():
        return len(text.split()) == 1
    return len(words) <= 2


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if word not in _FUNCTIONS]


_RULES: dict[str, Callable[[str], str]] = {
    "boxed": _boxed,
    "answer_tag": _answer_tag,
    "hashes": _hashes,
    "phrase": _phrase,
    "math": _math,
    "bare": _bare,
}

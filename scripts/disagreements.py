"""Two verdicts on one completion: how often they differ, and a simple rule that explains it.

A cause is a guess from the texts alone, to sort a long list by. It is no judgement of who is right.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

from batches import Row

from cotree.grpo.cli_rewards_shown import shown
from cotree.rewards.audit import COULD_NOT_GRADE, RIGHT, WRONG
from cotree.rewards.cases import RIGHT_FROM
from cotree.rewards.types import Reward, Status, Ungraded

TAIL_CHARS = 120
"""Characters of a completion's end that are shown."""
FEW = 3
"""Completions shown of a cause that is about the format."""
TOOK = "took "
"""How a reason begins that says what the peer took for the answer."""

_NUMBER = re.compile(r"-?[0-9](?:[0-9,]*[0-9])?(?:\.[0-9]+)?")
_LAYOUT = re.compile(r"\s|\\[!,;: ]|\\left|\\right|(?<=[0-9]),(?=[0-9]{3})|\.$|^\$|\$$")
_UNIT = re.compile(r"\\(?:text|mbox|mathrm)\b|%|°|\\circ|\\?\$|(?<![\\A-Za-z])[A-Za-z]{2,}")
_TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf)\s*|[{}()]")
_WORDS = re.compile(r"(?=.*[A-Za-z]{2})[A-Za-z][A-Za-z ,.'-]*")


@dataclass(frozen=True)
class Opinion:
    """A completion and what another grader says about it."""

    row: Row
    peer: Reward | Ungraded
    reads_all: bool
    """The peer was given the completion, and not the answer that we found in it."""

    @property
    def verdict(self) -> str:
        """The other grader's verdict, one of `VERDICTS`."""
        if isinstance(self.peer, Ungraded):
            return COULD_NOT_GRADE
        return RIGHT if self.peer.value >= RIGHT_FROM else WRONG

    @property
    def disagrees(self) -> bool:
        """Whether the two verdicts differ, a lack of one from the peer included."""
        return self.row.ours != COULD_NOT_GRADE and self.row.ours != self.verdict

    @property
    def took(self) -> str:
        """What the peer took for the answer, as far as it says so."""
        return self.peer.reason.removeprefix(TOOK) if self.peer.reason.startswith(TOOK) else ""


@dataclass(frozen=True)
class Figures:
    """How often a grader says right, and how often it says what we say."""

    n: int
    right: int
    agree: int
    """Of `both`, with the same verdict."""
    both: int
    """Completions that both could grade."""
    right_where_wrong: int
    """The grader says right, and we say wrong."""
    wrong_where_right: int
    could_not_grade: int


def figures(opinions: Sequence[Opinion]) -> Figures:
    """Counts over the completions of one grader."""
    counts = Counter((opinion.row.ours, opinion.verdict) for opinion in opinions)
    agree = counts[RIGHT, RIGHT] + counts[WRONG, WRONG]
    over, under = counts[WRONG, RIGHT], counts[RIGHT, WRONG]
    return Figures(
        n=len(opinions),
        right=sum(opinion.verdict == RIGHT for opinion in opinions),
        agree=agree,
        both=agree + over + under,
        right_where_wrong=over,
        wrong_where_right=under,
        could_not_grade=sum(opinion.verdict == COULD_NOT_GRADE for opinion in opinions),
    )


# --- causes ----------------------------------------------------------------------------------


def cause(opinion: Opinion) -> str:
    """The first explanation that fits, of an opinion that disagrees with ours."""
    if isinstance(opinion.peer, Ungraded):
        return f"the peer could not grade: {opinion.peer.failure}"
    rules = _PEER_RIGHT if opinion.verdict == RIGHT else _PEER_WRONG
    return next(name for name, holds in rules if holds(opinion))


def _plain(text: str) -> str:
    """Without spaces, dollar signs around it, thousands commas and a final full stop."""
    return _LAYOUT.sub("", text.strip())


def _last_is_reference(opinion: Opinion) -> bool:
    numbers = _NUMBER.findall(opinion.row.sample.text)
    return bool(numbers) and _plain(numbers[-1]) == _plain(opinion.row.problem.reference)


def _after_ours(opinion: Opinion) -> str:
    """What follows the last place where our answer stands; nothing where it stands nowhere."""
    text, answer = opinion.row.sample.text, opinion.row.sample.answer
    start = text.rfind(answer) if answer else -1
    return text[start + len(answer) :] if answer and start >= 0 else ""


def _ours_is_later(opinion: Opinion) -> bool:
    """What the peer took stands before the last place of our answer, and is not part of it."""
    text, ours = opinion.row.sample.text, opinion.row.sample.answer or ""
    start = text.find(opinion.took) if opinion.took and opinion.reads_all else -1
    return 0 <= start < text.rfind(ours) and opinion.took not in ours


def _goes_on(opinion: Opinion) -> bool:
    """A number follows our answer, in a completion that the peer has read."""
    return opinion.reads_all and _NUMBER.search(_after_ours(opinion)) is not None


def _takes_more(opinion: Opinion) -> bool:
    """What the peer took has a box in it, or is much longer than our answer."""
    ours = opinion.row.sample.answer or ""
    return r"\boxed" in opinion.took or len(opinion.took) > len(ours) + 50


def _is_text(opinion: Opinion) -> bool:
    return _WORDS.fullmatch(_TEXT.sub("", opinion.row.problem.reference)) is not None


def _has_unit(opinion: Opinion) -> bool:
    """One of the two answers has a unit, a sign or words, and the other has none."""
    answer = opinion.took or opinion.row.sample.answer or ""
    return (_UNIT.search(answer) is None) != (_UNIT.search(opinion.row.problem.reference) is None)


def _took_other(opinion: Opinion) -> bool:
    """The peer took something else than the reference, as far as it says."""
    return bool(opinion.took) and _plain(opinion.took) != _plain(opinion.row.problem.reference)


def _is_same(opinion: Opinion) -> bool:
    return _plain(opinion.row.sample.answer or "") == _plain(opinion.row.problem.reference)


_Rules = Sequence[tuple[str, Callable[[Opinion], bool]]]

LACKS_FORM = "the completion lacks the form that the peer asks for"
TOOK_MORE = "the peer took the box with the answer, or a passage"
ABOUT_FORM = (LACKS_FORM, TOOK_MORE)
"""Causes that fit most completions of a format, or none."""

_PEER_RIGHT: _Rules = (
    ("the thoughts never end, so we take no answer", lambda o: o.row.sample.unfinished_thinking),
    (
        "we found no answer; the last number is the reference",
        lambda o: o.row.sample.answer is None and _last_is_reference(o),
    ),
    ("we found no answer; the peer took one", lambda o: o.row.sample.answer is None),
    ("we cannot read the answer that we found", lambda o: o.row.sample.parse_error),
    ("the same text, which we do not accept", _is_same),
    ("text form", _is_text),
    (
        "our answer has the reference in it, and more",
        lambda o: _plain(o.row.problem.reference) in _plain(o.row.sample.answer or ""),
    ),
    ("we took an answer that comes after the peer's", _ours_is_later),
    ("the completion goes on after the answer that we took", _goes_on),
    ("units, signs or words", _has_unit),
    ("another answer, or written otherwise", lambda _: True),
)

_PEER_WRONG: _Rules = (
    (LACKS_FORM, lambda o: isinstance(o.peer, Reward) and o.peer.status is Status.NO_ANSWER),
    (
        "what the peer took has no letter or digit",
        lambda o: bool(o.took) and not any(char.isalnum() for char in o.took),
    ),
    (TOOK_MORE, _takes_more),
    (
        "the completion goes on after the answer, and the peer took what follows",
        lambda o: _goes_on(o) and _took_other(o),
    ),
    ("the peer took another part of the completion", lambda o: o.reads_all and _took_other(o)),
    ("text form", _is_text),
    ("the same text, which the peer does not accept", _is_same),
    ("units, signs or words", _has_unit),
    ("written otherwise than the reference", lambda _: True),
)


# --- the list --------------------------------------------------------------------------------


def listed(label: str, opinions: Sequence[Opinion], *, most: int) -> list[str]:
    """Lines that show where a grader differs from us, grouped by cause, the commonest first.

    Args:
        label: the grader's.
        opinions: all of them; those that agree are passed over.
        most: disagreements shown, taken from every cause in turn.
    """
    groups: dict[tuple[str, str], list[Opinion]] = {}
    for opinion in opinions:
        if opinion.disagrees:
            groups.setdefault((opinion.verdict, cause(opinion)), []).append(opinion)
    if not groups:
        return [f"\n{label}: no disagreement"]
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    total = sum(map(len, groups.values()))
    lines = [f"\n{label}: {total:,} disagreement{'s' if total > 1 else ''} with ours"]
    # A few examples are enough of what a metric does to every completion of this format.
    sizes = [
        min(len(found), FEW) if why in ABOUT_FORM else len(found) for (_, why), found in ordered
    ]
    taken = spread(sizes, most)
    for ((verdict, why), found), count in zip(ordered, taken, strict=True):
        theirs = "" if verdict == COULD_NOT_GRADE else f"; the peer says {verdict}"
        lines.append(f"  {why} ({len(found):,}{theirs})")
        for opinion in found[:count]:
            lines += described(opinion)
        if count < len(found):
            more = "" if why in ABOUT_FORM else "; a larger --most shows them"
            lines.append(f"    and {len(found) - count:,} more{more}")
    return lines


def described(opinion: Opinion) -> list[str]:
    """A completion, its reference, both answers and its end, in two lines."""
    row = opinion.row
    sample, several = row.sample, f", sample {row.number}" if row.number else ""
    answer = "none" if sample.answer is None else f"{shown(sample.answer)} ({sample.rule})"
    said = shown(opinion.peer.reason)
    return [
        f"    {row.problem.id}{several}: reference {shown(row.problem.reference)} | ours {answer}, "
        f"{row.ours} | peer {opinion.verdict}{'' if said in ('0', '1') else f', {said}'}",
        f"      ends {shown(sample.text[-TAIL_CHARS:])}",
    ]


def spread(sizes: Sequence[int], most: int) -> list[int]:
    """How many to take of each group when one is taken of every group in turn."""
    taken = [0] * len(sizes)
    left = min(most, sum(sizes))
    for index in cycle(range(len(sizes))):
        if left == 0:
            break
        if taken[index] < sizes[index]:
            taken[index] += 1
            left -= 1
    return taken

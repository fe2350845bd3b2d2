"""The results of an evaluation as one self-contained page, made to read its wrong answers."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotree.grpo.evaluation.journal import EvaluationFolder
from cotree.grpo.evaluation.page_charts import sampling_chart
from cotree.grpo.evaluation.records import BenchmarkSummary, ProblemRecord, Sample
from cotree.grpo.evaluation.tables import at_all, at_k, percent, problems, tokens, with_interval
from cotree.grpo.page_templates import page_template

MOST_PROBLEMS = 300
"""Problems of a benchmark on the page unless the caller says otherwise."""
MOST_SAMPLES = 8
"""Samples of a problem on the page."""
MOST_CHARACTERS = 16_000_000
"""Completions of all benchmarks together; a browser must still open the page."""
LONG_THINKING = 1500
"""Characters from which finished thinking is folded, so that the answer is seen first."""

OUTCOMES = {"wrong": "✗", "mixed": "◐", "right": "✓", "ungraded": "?"}
"""Of a problem, by its samples; the marks are for those who do not see the colours."""
FILTERS = {
    "all": "All",
    "wrong": "Wrong",
    "mixed": "Mixed",
    "right": "Right",
    "no-answer": "No answer",
    "truncated": "Truncated",
    "ungraded": "Could not grade",
}
"""Name in the page's classes -> label."""
_FIRST = ("wrong", "mixed", "ungraded", "right")
"""The order of the problems, and of the filters to begin with."""

_WORDS = (at_all, at_k, percent, problems, tokens, with_interval)
"""Functions that the template calls by their names."""
_THINK_TAG = re.compile(r"<think>|<(/)think>\s*")


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table for the page beside the summary: a comparison with another evaluation, say."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    """The first cell of each names the row."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a completion. Joined, the pieces are the text again, tags included."""

    text: str
    thinking: bool


@dataclass(frozen=True, slots=True)
class ShownSample:
    """A sample, with the words around it."""

    number: int
    """Counted from 1."""
    sample: Sample
    verdict: str
    mark: str
    remarks: Sequence[str]
    pieces: Sequence[Piece]


@dataclass(frozen=True, slots=True)
class ShownProblem:
    """A problem and those of its samples that the page has."""

    record: ProblemRecord
    outcome: str
    mark: str
    filters: frozenset[str]
    """The filters, besides `all`, that let it through."""
    num_right: int
    answers: Sequence[tuple[str | None, str, int]]
    """Extracted answer, verdict and how often, the commonest first."""
    samples: Sequence[ShownSample]


def write_page(
    target: Path,
    summaries: Sequence[BenchmarkSummary],
    records: Mapping[str, Sequence[ProblemRecord]],
    *,
    model: str,
    facts: Mapping[str, str],
    tables: Sequence[PageTable] = (),
    most_problems: int = MOST_PROBLEMS,
) -> None:
    """Writes the page. It makes no request, runs no script, and escapes all that a model wrote.

    Args:
        target: the file; replaced when it exists.
        summaries: one a benchmark, in the order of the page.
        records: benchmark -> its problems.
        model: as the user named it.
        facts: label -> text of the header.
        tables: further tables, after the summary.
        most_problems: of a benchmark on the page; wrong ones come first.

    Raises:
        ValueError: a benchmark has a summary and no records, or records and no summary.
    """
    names = [summary.benchmark for summary in summaries]
    if sorted(names) != sorted(records):
        raise ValueError(
            f"there are summaries of {sorted(names)} and records of {sorted(records)}; "
            "pass both for each benchmark."
        )
    most_characters = MOST_CHARACTERS // max(1, len(names))
    folder = EvaluationFolder(target.parent)
    page = page_template(Path(__file__).with_name("evaluation.html.jinja")).render(
        {text.__name__: text for text in _WORDS},
        model=model,
        facts=facts,
        tables=tables,
        summaries=summaries,
        filters=FILTERS,
        outcomes=OUTCOMES,
        long_thinking=LONG_THINKING,
        sections=[
            _section(
                summary,
                records[summary.benchmark],
                folder.samples(summary.benchmark).name,
                most_problems,
                most_characters,
            )
            for summary in summaries
        ],
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    )
    scratch = target.with_name(f"{target.name}.tmp")
    # Completions are a model's: a lone surrogate in one must not lose the page.
    scratch.write_text(page, encoding="utf-8", errors="backslashreplace")
    scratch.replace(target)


def _section(
    summary: BenchmarkSummary,
    records: Sequence[ProblemRecord],
    file: str,
    most_problems: int,
    most_characters: int,
) -> dict[str, object]:
    ordered = sorted(records, key=_wrong_first)
    shown = list(_fitting(ordered, most_problems, most_characters))
    counts = Counter(name for record in records for name in _filters(record))
    on_page = Counter(name for problem in shown for name in problem.filters)
    return {
        "summary": summary,
        "file": file,
        "total": len(records),
        "outcomes": {name: counts[name] for name in OUTCOMES},
        "shown": shown,
        "counts": counts | Counter(all=len(records)),
        "on_page": on_page | Counter(all=len(shown)),
        "first": next((name for name in _FIRST if on_page[name]), "all"),
        "chart": sampling_chart(summary),
        "parts": list(_flat(summary.parts)),
        "remarks": _remarks(summary, len(records)),
    }


def _remarks(summary: BenchmarkSummary, num_records: int) -> list[str]:
    """What to know before believing the numbers."""
    said: list[str] = []
    if num_records < summary.num_total:
        said.append(f"A subset: {num_records:,} of {summary.num_total:,} problems.")
    if summary.ungraded:
        said.append(
            f"Samples that could not be graded, and count neither way: {summary.ungraded:,}."
        )
    if summary.truncated:
        said.append(f"{percent(summary.truncated)} of the samples were cut at the token limit.")
    if summary.unfinished_thinking:
        said.append(f"{percent(summary.unfinished_thinking)} never finished thinking.")
    if summary.parse_error:
        said.append(f"{percent(summary.parse_error)} have an answer that cannot be read.")
    if summary.run_error is not None:
        said.append(
            f"With other seeds on the same problems, accuracy would vary with a standard error of "
            f"{100 * summary.run_error:.1f} points."
        )
    return said


# --- problems --------------------------------------------------------------------------------


def outcome(record: ProblemRecord) -> str:
    """`right` or `wrong` when all graded samples are, `mixed` between, `ungraded` without any."""
    verdicts = {sample.correct for sample in record.samples} - {None}
    if not verdicts:
        return "ungraded"
    if len(verdicts) == 2:
        return "mixed"
    return "right" if verdicts == {True} else "wrong"


def _filters(record: ProblemRecord) -> frozenset[str]:
    found = {outcome(record)}
    for sample in record.samples:
        if sample.answer is None:
            found.add("no-answer")
        if sample.stop_reason == "length":
            found.add("truncated")
        if sample.correct is None:
            found.add("ungraded")
    return frozenset(found)


def _wrong_first(record: ProblemRecord) -> tuple[int, float, int]:
    right = sum(sample.correct is True for sample in record.samples)
    return _FIRST.index(outcome(record)), right / max(1, len(record.samples)), record.index


def _fitting(
    ordered: Sequence[ProblemRecord], most_problems: int, most_characters: int
) -> Iterator[ShownProblem]:
    characters = 0
    for record in ordered[:most_problems]:
        problem = _shown(record)
        characters += len(record.prompt) + sum(len(s.sample.text) for s in problem.samples)
        yield problem
        if characters > most_characters:
            return


def _shown(record: ProblemRecord) -> ShownProblem:
    found = outcome(record)
    answers = Counter((sample.answer, _verdict(sample)) for sample in record.samples)
    return ShownProblem(
        record=record,
        outcome=found,
        mark=OUTCOMES[found],
        filters=_filters(record),
        num_right=sum(sample.correct is True for sample in record.samples),
        answers=[(answer, verdict, n) for (answer, verdict), n in answers.most_common()],
        samples=[_shown_sample(i, record.samples[i]) for i in chosen(record.samples, MOST_SAMPLES)],
    )


def chosen(samples: Sequence[Sample], most: int) -> list[int]:
    """Indices of at most `most` samples: different answers before repeated ones, a right one too.

    In the order of the samples.
    """
    kinds = [(sample.correct, sample.answer) for sample in samples]
    repeated = [kind in kinds[:i] for i, kind in enumerate(kinds)]
    by_worth = sorted(
        range(len(kinds)), key=lambda i: (repeated[i], samples[i].correct is not True)
    )
    return sorted(by_worth[:most])


def _verdict(sample: Sample) -> str:
    if sample.correct is None:
        return "ungraded"
    return "right" if sample.correct else "wrong"


def _shown_sample(index: int, sample: Sample) -> ShownSample:
    verdict = _verdict(sample)
    rules: Mapping[str, bool] = {
        "cut at the token limit": sample.stop_reason == "length",
        "never finished thinking": sample.unfinished_thinking,
        "answer cannot be read": sample.parse_error,
        "not in the asked format": sample.strict is False and sample.correct is True,
    }
    return ShownSample(
        number=index + 1,
        sample=sample,
        verdict=verdict,
        mark=OUTCOMES[verdict],
        remarks=[remark for remark, holds in rules.items() if holds],
        pieces=thinking_apart(sample.text, unfinished=sample.unfinished_thinking),
    )


def thinking_apart(text: str, *, unfinished: bool) -> list[Piece]:
    """The text cut at its think tags, each tag with its thinking.

    A text whose first tag is `</think>` began to think in its prompt; so did one without any tag
    that is `unfinished`.
    """
    tags = list(_THINK_TAG.finditer(text))
    thinking = bool(tags[0][1]) if tags else unfinished
    cuts: list[tuple[int, bool]] = [(0, thinking)]
    for tag in tags:
        closes = bool(tag[1])
        cuts.append((tag.end(), False) if closes else (tag.start(), True))
    ends = [start for start, _ in cuts[1:]] + [len(text)]
    pieces: list[Piece] = []
    for (start, inside), end in zip(cuts, ends, strict=True):
        if pieces and pieces[-1].thinking == inside:
            pieces[-1] = Piece(pieces[-1].text + text[start:end], inside)
        elif end > start:
            pieces.append(Piece(text[start:end], inside))
    return pieces


# --- fingerprint -----------------------------------------------------------------------------


def _flat(parts: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted name, text) of nested settings."""
    for name, value in parts.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        elif isinstance(value, str):
            yield f"{prefix}{name}", value
        else:
            yield f"{prefix}{name}", json.dumps(value, ensure_ascii=False, default=str)

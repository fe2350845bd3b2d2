"""The texts of sequence-level distillation as files: rows to learn from, and where they come from.

Rows: `id`, `question`, `prompt`, `solution`, `tokens`, `pass_rate`. A cold start reads them too:

    [sft.traces]
    type = "rows"
    path = "traces.jsonl"

Source: Kim & Rush 2016, arXiv:1606.07947, sec. 3.2 (a student that learns from what its teacher
writes instead of from its probabilities).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cotree.grpo.distilling.rejection import RejectionCounts, Trace, pass_rate
from cotree.grpo.evaluation.fingerprint import digest
from cotree.grpo.evaluation.intervals import mean_interval
from cotree.grpo.rows import Row, load_rows, text_of
from cotree.grpo.searching.exports import write_rows

if TYPE_CHECKING:
    from cotree.grpo.distilling.candidates import Candidate


def write_traces(path: Path, traces: Sequence[Trace]) -> None:
    """Writes or replaces a JSONL file: a reader sees all of the old one or all of the new one.

    Raises:
        ValueError: there is nothing to learn from.
    """
    if not traces:
        raise ValueError(
            "none of the teacher's completions was kept, so there is nothing to learn from. Loosen "
            "[distill.corpus.keep], raise corpus.samples or corpus.max_tokens, or choose another "
            "teacher or prompt; the counts by reason tell which."
        )
    write_rows(path, (_row(trace) for trace in traces))


def read_traces(path: Path) -> list[Trace]:
    """The traces that `write_traces` wrote, in their order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a row is not usable; the message has its number.
    """
    rows = load_rows(str(path), question_field="question", answer_field="solution")
    return [_trace(row, f"{path}, row {row.number}") for row in rows]


def corpus_digest(rows: Iterable[Sequence[str]]) -> str:
    """What tells two corpora apart: a digest of the texts of every row, in their order."""
    return digest([list(row) for row in rows])


def corpus_summary(
    candidates_by_problem: Mapping[str, Sequence[Candidate]],
    traces: Sequence[Trace],
    counts: RejectionCounts,
) -> dict[str, Any]:
    """What `corpus.json` says of a corpus, under stable keys.

    Args:
        candidates_by_problem: all that the teacher wrote.
        traces: what was kept of it.
        counts: what became of the rest.

    Returns:
        `problems` and of those `solved` (a completion is right) and `in_corpus`; `candidates`,
        `kept` and `dropped` (reason -> number); `accuracy` of the teacher, mean over the problems
        with `low` and `high` of its 95 % interval, null where nothing could be graded;
        `pass_rates`: each that occurs, with its number of problems; `tokens`: `sampled`, `kept`,
        and `mean_kept` a trace, null without any.
    """
    everyone = candidates_by_problem.values()
    rates = [rate for one in everyone if (rate := pass_rate(one)) is not None]
    kept_tokens = sum(trace.num_tokens for trace in traces)
    return {
        "problems": len(candidates_by_problem),
        "solved": sum(rate > 0 for rate in rates),
        "in_corpus": len({trace.id.rpartition("/")[0] for trace in traces}),
        "candidates": counts.total,
        "kept": counts.kept,
        "dropped": {reason.value: number for reason, number in counts.dropped.items()},
        "accuracy": mean_interval(rates)._asdict() if rates else None,
        "pass_rates": [
            {"rate": rate, "problems": number} for rate, number in sorted(Counter(rates).items())
        ],
        "tokens": {
            "sampled": sum(one.num_tokens for candidates in everyone for one in candidates),
            "kept": kept_tokens,
            "mean_kept": kept_tokens / len(traces) if traces else None,
        },
    }


def _row(trace: Trace) -> dict[str, object]:
    return {
        "id": trace.id,
        "question": trace.question,
        "prompt": trace.prompt,
        "solution": trace.solution,
        "tokens": trace.num_tokens,
        "pass_rate": trace.pass_rate,
    }


def _trace(row: Row, place: str) -> Trace:
    tokens, rate = row.columns.get("tokens"), row.columns.get("pass_rate")
    if not isinstance(tokens, int) or not isinstance(rate, int | float):
        raise ValueError(
            f"{place}: tokens is {tokens!r} and pass_rate {rate!r}; they must be numbers. Read "
            'texts from elsewhere with corpus.type = "rows".'
        )
    prompt = text_of(row.columns, "prompt", place)
    return Trace(row.id, row.question, prompt, row.answer, tokens, float(rate))

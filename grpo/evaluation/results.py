"""What an evaluation leaves for programs: results.json, samples_BENCHMARK.jsonl and a parquet file.

Names are those of EleutherAI's lm-evaluation-harness (0.4) wherever it has one, so that scripts
that read its files read ours; what it has no name for stands under names of our own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from cotree.grpo.evaluation.records import BenchmarkSummary, Estimate, ProblemRecord, Sample
from cotree.grpo.result import write_json
from cotree.grpo.types import StopReason

__all__ = [
    "record_from_json",
    "record_json",
    "results_json",
    "summary_json",
    "write_json",
    "write_samples_parquet",
]

Kind = TypeVar("Kind")

STRICT, LENIENT = "strict-match", "flexible-extract"
"""lm-evaluation-harness's names of its filters for the asked format and for any form."""

_NORMAL_95 = 1.96
"""Standard errors on either side of the mean in a normal 95 % interval."""
_RECORD_FIELDS = (
    "doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics",
    "exact_match", "samples",
)  # fmt: skip
_SAMPLE_FIELDS = (
    "rule", "correct", "strict", "reason", "parse_error", "num_tokens", "stop_reason",
    "unfinished_thinking",
)  # fmt: skip


# --- results.json ----------------------------------------------------------------------------


def summary_json(summary: BenchmarkSummary) -> dict[str, Any]:
    """A benchmark's numbers under stable keys, ready for JSON.

    The keys `avg@k`, `pass@k` and `maj@k` are literal, whatever k is; `pass_at` and `maj_at` have
    the values for fewer samples, by their number as text. An estimate is an object of `value`,
    `low` and `high`, or null where there is none: `strict` where the prompt asks for no format,
    `pass@k` and `maj@k` where no problem has k graded samples.
    """
    return {
        "n": summary.n,
        "avg@k": _estimate(summary.avg),
        "pass@k": _estimate(summary.pass_at.get(summary.k)),
        "maj@k": _estimate(summary.maj_at.get(summary.k)),
        "strict": _estimate(summary.strict),
        "no_answer": summary.no_answer,
        "truncated": summary.truncated,
        "mean_tokens": summary.mean_tokens,
        "fingerprint": summary.fingerprint,
        "k": summary.k,
        "num_total": summary.num_total,
        "ungraded": summary.ungraded,
        "parse_error": summary.parse_error,
        "unfinished_thinking": summary.unfinished_thinking,
        "run_error": summary.run_error,
        "total_tokens": summary.total_tokens,
        "version": summary.version,
        "pass_at": {str(k): _estimate(at) for k, at in sorted(summary.pass_at.items())},
        "maj_at": {str(k): _estimate(at) for k, at in sorted(summary.maj_at.items())},
    }


def results_json(
    summaries: Sequence[BenchmarkSummary],
    *,
    model: str,
    config: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    """The content of results.json, in the layout of lm-evaluation-harness.

    `exact_match,flexible-extract` is avg@k by the lenient rules and `exact_match,strict-match`
    accuracy in the asked format, absent where the prompt asks for none. With k > 1 there are
    `pass@K,flexible-extract` and `exact_match,maj@K` too, K being the number.

    The `_stderr` keys are derived from our 95 % intervals, which are clustered by problem and need
    not be symmetric: (high - low) / (2 * 1.96), what a normal interval of that width would have.
    Compare models by the intervals under `cotree`.

    Args:
        summaries: one a benchmark.
        model: as the user named it.
        config: the settings of the evaluation; its own `model`, if it has one, is kept.
        seconds: wall time of the evaluation.
    """
    tasks = {summary.benchmark: summary for summary in summaries}
    if len(tasks) < len(summaries):
        names = [summary.benchmark for summary in summaries]
        raise ValueError(f"a benchmark is there twice: {names}. Merge its records first.")
    return {
        "results": {name: _scores(summary) for name, summary in tasks.items()},
        "n-samples": {
            name: {"original": s.num_total, "effective": s.n} for name, s in tasks.items()
        },
        "n-shot": {name: _num_fewshot(summary) for name, summary in tasks.items()},
        "higher_is_better": {name: {"exact_match": True} for name in tasks},
        "versions": {name: summary.version for name, summary in tasks.items()},
        "configs": {name: _task_config(summary) for name, summary in tasks.items()},
        "config": {"model": model, **config},
        "model_name": model,
        "total_evaluation_time_seconds": str(seconds),  # text, as the harness has it
        "cotree": {name: summary_json(summary) for name, summary in tasks.items()},
    }


def _scores(summary: BenchmarkSummary) -> dict[str, Any]:
    named = [("exact_match", STRICT, summary.strict), ("exact_match", LENIENT, summary.avg)]
    if summary.k > 1:
        named += [
            (f"pass@{summary.k}", LENIENT, summary.pass_at.get(summary.k)),
            ("exact_match", f"maj@{summary.k}", summary.maj_at.get(summary.k)),
        ]
    scores: dict[str, Any] = {"alias": summary.benchmark, "sample_len": summary.n}
    for metric, rule, estimate in named:
        if estimate is None:
            continue
        scores[f"{metric},{rule}"] = estimate.value
        scores[f"{metric}_stderr,{rule}"] = (estimate.high - estimate.low) / (2 * _NORMAL_95)
    return scores


def _num_fewshot(summary: BenchmarkSummary) -> int | None:
    """Worked examples in the prompt; None where the measured parts do not say."""
    match summary.parts.get("prompt"):
        case {"examples": int(number)}:
            return number
        case _:
            return None


def _task_config(summary: BenchmarkSummary) -> dict[str, Any]:
    rules = [STRICT, LENIENT] if summary.strict else [LENIENT]
    return {
        "task": summary.benchmark,
        "output_type": "generate_until",
        "repeats": summary.k,
        "num_fewshot": _num_fewshot(summary),
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        "filter_list": [{"name": rule} for rule in rules],
        "metadata": {"version": summary.version, "parts": dict(summary.parts)},
    }


def _estimate(estimate: Estimate | None) -> dict[str, float] | None:
    if estimate is None:
        return None
    return estimate._asdict()


# --- samples_BENCHMARK.jsonl -----------------------------------------------------------------


def record_json(record: ProblemRecord) -> dict[str, Any]:
    """One line of samples_BENCHMARK.jsonl: a problem, its samples, and their mean.

    The line holds all of the record; `record_from_json` gives it back. Write it with `json.dumps`
    and leave `ensure_ascii` on: a lone surrogate in a model's text survives only so. (JSON cannot
    tell two surrogates that make a pair from the character they encode, and reads that.)
    """
    return {
        "doc_id": record.index,
        "doc": {"id": record.id, "question": record.question},
        "target": record.reference,
        "arguments": {"gen_args_0": {"arg_0": record.prompt}},
        "resps": [[sample.text for sample in record.samples]],
        "filtered_resps": [sample.answer for sample in record.samples],
        "filter": LENIENT,
        "metrics": ["exact_match"],
        "exact_match": _mean_correct(record.samples),
        "samples": [
            {name: getattr(sample, name) for name in _SAMPLE_FIELDS} for sample in record.samples
        ],
    }


def record_from_json(row: object) -> ProblemRecord:
    """The record that `record_json` made a line of.

    Raises:
        ValueError: a field is missing, unknown, of another type or at odds with another field.
    """
    fields = _fields("the line", row, _RECORD_FIELDS)
    index = _typed("doc_id", fields["doc_id"], int)
    doc = _fields("doc", fields["doc"], ("id", "question"))
    arguments = _fields("arguments", fields["arguments"], ("gen_args_0",))
    first = _fields("arguments.gen_args_0", arguments["gen_args_0"], ("arg_0",))
    for name, only in (("filter", LENIENT), ("metrics", ["exact_match"])):
        if fields[name] != only:
            raise _odd(name, fields[name], repr(only))
    rows = _typed("samples", fields["samples"], list)
    resps = _typed("resps", fields["resps"], list)
    if len(resps) != 1:
        raise _odd("resps", resps, "one list of texts, because there is one prompt")
    texts = _as_many("resps[0]", _typed("resps[0]", resps[0], list), len(rows))
    answers = _typed("filtered_resps", fields["filtered_resps"], list)
    answers = _as_many("filtered_resps", answers, len(rows))
    samples = tuple(
        _sample(i, *parts) for i, parts in enumerate(zip(texts, answers, rows, strict=True))
    )
    mean = _mean_correct(samples)
    if fields["exact_match"] != mean or isinstance(fields["exact_match"], bool):
        raise _odd("exact_match", fields["exact_match"], f"{mean}, the mean of its samples")
    return ProblemRecord(
        index=index,
        id=_typed("doc.id", doc["id"], str),
        question=_typed("doc.question", doc["question"], str),
        prompt=_typed("arguments.gen_args_0.arg_0", first["arg_0"], str),
        reference=_typed("target", fields["target"], str),
        samples=samples,
    )


def _sample(index: int, text: object, answer: object, row: object) -> Sample:
    place = f"samples[{index}]"
    fields = _fields(place, row, _SAMPLE_FIELDS)
    stop_reason = fields["stop_reason"]
    if stop_reason not in get_args(StopReason):
        raise _odd(f"{place}.stop_reason", stop_reason, f"one of {get_args(StopReason)}")
    num_tokens = _typed(f"{place}.num_tokens", fields["num_tokens"], int)
    if num_tokens < 0:
        raise _odd(f"{place}.num_tokens", num_tokens, "0 or more")
    return Sample(
        text=_typed(f"resps[0][{index}]", text, str),
        answer=_typed_or_none(f"filtered_resps[{index}]", answer, str),
        rule=_typed(f"{place}.rule", fields["rule"], str),
        correct=_typed_or_none(f"{place}.correct", fields["correct"], bool),
        strict=_typed_or_none(f"{place}.strict", fields["strict"], bool),
        reason=_typed(f"{place}.reason", fields["reason"], str),
        parse_error=_typed(f"{place}.parse_error", fields["parse_error"], bool),
        num_tokens=num_tokens,
        stop_reason=stop_reason,
        unfinished_thinking=_typed(
            f"{place}.unfinished_thinking", fields["unfinished_thinking"], bool
        ),
    )


def _mean_correct(samples: Sequence[Sample]) -> float | None:
    graded = [sample.correct for sample in samples if sample.correct is not None]
    return sum(graded) / len(graded) if graded else None


def _fields(place: str, value: object, names: Collection[str]) -> dict[str, Any]:
    fields = _typed(place, value, dict)
    missing = [name for name in names if name not in fields]
    unknown = [name for name in fields if name not in names]
    if missing or unknown:
        wrong = f"has no {missing}" if missing else f"has {unknown}, which nothing writes"
        raise ValueError(f"{place} {wrong}; it must have {list(names)}")
    return fields


def _typed(place: str, value: object, kind: type[Kind]) -> Kind:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise _odd(place, value, f"of type {kind.__name__}")
    return value


def _typed_or_none(place: str, value: object, kind: type[Kind]) -> Kind | None:
    return None if value is None else _typed(place, value, kind)


def _as_many(place: str, values: list[Any], count: int) -> list[Any]:
    if len(values) != count:
        raise ValueError(f"{place} has {len(values)} items for {count} samples")
    return values


def _odd(place: str, value: object, expected: str) -> ValueError:
    return ValueError(f"{place} is {repr(value)[:80]}; it must be {expected}")


# --- parquet ---------------------------------------------------------------------------------


def write_samples_parquet(path: Path, records: Mapping[str, Sequence[ProblemRecord]]) -> None:
    r"""Writes all samples of an evaluation to one file, a row each, replacing it atomically.

    Parquet is UTF-8, so lone surrogates become their escape (`\ud800`); the JSONL files keep them.

    Args:
        path: the file; `datasets.load_dataset("parquet", data_files=...)` and pandas read it.
        records: benchmark -> its problems.
    """
    from datasets import Dataset, Features, Value  # noqa: PLC0415 - imports pandas and more: 2 s
    from datasets.utils import (  # noqa: PLC0415 - as above
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    text, short, flag, count = (Value(kind) for kind in ("large_string", "string", "bool", "int64"))
    features = Features(
        {"benchmark": short, "doc_id": count, "id": short, "question": text, "prompt": text}
        | {"reference": short, "sample": count, "text": text, "answer": text, "rule": short}
        | {"correct": flag, "strict": flag, "reason": text, "parse_error": flag}
        | {"num_tokens": count, "stop_reason": short, "unfinished_thinking": flag}
    )
    columns: dict[str, list[Any]] = {name: [] for name in features}
    for benchmark, problems in records.items():
        for record in problems:
            for number, sample in enumerate(record.samples):
                row = _row(benchmark, record, number, sample)
                for name, column in columns.items():
                    column.append(row[name])
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.tmp")
    quiet = are_progress_bars_disabled()
    disable_progress_bars()  # a bar of its own in the middle of ours
    try:
        Dataset.from_dict(columns, features=features).to_parquet(str(scratch))
    finally:
        if not quiet:
            enable_progress_bars()
    scratch.replace(path)


def _row(benchmark: str, record: ProblemRecord, number: int, sample: Sample) -> dict[str, Any]:
    row: dict[str, Any] = {
        "benchmark": benchmark,
        "doc_id": record.index,
        "id": record.id,
        "question": record.question,
        "prompt": record.prompt,
        "reference": record.reference,
        "sample": number,
        "text": sample.text,
        "answer": sample.answer,
    } | {name: getattr(sample, name) for name in _SAMPLE_FIELDS}
    return {name: _utf8(value) if isinstance(value, str) else value for name, value in row.items()}


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()

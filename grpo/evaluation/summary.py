"""Graded problems in, one benchmark's numbers out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from cotree.grpo.evaluation.estimators import VoteClass, majority_at_k, pass_at_k, subset_sizes
from cotree.grpo.evaluation.fingerprint import digest
from cotree.grpo.evaluation.intervals import mean_interval, run_error
from cotree.grpo.evaluation.records import BenchmarkSummary, Estimate, ProblemRecord, Sample
from cotree.rewards.equality.classes import answer_classes


class NothingGradedError(ValueError):
    """No sample of a benchmark could be graded, so there is no accuracy to report."""


def summarize(
    records: Sequence[ProblemRecord], *, parts: Mapping[str, object], num_total: int
) -> BenchmarkSummary:
    """The benchmark's estimates with their intervals.

    A sample that could not be graded counts neither way; a problem without a graded sample is
    left out, and so is, from the curves at k', one with fewer than k' graded samples.

    Args:
        records: the problems, each with k samples.
        parts: of the fingerprint; `benchmark` names what was measured.
        num_total: problems that the benchmark has.

    Raises:
        NothingGradedError: no sample was graded.
    """
    benchmark = parts["benchmark"]
    assert isinstance(benchmark, Mapping), benchmark
    k = len(records[0].samples) if records else 0
    samples = [sample for record in records for sample in record.samples]
    rows = [graded for record in records if (graded := graded_samples(record))]
    if not rows:
        raise NothingGradedError(
            f"{benchmark['name']}: none of {len(samples)} samples could be graded. The reason of "
            f"the first: {samples[0].reason if samples else 'there is no sample'}"
        )
    sizes = subset_sizes(k)
    return BenchmarkSummary(
        benchmark=str(benchmark["name"]),
        version=int(benchmark["version"]),
        n=len(rows),
        num_total=num_total,
        k=k,
        ungraded=len(samples) - sum(map(len, rows)),
        avg=mean_interval([accuracy(row) for row in rows]),
        run_error=run_error([[bool(sample.correct) for sample in row] for row in rows]),
        strict=_strict(rows),
        pass_at=_curve([[_passed(row, size) for size in sizes] for row in rows], sizes),
        maj_at=_curve([_majorities(row, sizes) for row in rows], sizes),
        no_answer=fmean(sample.answer is None for sample in samples),
        parse_error=fmean(sample.parse_error for sample in samples),
        truncated=fmean(sample.stop_reason == "length" for sample in samples),
        unfinished_thinking=fmean(sample.unfinished_thinking for sample in samples),
        mean_tokens=fmean(sample.num_tokens for sample in samples),
        total_tokens=sum(sample.num_tokens for sample in samples),
        fingerprint=digest(parts),
        parts=parts,
    )


def graded_samples(record: ProblemRecord) -> list[Sample]:
    """The samples that could be graded."""
    return [sample for sample in record.samples if sample.correct is not None]


def accuracy(samples: Sequence[Sample]) -> float:
    """Share of graded samples that are correct by the lenient rules."""
    return fmean(bool(sample.correct) for sample in samples)


def _curve(rows: Sequence[Sequence[float | None]], sizes: Sequence[int]) -> dict[int, Estimate]:
    """The mean over problems at each size; None: the problem has too few graded samples."""
    columns = zip(*rows, strict=True)
    found: dict[int, Estimate] = {}
    for size, column in zip(sizes, columns, strict=True):
        values = [value for value in column if value is not None]
        if values:
            found[size] = mean_interval(values)
    return found


def _passed(row: Sequence[Sample], size: int) -> float | None:
    if size > len(row):
        return None
    return pass_at_k(len(row), sum(bool(sample.correct) for sample in row), size)


def _majorities(row: Sequence[Sample], sizes: Sequence[int]) -> list[float | None]:
    """Expected maj@k' of one problem: classes once, votes for each size."""
    classes = [
        VoteClass(len(found.members), _is_correct(row, found.representative))
        for found in answer_classes([sample.answer for sample in row])
    ]
    abstained = sum(sample.answer is None for sample in row)
    return [majority_at_k(classes, abstained, size) if size <= len(row) else None for size in sizes]


def _is_correct(row: Sequence[Sample], representative: str) -> bool:
    """The verdict on a class is the grader's on its most frequent text."""
    return bool(next(sample.correct for sample in row if sample.answer == representative))


def _strict(rows: Sequence[Sequence[Sample]]) -> Estimate | None:
    strict = [[s.strict for s in row if s.strict is not None] for row in rows]
    judged = [fmean(row) for row in strict if row]
    return mean_interval(judged) if judged else None

"""A model and a list of benchmarks in, a folder of results out. It can be killed at any time."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.count_progress import duration
from cotree.grpo.evaluation.equal_tokens import (
    EqualTokens,
    equal_tokens_json,
    equal_tokens_tables,
    to_page_table,
)
from cotree.grpo.evaluation.job import Job
from cotree.grpo.evaluation.journal import EvaluationFolder, Journal
from cotree.grpo.evaluation.page import write_page
from cotree.grpo.evaluation.progress import EvaluationProgress
from cotree.grpo.evaluation.records import BenchmarkSummary, ProblemRecord
from cotree.grpo.evaluation.results import results_json, write_samples_parquet
from cotree.grpo.evaluation.runner import graded_again, run_job
from cotree.grpo.evaluation.summary import summarize
from cotree.grpo.provenance import describe_code, machine, record_start
from cotree.grpo.result import write_json


@dataclass(frozen=True)
class Prepared:
    """A model that is ready to be started, and its benchmarks."""

    model: str
    """As a person names it."""
    identity: Mapping[str, object]
    """What tells it apart from another of that name; see `fingerprint.model_identity`."""
    jobs: Sequence[Job]
    parts: Mapping[str, Mapping[str, object]]
    """Job name -> all parts of its fingerprint."""
    open_sampler: Callable[[], Any]
    """Starts engines or connects; a context manager of a function from a job to its `Sampler`."""
    draws_single_completions: bool = True
    """A sample is one completion, not what a search selected."""


class Measured(NamedTuple):
    """The figures of an evaluation."""

    summaries: Sequence[BenchmarkSummary]
    equal_tokens: Sequence[EqualTokens]
    """Of the benchmarks with samples enough for it."""


def measure(
    prepared: Prepared,
    settings: Benchmarks,
    folder: EvaluationFolder,
    *,
    resume: bool,
    regrade: bool,
    parquet: bool,
) -> Measured:
    """Samples and grades what is not finished yet; writes results, samples and the page.

    Args:
        prepared: the model and its benchmarks.
        settings: as `prepared` was made with.
        folder: where to; it holds nothing, or this evaluation.
        resume: continue what it holds.
        regrade: continue it, grading again with the graders as they are now.
        parquet: write the samples as parquet too.

    Raises:
        ConfigError: the folder holds another evaluation, or this one and `resume` is false.
    """
    started = time.monotonic()
    plan = {
        "model": dict(prepared.identity),
        "seed": settings.seed,
        "benchmarks": {name: dict(parts) for name, parts in prepared.parts.items()},
    }
    folder.begin(plan, resume=resume or regrade, regrade=regrade)
    record_start(folder.starts, stage="evaluate", resume=resume or regrade)
    journals = {job.name: folder.journal(job.name) for job in prepared.jobs}
    if regrade:
        folder.results.unlink(missing_ok=True)  # they are of the old verdicts
        for job in prepared.jobs:
            journal = journals[job.name]
            journal.replace(list(graded_again(job, settings, journal.finished.values())))
        write_json(folder.plan, plan)
    records = _sampled(prepared, settings, journals)
    summaries = [
        summarize(records[job.name], parts=prepared.parts[job.name], num_total=job.data.num_total)
        for job in prepared.jobs
    ]
    single = prepared.draws_single_completions
    tables = equal_tokens_tables(prepared.jobs, records, settings) if single else []
    measured = Measured(summaries, tables)
    seconds = time.monotonic() - started
    _write_results(prepared, settings, folder, measured, seconds=seconds)
    if parquet:
        write_samples_parquet(folder.root / "samples.parquet", records)
    write_page(
        folder.page,
        summaries,
        records,
        model=prepared.model,
        facts=_facts(settings, seconds),
        tables=[to_page_table(one) for one in measured.equal_tokens],
    )
    return measured


def _write_results(
    prepared: Prepared,
    settings: Benchmarks,
    folder: EvaluationFolder,
    measured: Measured,
    *,
    seconds: float,
) -> None:
    config = {
        "model": prepared.model,
        "settings": settings.model_dump(mode="json"),
        "identity": dict(prepared.identity),
    }
    results = results_json(measured.summaries, model=prepared.model, config=config, seconds=seconds)
    if measured.equal_tokens:
        tables = {one.benchmark: equal_tokens_json(one) for one in measured.equal_tokens}
        results["equal_tokens"] = tables
    write_json(folder.results, results)


def _sampled(
    prepared: Prepared, settings: Benchmarks, journals: Mapping[str, Journal]
) -> dict[str, list[ProblemRecord]]:
    """Every problem of every job, in order; engines start only when something is left to do."""
    left = [job for job in prepared.jobs if len(journals[job.name].finished) < len(job.asks)]
    for job in prepared.jobs:
        if done := len(journals[job.name].finished):
            sys.stderr.write(f"{job.name}: {done} of {len(job.asks)} problems are finished\n")
    if left:
        with prepared.open_sampler() as sampler_of:
            for job in left:
                journal = journals[job.name]
                with _progress(job, done=len(journal.finished)) as progress:
                    records = run_job(
                        job, settings, sampler=sampler_of(job), finished=set(journal.finished)
                    )
                    for record in records:
                        journal.append(record)
                        progress.advance(record)
    for job in prepared.jobs:
        found = set(journals[job.name].finished)
        assert found == set(range(len(job.asks))), f"{job.name}: {len(found)} of {len(job.asks)}"
    return {
        job.name: [journals[job.name].finished[ask.index] for ask in job.asks]
        for job in prepared.jobs
    }


def _progress(job: Job, *, done: int) -> EvaluationProgress:
    return EvaluationProgress(job.name, total=len(job.asks), done=done)


def _facts(settings: Benchmarks, seconds: float) -> dict[str, str]:
    """What the page says about how the figures came about."""
    here = machine()
    drawn = (
        "greedy"
        if settings.temperature == 0
        else f"temperature {settings.temperature:g}, top-p {settings.top_p:g}"
    )
    kept = f", each selected by {settings.strategy}" if settings.strategy else ""
    return {
        "Sampling": f"{settings.samples} a problem{kept}, {drawn}, at most {settings.max_tokens} "
        "tokens a completion",
        "Time": f"{duration(seconds)} in this start",
        "Code": describe_code(),
        "Machine": f"{here['processor']}, {here['cores']} cores, {here['system']}",
    }

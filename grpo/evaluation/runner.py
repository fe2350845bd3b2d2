"""Runs a job: samples come in as problems finish, are graded, and go out as records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.job import Job
from cotree.grpo.evaluation.records import Drawn, ProblemRecord, Sampler
from cotree.grpo.evaluation.scoring import START_OF_THINKING, Scorer
from cotree.grpo.evaluation.strategy_sampler import with_strategy
from cotree.rewards.types import Problem


def run_job(
    job: Job, settings: Benchmarks, *, sampler: Sampler, finished: Collection[int]
) -> Iterator[ProblemRecord]:
    """The graded problems of a job as they finish, without those that are finished already.

    Args:
        job: what to sample.
        settings: how to grade.
        sampler: draws completions, and cannot see the references; under the job's strategy, where
            it has one.
        finished: positions of problems to leave out.

    Raises:
        GradingFailedError: too many samples could not be graded.
        Exception: what the sampler raises; records that were yielded before stay valid.
    """
    left = [ask for ask in job.asks if ask.index not in finished]
    if not left:
        return
    with (
        with_strategy(job, settings, sampler) as chosen,
        _scorer(job, settings) as scorer,
        closing(chosen.sample(left)) as finished_problems,
    ):
        for index, drawn in finished_problems:
            problem, ask = job.data.problems[index], job.asks[index]
            assert len(drawn) == len(ask.seeds), (len(drawn), len(ask.seeds))
            yield _record(problem, index, chosen.shown(ask.prompt), drawn, scorer)


def graded_again(
    job: Job, settings: Benchmarks, records: Iterable[ProblemRecord]
) -> Iterator[ProblemRecord]:
    """The same samples with the verdicts of the job's graders as they are now.

    Raises:
        GradingFailedError: too many samples could not be graded.
    """
    with _scorer(job, settings) as scorer:
        for record in records:
            drawn = [Drawn(one.text, one.num_tokens, one.stop_reason) for one in record.samples]
            problem = job.data.problems[record.index]
            yield _record(problem, record.index, record.prompt, drawn, scorer)


def _scorer(job: Job, settings: Benchmarks) -> Scorer:
    return Scorer(
        job.benchmark,
        strict_rule=job.strict_rule,
        workers=settings.grading_workers,
        timeout_seconds=settings.grading_timeout_seconds,
        max_failed_frac=settings.max_failed_frac,
    )


def _record(
    problem: Problem, index: int, shown: str, drawn: Sequence[Drawn], scorer: Scorer
) -> ProblemRecord:
    opens = shown.rstrip().endswith(START_OF_THINKING)
    return ProblemRecord(
        index=index,
        id=problem.id,
        question=problem.question,
        prompt=shown,
        reference=problem.reference,
        samples=scorer.score(problem, drawn, prompt_opens_thinking=opens),
    )

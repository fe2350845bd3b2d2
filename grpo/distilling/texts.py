"""The texts that a student learns from: sampled from a teacher, generated, or read from rows."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cotree.grpo.cluster import cluster
from cotree.grpo.config import Generator as GeneratorSettings
from cotree.grpo.config import Learner, Pipeline
from cotree.grpo.config_distill import EngineTeacher, SampledTraces, ServerTeacher
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_model import Prompt
from cotree.grpo.config_traces import GeneratedTraces, RowTraces
from cotree.grpo.count_progress import CountProgress
from cotree.grpo.distilling.candidates import (
    CandidateLog,
    Draw,
    asked_problems,
    engine_draw,
    sample_candidates,
    samples_about,
    server_draw,
)
from cotree.grpo.distilling.corpus import corpus_summary, read_traces, write_traces
from cotree.grpo.distilling.rejection import kept_traces
from cotree.grpo.distilling.teachers import engine_settings, identity_of, longest_prompt, reader_of
from cotree.grpo.engine_sampling import Sampling
from cotree.grpo.evaluate import evaluate
from cotree.grpo.evaluation.engine_setup import running_engines
from cotree.grpo.evaluation.server_sampler import ServerSampler
from cotree.grpo.grader import GraderGroup
from cotree.grpo.problems import TraceRow, load_problems, trace_rows
from cotree.grpo.result import read_result, update_result, write_json
from cotree.grpo.reward_terms import refuse_unfit
from cotree.grpo.types import Problem


@dataclass(frozen=True, slots=True)
class TextFiles:
    """Where a corpus is kept."""

    folder: Path
    """RUN/distill/corpus."""

    @property
    def traces(self) -> Path:
        """The rows that are learned from, whole or absent."""
        return self.folder / "traces.jsonl"

    @property
    def summary(self) -> Path:
        """Numbers of them and of what was dropped, and the teacher's accuracy."""
        return self.folder / "corpus.json"

    @property
    def result(self) -> Path:
        """Of the stage: RUN/distill/result.json."""
        return self.folder.parent / "result.json"


def corpus_rows(
    pipeline: Pipeline,
    corpus: SampledTraces | GeneratedTraces | RowTraces,
    teacher: EngineTeacher | ServerTeacher | None,
    files: TextFiles,
) -> list[TraceRow]:
    """The texts of the corpus; those of a teacher are sampled first, as far as they are missing.

    Raises:
        ConfigError: what is in the folder was made under other settings, or a task has too few
            problems.
        ValueError: a row is not usable, or no completion was kept.
    """
    if not isinstance(corpus, SampledTraces):
        return trace_rows(pipeline, corpus, lambda question: question)
    assert teacher is not None, "validated by the configuration"
    _sample(pipeline, corpus, teacher, files)
    traces = read_traces(files.traces)
    return [TraceRow(one.question, one.prompt, one.solution) for one in traces]


def _sample(
    pipeline: Pipeline,
    corpus: SampledTraces,
    teacher: EngineTeacher | ServerTeacher,
    files: TextFiles,
) -> None:
    """Writes the traces; samples what the log of candidates lacks."""
    prompt = teacher.prompt or pipeline.prompt
    problems = load_problems(pipeline, "train", lambda question: question)
    problems = asked_problems(problems, corpus)
    refuse_unfit(pipeline, problems)
    about = samples_about(
        corpus,
        problems,
        teacher=identity_of(teacher, pipeline.prompt),
        rewards=pipeline.rewards,
        seed=pipeline.seed,
    )
    first_term = pipeline.rewards[0].name
    if isinstance(teacher, EngineTeacher) and not files.folder.exists():
        # A wrong path must not leave a folder that another start would have to resume.
        reader_of(teacher.path, prompt, revision=teacher.revision)
    with CandidateLog(files.folder, about) as log:
        done = len(problems) - len(log.remaining(problems))
        is_measured = isinstance(teacher, ServerTeacher) or _measured(files)
        if done < len(problems) or not is_measured:
            with (
                _opened(pipeline, corpus, teacher, prompt, problems, files) as (draw, graders),
                CountProgress("teacher", total=len(problems), done=done) as bar,
            ):

                def progress(finished: int, _: int) -> None:
                    nonlocal done
                    every = [one.right for many in log.finished.values() for one in many]
                    right = [one for one in every if one is not None]
                    share = sum(right) / max(1, len(right))
                    bar.add(finished - done, f"{share:.1%} right")
                    done = finished

                sample_candidates(
                    problems,
                    corpus,
                    seed=pipeline.seed,
                    draw=draw,
                    grade=graders.grade,
                    first_term=first_term,
                    log=log,
                    progress=progress,
                )
        candidates = {problem.id: log.finished[problem.id] for problem in problems}
    traces, counts = kept_traces(candidates, problems, corpus.keep)
    summary = corpus_summary(candidates, traces, counts)
    write_json(files.summary, summary)
    dropped = ", ".join(f"{n} {reason}" for reason, n in summary["dropped"].items() if n)
    sys.stderr.write(
        f"kept {counts.kept} of the teacher's {counts.total} completions"
        + (f"; dropped: {dropped}\n" if dropped else "\n")
    )
    write_traces(files.traces, traces)


@contextmanager
def _opened(
    pipeline: Pipeline,
    corpus: SampledTraces,
    teacher: EngineTeacher | ServerTeacher,
    prompt: Prompt,
    problems: Sequence[Problem],
    files: TextFiles,
) -> Generator[tuple[Draw, GraderGroup]]:
    """The teacher ready to sample, and graders; engines are measured on the test problems too."""
    if isinstance(teacher, ServerTeacher):
        with (
            cluster(GeneratorSettings(), Learner(), generators=0, learners=0),
            _graders(pipeline) as graders,
        ):
            yield server_draw(_server(corpus, teacher), prompt), graders
        return
    reader = reader_of(teacher.path, prompt, revision=teacher.revision)
    settings = engine_settings(
        teacher,
        prompt_tokens=longest_prompt([problem.question for problem in problems], reader.prompt),
        max_tokens=max(corpus.max_tokens, pipeline.evaluate.max_tokens),
    )
    seed = pipeline.seed
    running = running_engines(teacher.path, settings, revision=teacher.revision, seed=seed)
    with running as group, _graders(pipeline) as graders:
        if not _measured(files):
            found = evaluate(
                load_problems(pipeline, "test", lambda question: question),
                encode=reader.prompt,
                generators=group,
                graders=graders,
                settings=pipeline.evaluate,
                seed=pipeline.seed,
                min_version=0,
            )
            update_result(files.result, {"accuracy_teacher": found.summary()["accuracy"]})
        sampling = Sampling(corpus.max_tokens, corpus.temperature, corpus.top_p)
        yield engine_draw(group, lambda problem: reader.prompt(problem.question), sampling), graders


@contextmanager
def _graders(pipeline: Pipeline) -> Generator[GraderGroup]:
    graders = GraderGroup.start(pipeline.rewards, pipeline.grading)
    try:
        yield graders
    finally:
        graders.stop()


def _server(corpus: SampledTraces, teacher: ServerTeacher) -> ServerSampler:
    try:
        return ServerSampler(
            teacher.url,
            model=teacher.model,
            max_tokens=corpus.max_tokens,
            temperature=corpus.temperature,
            top_p=corpus.top_p,
            concurrency=teacher.concurrency,
            timeout_seconds=teacher.timeout_seconds,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _measured(files: TextFiles) -> bool:
    return "accuracy_teacher" in read_result(files.result)

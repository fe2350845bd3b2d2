"""Distillation from texts that are there before the student starts: on traces, or on logits."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cotree.grpo.cluster import Placement, cluster
from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import LogitsDistill, ResidentTeacher, Selection, TracesDistill
from cotree.grpo.config_file import ConfigError
from cotree.grpo.config_model import Prompt
from cotree.grpo.count_progress import CountProgress
from cotree.grpo.distilling.data_value import data_values, selected
from cotree.grpo.distilling.logit_store import LogitStore
from cotree.grpo.distilling.logits import (
    TaughtExample,
    ask_once,
    check_store,
    stored_batch,
    taught_examples,
)
from cotree.grpo.distilling.teachers import identity_of, longest_text, reader_of, teacher_checkpoint
from cotree.grpo.distilling.texts import TextFiles, corpus_rows
from cotree.grpo.distilling.view import TeacherView
from cotree.grpo.evaluation.fingerprint import digest
from cotree.grpo.learner import LearnerGroup
from cotree.grpo.log import RunLog
from cotree.grpo.objective import Objective, Taught
from cotree.grpo.problems import TraceRow
from cotree.grpo.result import write_json
from cotree.grpo.run_folder import RunFolder
from cotree.grpo.seeds import derive
from cotree.grpo.supervised import (
    Course,
    Example,
    prompt_renderer,
    run_course,
    sft_batch,
    trace_examples,
)
from cotree.grpo.trainable import LearnerSpec
from cotree.grpo.types import Batch

Offline = TracesDistill | LogitsDistill

_VALUED_TOGETHER = 32
"""Texts handed to the learner at once, when their values are measured."""


class _Lessons(NamedTuple):
    """What the course takes its steps from."""

    number: int
    """Of texts: those that the teacher can read, where its opinion is learned from."""
    batch_of: Callable[[Sequence[int]], Batch]
    objective: Objective
    order: tuple[int, ...] | None
    """Of the student's vocabulary, in which a batch's outcomes are ranges."""


class OfflineDistillation:
    """One run: texts, then the teacher's opinion of them, then the course."""

    def __init__(
        self,
        pipeline: Pipeline,
        settings: Offline,
        folder: RunFolder,
        start: tuple[str, str | None],
    ) -> None:
        """Reads nothing yet.

        Args:
            pipeline: the run's; its learner has the stage's threads.
            settings: its distill section.
            folder: of the stage.
            start: path and revision of the student as it starts.
        """
        self._pipeline, self._settings, self._folder = pipeline, settings, folder
        self._path, self._revision = start

    def run(self, *, resume: bool, log: Callable[[], RunLog]) -> Path:
        """Everything that is missing; returns the student's folder.

        Args:
            resume: continue from the newest checkpoint, if there is one.
            log: opens the log of the steps, once there is something to log.
        """
        settings = self._settings
        files = TextFiles(self._folder.root / "corpus")
        rows = corpus_rows(self._pipeline, settings.corpus, settings.sampled_teacher, files)
        render = prompt_renderer(self._pipeline.prompt, self._path, revision=self._revision)
        rows = [row._replace(prompt=render(row.question)) for row in rows]
        examples = trace_examples(self._pipeline, rows, self._path, revision=self._revision)
        if settings.selection is not None:
            chosen = selected_texts(
                examples,
                settings.selection,
                files.folder / "values.json",
                seed=derive(self._pipeline.seed, "selection"),
                measure=self._measured,
            )
            rows, examples = [rows[i] for i in chosen], [examples[i] for i in chosen]
        lessons = self._lessons(rows, examples)
        course = Course(
            folder=self._folder.root,
            num_examples=lessons.number,
            batch_of=lessons.batch_of,
            num_steps=settings.num_steps,
            sequences_per_step=settings.sequences_per_step,
            save_every=settings.save_every,
            order_seed=derive(self._pipeline.seed, "distill", "order"),
        )
        with self._cluster() as placement, log() as lines:
            return run_course(
                course,
                self._spec(lessons.objective, lessons.order),
                resume=resume,
                log=lines.write,
                gpu_share=placement.gpu_share,
                rewind=lines.truncate_after,
            )

    def _lessons(self, rows: Sequence[TraceRow], examples: Sequence[Example]) -> _Lessons:
        """The texts as batches, with the teacher's opinion where it is asked for one."""
        settings = self._settings

        def plain(indices: Sequence[int]) -> Batch:
            return sft_batch([examples[index] for index in indices])

        if isinstance(settings, TracesDistill):
            return _Lessons(len(rows), plain, "sft", None)
        taught = Taught(settings.divergence, cross_entropy_coef=settings.cross_entropy_coef)
        view = self._view(settings, [row.solution for row in rows[:64]])
        if isinstance(settings.teacher, ResidentTeacher):
            refuse_other_tokenizer(view, settings.teacher)
            return _Lessons(len(rows), plain, taught, None)
        readable = taught_examples([row.question for row in rows], examples, view)
        store = self._store(settings, readable)
        self._keep_count(len(rows), len(readable), view)
        batch_of = partial(stored_batch, examples=readable, store=store, view=view)
        return _Lessons(len(readable), batch_of, taught, view.order)

    def _view(self, settings: LogitsDistill, probes: Sequence[str]) -> TeacherView:
        pipeline = self._pipeline
        student = reader_of(self._path, pipeline.prompt, revision=self._revision)
        if settings.teacher is None:
            assert settings.store is not None, "validated by the configuration"
            path, revision, prompt = _stored_reader(Path(settings.store))
        else:
            path, revision = teacher_checkpoint(settings.teacher)
            prompt = settings.teacher.prompt or pipeline.prompt
        teacher = reader_of(path, prompt, revision=revision)
        limit = longest_text(path, revision=revision)
        # An engine that scores a text samples one token more.
        return TeacherView(student, teacher, max_tokens=limit - 1, probes=probes)

    def _store(self, settings: LogitsDistill, examples: Sequence[TaughtExample]) -> LogitStore:
        if settings.store is not None:
            store = LogitStore.open(Path(settings.store))
            check_store(store, examples, Path(settings.store))
            return store
        assert settings.teacher is not None, "validated by the configuration"
        path, revision = teacher_checkpoint(settings.teacher)
        prompt = settings.teacher.prompt or self._pipeline.prompt
        about: dict[str, object] = {
            "teacher": identity_of(settings.teacher, self._pipeline.prompt),
            "reader": {"path": path, "revision": revision, "prompt": prompt.model_dump()},
            "keep": settings.keep.model_dump(),
            "texts": digest([[one.request.prompt_ids, one.request.token_ids] for one in examples]),
        }
        return ask_once(
            examples,
            settings,
            self._folder.root / "logits",
            about=about,
            vocab_size=reader_of(path, prompt, revision=revision).vocab_size,
            seed=self._pipeline.seed,
        )

    def _keep_count(self, num_texts: int, num_read: int, view: TeacherView) -> None:
        write_json(
            self._folder.root / "reading.json",
            {
                "same_tokenizer": view.is_same,
                "texts": num_texts,
                "read": num_read,
                "refused": dict(view.refused),
            },
        )

    def _measured(self, examples: Sequence[Example]) -> tuple[list[float], list[float]]:
        """Entropy and gradient norm of each text, to the student as it starts."""
        entropies: list[float] = []
        norms: list[float] = []
        with self._cluster() as placement:
            learner = LearnerGroup.start(self._spec("sft", None), num_gpus=placement.gpu_share)
            try:
                with CountProgress("data values", total=len(examples), done=0) as bar:
                    for first in range(0, len(examples), _VALUED_TOGETHER):
                        some = examples[first : first + _VALUED_TOGETHER]
                        for value in learner.row_values(sft_batch(some)):
                            entropies.append(value.entropy)
                            norms.append(value.gradient_norm)
                        bar.add(len(some), "")
            finally:
                learner.stop()
        return entropies, norms

    def _cluster(self) -> AbstractContextManager[Placement]:
        pipeline = self._pipeline
        return cluster(
            pipeline.generator,
            pipeline.learner,
            generators=0,
            learners=pipeline.learner.processes,
        )

    def _spec(self, objective: Objective, order: tuple[int, ...] | None) -> LearnerSpec:
        settings, pipeline = self._settings, self._pipeline
        teacher = settings.teacher if isinstance(settings.teacher, ResidentTeacher) else None
        return LearnerSpec(
            model_path=self._path,
            learner=pipeline.learner,
            optimizer=settings.optimizer,
            total_updates=settings.num_steps,
            objective=objective,
            seed=derive(pipeline.seed, "distill"),
            engine_dtype=pipeline.generator.dtype,
            revision=self._revision,
            teacher=teacher,
            vocabulary_order=order,
        )


def selected_texts(
    examples: Sequence[Example],
    selection: Selection,
    path: Path,
    *,
    seed: int,
    measure: Callable[[Sequence[Example]], tuple[list[float], list[float]]],
) -> list[int]:
    """Indices of the texts worth learning from; their values are measured once and kept.

    Args:
        examples: the corpus.
        selection: how many, and by what.
        path: JSON file of the values; those of other texts are measured again.
        seed: of a random choice.
        measure: entropy and gradient norm of each text, to the student as it starts.
    """
    if selection.by == "random":
        return selected(len(examples), selection, seed=seed)
    about = digest([list(one.prompt_ids + one.completion_ids) for one in examples])
    if not path.exists() or json.loads(path.read_text())["texts"] != about:
        entropies, norms = measure(examples)
        write_json(path, {"texts": about, "entropy": entropies, "gradient_norm": norms})
    found = json.loads(path.read_text())
    values = data_values(
        found["entropy"], found["gradient_norm"], entropy_weight=selection.entropy_weight
    )
    return selected(values, selection, seed=seed)


def refuse_other_tokenizer(view: TeacherView, teacher: ResidentTeacher) -> None:
    """Raises ConfigError where a teacher in the learner has another tokenizer than the student."""
    if not view.is_same:
        raise ConfigError(
            f"the teacher {teacher.path} has another tokenizer than the student, which a resident "
            'teacher cannot; set distill.teacher.type = "engine".'
        )


def _stored_reader(folder: Path) -> tuple[str, str | None, Prompt]:
    """Path, revision and prompt of the reader whose answers a store has."""
    reader: Any = LogitStore.open(folder).about["reader"]
    return reader["path"], reader["revision"], Prompt.model_validate(reader["prompt"])

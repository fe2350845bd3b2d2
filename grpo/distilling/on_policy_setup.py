"""The teacher of an on-policy run, open beside the student for as long as the run lasts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np

from cotree.grpo import config
from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import (
    EngineTeacher,
    OnPolicyDistill,
    ResidentTeacher,
    ServerTeacher,
)
from cotree.grpo.config_file import ConfigError
from cotree.grpo.distilling.on_policy import OnPolicyTeacher, Score, learner_compares
from cotree.grpo.distilling.teacher_scorer import EngineScorer
from cotree.grpo.distilling.teachers import (
    engine_settings,
    longest_prompt,
    longest_text,
    reader_of,
    server_scorer,
    teacher_checkpoint,
    teacher_reader,
)
from cotree.grpo.distilling.view import TeacherView
from cotree.grpo.generator import GeneratorGroup
from cotree.grpo.learner import LearnerGroup
from cotree.grpo.problems import load_problems
from cotree.grpo.token_scores import ScoreRequest, TokenScores

_TOKENS_A_TOKEN = 4
"""Room for a teacher whose tokenizer needs more tokens than the student's for the same text."""


class OnPolicySetup:
    """Reads tokenizers and questions, and finds what is wrong before anything starts."""

    def __init__(
        self, pipeline: Pipeline, settings: OnPolicyDistill, start: tuple[str, str | None]
    ) -> None:
        """Reads.

        Args:
            pipeline: the run's.
            settings: its distill section.
            start: path and revision of the student as it starts.

        Raises:
            ConfigError: teacher and student do not go together.
            FileNotFoundError: there is no such teacher.
        """
        self._pipeline, self._settings = pipeline, settings
        teacher = settings.teacher
        student = reader_of(start[0], pipeline.prompt, revision=start[1])
        reader = teacher_reader(teacher, pipeline.prompt)
        path, revision = teacher_checkpoint(teacher)
        questions = [one.question for one in load_problems(pipeline, "train", lambda text: text)]
        self._prompt_tokens = longest_prompt(questions, reader.prompt)
        limit = longest_text(path, revision=revision)
        probe = TeacherView(student, reader, max_tokens=limit, probes=questions[:64])
        spread = 1 if probe.is_same else _TOKENS_A_TOKEN
        self._max_tokens = min(
            spread * settings.train.rollout.max_tokens, limit - self._prompt_tokens - 1
        )
        self.view = TeacherView(
            student,
            reader,
            max_tokens=self._prompt_tokens + self._max_tokens,
            probes=questions[:64],
        )
        if isinstance(teacher, ResidentTeacher) and not probe.is_same:
            raise ConfigError(
                f"the teacher {teacher.path} has another tokenizer than the student, which a "
                'resident teacher cannot; set distill.teacher.type = "engine".'
            )

    @property
    def engines(self) -> config.Generator | None:
        """Settings of the teacher's engines; None where it has none of ours."""
        teacher = self._settings.teacher
        if not isinstance(teacher, EngineTeacher):
            return None
        return engine_settings(
            teacher, prompt_tokens=self._prompt_tokens, max_tokens=self._max_tokens + 1
        )

    @property
    def resident(self) -> ResidentTeacher | None:
        """The teacher that the learner holds, if it does."""
        teacher = self._settings.teacher
        return teacher if isinstance(teacher, ResidentTeacher) else None

    @contextmanager
    def opened(self, learner: LearnerGroup, *, gpu_share: float) -> Generator[OnPolicyTeacher]:
        """The teacher, in the cluster that is there.

        Args:
            learner: asked itself where the teacher is resident.
            gpu_share: GPUs of each of the teacher's engines.
        """
        settings, teacher = self._settings, self._settings.teacher
        if isinstance(teacher, ServerTeacher):
            scorer = server_scorer(teacher)
            yield self._with(lambda requests, most: scorer.score(requests, top_k=most))
            return
        if isinstance(teacher, ResidentTeacher):
            alone = None if learner_compares(settings) else _resident_score(learner)
            yield self._with(alone)
            return
        engines = self.engines
        assert engines is not None, "an engine teacher has engines"
        group = GeneratorGroup.start(
            teacher.path,
            generator=engines,
            seed=self._pipeline.seed,
            num_gpus=gpu_share,
            revision=teacher.revision,
        )
        try:
            engine = EngineScorer(group)
            yield self._with(lambda requests, most: engine.score(requests, top_k=most))
        finally:
            group.stop()

    def _with(self, score: Score | None) -> OnPolicyTeacher:
        return OnPolicyTeacher(self._settings, view=self.view, score=score)


def _resident_score(learner: LearnerGroup) -> Score:
    """The teacher's log-probabilities of the tokens themselves, which is all an advantage takes."""

    def score(requests: Sequence[ScoreRequest], most: int) -> list[TokenScores]:
        assert most == 0, "whole distributions are compared in the learner"
        found = learner.logprobs(
            [one.prompt_ids + one.token_ids for one in requests],
            [len(one.prompt_ids) for one in requests],
            of="teacher",
        )
        return [
            TokenScores(
                np.asarray(logprobs, dtype=np.float32),
                np.zeros((len(logprobs), 0), dtype=np.int32),
                np.zeros((len(logprobs), 0), dtype=np.float32),
            )
            for logprobs in found
        ]

    return score

"""The distill stage, from a configuration to a student in the run's folder."""

from __future__ import annotations

import time

from cotree.grpo.cluster import cluster
from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import OnPolicyDistill
from cotree.grpo.distilling.offline import Offline, OfflineDistillation
from cotree.grpo.distilling.on_policy_setup import OnPolicySetup
from cotree.grpo.log import RunLog
from cotree.grpo.objective import Taught
from cotree.grpo.result import add_seconds, read_result, update_result
from cotree.grpo.run_folder import ConfigError, RunFolder
from cotree.grpo.stages import evaluation_of
from cotree.grpo.supervised import base_model
from cotree.grpo.trainer import Teaching, Trainer


def distill_stage(pipeline: Pipeline, *, resume: bool, json_lines: bool) -> dict[str, object]:
    """Distillation: writes RUN/distill/model and RUN/distill/result.json.

    Raises:
        ConfigError: the pipeline has no [distill] section, its cold start is missing, or what is
            there already was made under another configuration.
    """
    settings = pipeline.distill
    if settings is None:
        raise ConfigError("this configuration has no [distill] section; there is nothing to do.")
    folder = RunFolder.of(pipeline)
    start = student_start(pipeline, folder)
    folder.prepare(pipeline, stage="distill", resume=resume)
    own = folder.stage("distill")
    started = time.perf_counter()
    if isinstance(settings, OnPolicyDistill):
        _on_policy(pipeline, settings, own, start, resume=resume, json_lines=json_lines)
    else:
        _offline(pipeline, settings, own, start, resume=resume, json_lines=json_lines)
    add_seconds(own.result, "distill", time.perf_counter() - started, resumed=resume)
    return {"model": str(own.root / "model")} | with_share_kept(own)


def student_start(pipeline: Pipeline, folder: RunFolder) -> tuple[str, str | None]:
    """Path and revision of the student as it starts: the cold start's, if there is one.

    Raises:
        ConfigError: the pipeline has an [sft] section but no finished cold start.
    """
    if pipeline.sft is None:
        return base_model(pipeline)
    model = folder.sft / "model"
    if not (model / "config.json").exists():
        raise ConfigError(
            f"the cold start has not been run: {model} does not exist. Run `cotree sft` with the "
            "same configuration first, or drop [sft]."
        )
    return str(model), None


def _offline(
    pipeline: Pipeline,
    settings: Offline,
    folder: RunFolder,
    start: tuple[str, str | None],
    *,
    resume: bool,
    json_lines: bool,
) -> None:
    if settings.threads:
        learner = pipeline.learner.model_copy(update={"threads": settings.threads})
        pipeline = pipeline.model_copy(update={"learner": learner})
    model = OfflineDistillation(pipeline, settings, folder, start).run(
        resume=resume,
        log=lambda: RunLog(
            folder,
            num_steps=settings.num_steps,
            json_lines=json_lines,
            trackers=pipeline.trackers,
        ),
    )
    found = evaluation_of(pipeline, str(model))
    measured = {"accuracy": found.summary()["accuracy"]} | found.benchmarks_json()
    update_result(
        folder.result,
        {f"{name}_after": value for name, value in measured.items()}
        | {"steps": settings.num_steps},
    )


def _on_policy(
    pipeline: Pipeline,
    settings: OnPolicyDistill,
    folder: RunFolder,
    start: tuple[str, str | None],
    *,
    resume: bool,
    json_lines: bool,
) -> None:
    setup = OnPolicySetup(pipeline, settings, start)
    signal = settings.signal
    objective = (
        Taught(signal.divergence, coef=signal.coef, train=settings.train)
        if signal.type == "divergence"
        else settings.train
    )
    pipeline = pipeline.model_copy(update={"train": settings.train})
    with (
        cluster(
            pipeline.generator,
            pipeline.learner,
            generators=pipeline.generator.replicas,
            learners=pipeline.learner.processes,
            teacher=setup.engines,
        ) as placement,
        RunLog(
            folder,
            num_steps=settings.train.num_steps,
            json_lines=json_lines,
            trackers=pipeline.trackers,
        ) as log,
        Trainer(
            pipeline,
            folder,
            start[0],
            gpu_share=placement.gpu_share,
            log=log,
            revision=start[1],
            teaching=Teaching(setup, objective),
        ) as trainer,
    ):
        trainer.run(resume=resume)


def with_share_kept(folder: RunFolder) -> dict[str, object]:
    """The stage's results, with the student's share of the teacher's accuracy where both exist."""
    result = read_result(folder.result)
    teacher, student = result.get("accuracy_teacher"), result.get("accuracy_after")
    if teacher and student and teacher["value"] > 0:
        update_result(folder.result, {"kept": student["value"] / teacher["value"]})
    return read_result(folder.result)

"""The stages of a pipeline, from a configuration to files in the run's folder."""

import time
from pathlib import Path

from cotree.grpo.cluster import cluster
from cotree.grpo.config import Pipeline
from cotree.grpo.config_model import NewNetwork, PretrainedModel
from cotree.grpo.evaluate import Evaluation
from cotree.grpo.log import RunLog
from cotree.grpo.result import add_seconds
from cotree.grpo.run_folder import ConfigError, RunFolder
from cotree.grpo.sampler import Sampler
from cotree.grpo.supervised import run_sft
from cotree.grpo.trainer import Trainer


def starting_model(pipeline: Pipeline, folder: RunFolder) -> str:
    """Path or name of the model that training starts from: the newest stage's before it.

    Raises:
        ConfigError: the pipeline has a [distill] or an [sft] section that was not run.
    """
    if pipeline.distill is not None:
        model = folder.distill / "model"
        if not (model / "config.json").exists():
            raise ConfigError(
                f"the distillation has not been run: {model} does not exist. "
                "Run `cotree distill` with the same configuration first."
            )
        return str(model)
    if pipeline.sft is not None:
        model = folder.sft / "model"
        if not (model / "config.json").exists():
            raise ConfigError(
                f"the cold start has not been run: {model} does not exist. "
                "Run `cotree sft` with the same configuration first."
            )
        return str(model)
    assert not isinstance(pipeline.model, NewNetwork), "validated by Pipeline"
    return pipeline.model.path


def starting_revision(pipeline: Pipeline, model: str) -> str | None:
    """The hub revision of `model`, where it is the pipeline's own and not one that a stage made."""
    own = pipeline.model
    return own.revision if isinstance(own, PretrainedModel) and own.path == model else None


def newest_model(pipeline: Pipeline, folder: RunFolder) -> str:
    """Path or name of the model of the last stage that has finished one.

    Raises:
        ConfigError: the pipeline has stages and none of them was run.
    """
    made = [folder.root]
    made += [folder.distill] if pipeline.distill else []
    made += [folder.sft] if pipeline.sft else []
    for own in made:
        if (own / "model" / "config.json").exists():
            return str(own / "model")
    return starting_model(pipeline, folder)


def sft_stage(pipeline: Pipeline, *, resume: bool, json_lines: bool) -> dict[str, object]:
    """The cold start: writes RUN/sft/model.

    Raises:
        ConfigError: the pipeline has no [sft] section.
    """
    if pipeline.sft is None:
        raise ConfigError("this configuration has no [sft] section; there is no cold start to run.")
    folder = RunFolder.of(pipeline)
    folder.prepare(pipeline, stage="sft", resume=resume)
    sft = pipeline.sft
    if sft.threads:
        learner = pipeline.learner.model_copy(update={"threads": sft.threads})
        pipeline = pipeline.model_copy(update={"learner": learner})
    started = time.perf_counter()
    with (
        cluster(
            pipeline.generator,
            pipeline.learner,
            generators=0,
            learners=pipeline.learner.processes,
        ) as placement,
        RunLog(
            folder.stage("sft"),
            num_steps=sft.num_steps,
            json_lines=json_lines,
            trackers=pipeline.trackers,
        ) as log,
    ):
        model = run_sft(
            pipeline,
            resume=resume,
            log=log.write,
            gpu_share=placement.gpu_share,
            rewind=log.truncate_after,
        )
    seconds = time.perf_counter() - started
    add_seconds(folder.result, "sft", seconds, resumed=resume)
    return {"model": str(model), "seconds": seconds}


def train_stage(pipeline: Pipeline, *, resume: bool, json_lines: bool) -> dict[str, object]:
    """Reinforcement: evaluates, trains, evaluates again; writes RUN/model and RUN/result.json.

    Raises:
        ConfigError: the pipeline has no [train] section, or its cold start is missing.
    """
    if pipeline.train is None:
        raise ConfigError("this configuration has no [train] section; there is nothing to train.")
    folder = RunFolder.of(pipeline)
    model = starting_model(pipeline, folder)
    folder.prepare(pipeline, stage="train", resume=resume)
    with (
        cluster(
            pipeline.generator,
            pipeline.learner,
            generators=pipeline.generator.replicas,
            learners=pipeline.learner.processes,
        ) as placement,
        RunLog(
            folder,
            num_steps=pipeline.train.num_steps,
            json_lines=json_lines,
            trackers=pipeline.trackers,
        ) as log,
        Trainer(
            pipeline,
            folder,
            model,
            gpu_share=placement.gpu_share,
            log=log,
            revision=starting_revision(pipeline, model),
        ) as trainer,
    ):
        return trainer.run(resume=resume)


def evaluate_stage(pipeline: Pipeline, *, model: Path | None) -> dict[str, object]:
    """Accuracy on the held-back problems of `model`; left out, of the newest stage's."""
    path = str(model) if model else newest_model(pipeline, RunFolder.of(pipeline))
    return {"model": path} | evaluation_of(pipeline, path).summary()


def evaluation_of(pipeline: Pipeline, model: str) -> Evaluation:
    """A checkpoint on the held-back problems: always the same ones, with the same seeds."""
    with (
        cluster(
            pipeline.generator,
            pipeline.learner,
            generators=pipeline.generator.replicas,
            learners=0,
        ) as placement,
        # Nothing is learned here, whatever the training's rollouts are recorded for.
        Sampler(pipeline, model, gpu_share=placement.gpu_share, record_routes=False) as sampler,
    ):
        return sampler.evaluate(min_version=0)

"""One training run: its actors, where it resumes, and the evaluations around the loop."""

import json
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Self

from cotree.grpo.checkpoint import latest, load_checkpoint, prune, save_checkpoint
from cotree.grpo.config import Pipeline
from cotree.grpo.config_generator import MtpSpeculation
from cotree.grpo.distilling.on_policy import OnPolicyTeacher
from cotree.grpo.distilling.on_policy_setup import OnPolicySetup
from cotree.grpo.evaluate import Evaluation
from cotree.grpo.learner import LearnerGroup, LearnerSpec
from cotree.grpo.log import RunLog
from cotree.grpo.loop import Parts, evaluation_stats, train_loop
from cotree.grpo.objective import Objective
from cotree.grpo.phases import Phases
from cotree.grpo.result import add_seconds, read_result, update_result
from cotree.grpo.rollout_source import RolloutSource
from cotree.grpo.run_folder import RunFolder
from cotree.grpo.sampler import Sampler
from cotree.grpo.weight_sync import WeightSync

_CANARY_PROMPTS = 4
"""Prompts laid end to end: more tokens to agree on than one short prompt has."""


@dataclass(frozen=True, slots=True)
class Teaching:
    """A teacher in the loop."""

    setup: OnPolicySetup
    objective: Objective
    """What the learner minimises under it."""


def learner_spec(
    pipeline: Pipeline, model: str, *, revision: str | None, teaching: Teaching | None
) -> LearnerSpec:
    """What the learner of a run is built from.

    Args:
        pipeline: has a `train` section.
        model: path or name of the model that training starts from.
        revision: its hub commit or tag.
        teaching: the teacher in the loop, if there is one.
    """
    train = pipeline.train
    assert train is not None, "the caller checks that there is a [train] section"
    return LearnerSpec(
        model_path=model,
        learner=pipeline.learner,
        optimizer=train.optimizer,
        total_updates=train.num_steps * train.updates_per_step,
        objective=train if teaching is None else teaching.objective,
        seed=pipeline.seed,
        engine_dtype=pipeline.generator.dtype,
        revision=revision,
        teacher=None if teaching is None else teaching.setup.resident,
        vocabulary_order=None if teaching is None else teaching.setup.view.order,
        drafts=isinstance(pipeline.generator.speculation, MtpSpeculation),
    )


class Trainer:
    """Owns the learner, the engine and the order of prompts of one run."""

    def __init__(
        self,
        pipeline: Pipeline,
        folder: RunFolder,
        model: str,
        *,
        gpu_share: float,
        log: RunLog,
        revision: str | None = None,
        teaching: Teaching | None = None,
    ) -> None:
        assert pipeline.train is not None, "checked by train_stage"
        self._pipeline = pipeline
        self._train = pipeline.train
        self._folder = folder
        self._model = model
        self._gpu_share = gpu_share
        self._log = log
        self._teaching = teaching
        self._spec = learner_spec(pipeline, model, revision=revision, teaching=teaching)
        self._teacher: OnPolicyTeacher | None = None
        self._phases = Phases()
        self._actors = ExitStack()
        self._sampler = Sampler(
            pipeline,
            model,
            gpu_share=gpu_share,
            record_routes=self._train.rollout.replay_routes,
        )

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            # The learner starts while the engine does: actors come up side by side.
            self._learner = LearnerGroup.start(self._spec, num_gpus=self._gpu_share)
            starting.callback(self._learner.stop)
            starting.enter_context(self._sampler)
            if self._teaching is not None:
                self._teacher = starting.enter_context(
                    self._teaching.setup.opened(self._learner, gpu_share=self._gpu_share)
                )
            self._actors = starting.pop_all()
        self._source = RolloutSource(
            problems=self._sampler.train_problems,
            encode=self._sampler.encode,
            generators=self._sampler.generators,
            graders=self._sampler.graders,
            train=self._train,
            seed=self._pipeline.seed,
            phases=self._phases,
        )
        prompts = [
            token
            for problem in self._sampler.test_problems[:_CANARY_PROMPTS]
            for token in self._sampler.encode(problem.prompt)
        ]
        self._sync = WeightSync(
            self._learner,
            self._sampler.generators,
            canary_ids=tuple(prompts[: self._pipeline.generator.max_model_len - 1]),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._actors.close()

    def run(self, *, resume: bool) -> dict[str, object]:
        """Evaluates, trains to the last step, evaluates again, and leaves RUN/model."""
        start = self._restore() if resume else 0
        self._sync()  # at version 0 too: the proof covers the engine's own loading
        if start == 0:
            before = self._evaluate_to("accuracy_before", resumed=False)
            self._log.write(0, evaluation_stats(before))
        train_loop(self._train, self._parts(), start=start)
        add_seconds(self._folder.result, "train", self._seconds_in_steps(), resumed=False)
        after = self._evaluate_to("accuracy_after", resumed=True)
        self._log.write(self._train.num_steps, evaluation_stats(after))
        self._export()
        update_result(self._folder.result, {"steps": self._train.num_steps})
        return read_result(self._folder.result)

    def _seconds_in_steps(self) -> float:
        """Time in the steps that made the policy, those before a kill and a resume included."""
        with self._folder.metrics.open(encoding="utf-8") as lines:
            return sum(json.loads(line).get("seconds/step", 0.0) for line in lines)

    def _parts(self) -> Parts:
        return Parts(
            source=self._source,
            learner=self._learner,
            sync=self._sync,
            evaluate=lambda: self._sampler.evaluate(min_version=self._learner.policy_version()),
            save=self._save,
            log=self._log,
            phases=self._phases,
            first_term=self._pipeline.rewards[0].name,
            teach=None if self._teacher is None else self._teacher.teach,
        )

    def _evaluate_to(self, key: str, *, resumed: bool) -> Evaluation:
        began = time.perf_counter()
        evaluation = self._sampler.evaluate(min_version=self._learner.policy_version())
        found: dict[str, object] = {key: asdict(evaluation.accuracy)}
        for name, measured in evaluation.benchmarks_json().items():
            found[key.replace("accuracy", name)] = measured
        update_result(self._folder.result, found)
        add_seconds(self._folder.result, "evaluate", time.perf_counter() - began, resumed=resumed)
        return evaluation

    def _save(self, step: int) -> None:
        position, pending = self._source.state()
        save_checkpoint(
            self._folder.root,
            step=step,
            state=position | {"policy_version": self._learner.policy_version()},
            pending=pending,
            write_learner=self._learner.save,
        )
        prune(self._folder.root, keep=self._train.keep_checkpoints)

    def _restore(self) -> int:
        checkpoint = latest(self._folder.root)
        if checkpoint is None:
            self._log.truncate_after(-1)
            return 0
        state, pending = load_checkpoint(checkpoint, self._sampler.train_problems)
        self._learner.load(checkpoint / "learner")
        self._source.restore(state, pending)
        self._log.truncate_after(state["step"])
        return int(state["step"])

    def _export(self) -> None:
        """The policy alone, as a plain checkpoint; moved into place whole."""
        model, scratch = self._folder.root / "model", self._folder.root / "model.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        self._learner.save_model(scratch)
        shutil.rmtree(model, ignore_errors=True)
        scratch.rename(model)

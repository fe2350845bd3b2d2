"""The layout of a run folder, and who may start or continue a run in it.

Imports no torch, ray or vllm: `cotree check` answers at once, on any machine.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cotree.grpo.config import Pipeline
from cotree.grpo.config_file import ConfigError, differing_keys, dump_toml, load_pipeline
from cotree.grpo.provenance import record_start

__all__ = ["ConfigError", "RunFolder", "Stage", "dump_toml", "load_pipeline"]

Stage = Literal["sft", "distill", "train"]

_FREE_ON_RESUME = (
    "num_steps",
    "save_every",
    "keep_checkpoints",
    "evaluate_every",
    "trackers",
    "threads",
)
"""Last part of the keys that may differ when a run is resumed: they do not change what a step
computes. (Other threads may change its last bits, as another machine would.)"""

_SHAPES_SFT = ("seed", "model", "task", "prompt", "learner", "sft")
"""Sections the cold start depends on; the others may change between sft and train."""
_SHAPES_DISTILL = (*_SHAPES_SFT, "distill", "rewards", "grading", "generator")


def refuse_lost_after_job(output: Path, remedy: str) -> None:
    """Raises for an output in a Ray job's copy of its working directory, which Ray deletes.

    Args:
        output: file or folder.
        remedy: what to add to the command, before its absolute path.

    Raises:
        ConfigError: the path is relative, inside a Ray job.
    """
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not output.is_absolute():
        raise ConfigError(
            f"{str(output)!r} is relative, and a Ray job runs in a copy of its working directory "
            f"that is deleted afterwards. Add {remedy}$PWD/{output} to the command, or use "
            "scripts/submit.sh."
        )


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Where the files of one pipeline's run are. `prepare` is the only method that writes."""

    root: Path

    @classmethod
    def of(cls, pipeline: Pipeline) -> RunFolder:
        """The folder of a pipeline's run.

        Raises:
            ConfigError: a relative folder inside a Ray job, which works in a copy of its working
                directory that Ray deletes with everything in it.
        """
        root = Path(pipeline.output_dir)
        refuse_lost_after_job(root, "--set output_dir=")
        return cls(root)

    @property
    def config(self) -> Path:
        """The configuration the train stage runs with."""
        return self.root / "resolved_config.toml"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    @property
    def samples(self) -> Path:
        return self.root / "samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def base(self) -> Path:
        """The model before any training, where the pipeline makes it."""
        return self.root / "base"

    @property
    def sft(self) -> Path:
        """The cold start's own folder, with the same layout: metrics, checkpoints, config."""
        return self.root / "sft"

    @property
    def distill(self) -> Path:
        """The distillation's own folder, likewise; and its corpus and logits."""
        return self.root / "distill"

    @property
    def starts(self) -> Path:
        """One line for each start: the stage, the code, the machine, the time."""
        return self.root / "starts.jsonl"

    @property
    def traceback(self) -> Path:
        """Of the last start, if it failed; a stage that ends well removes it."""
        return self.root / "traceback.txt"

    @property
    def result(self) -> Path:
        return self.root / "result.json"

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    def stage(self, stage: Stage) -> RunFolder:
        """The folder of one stage: all but `train` have their own inside the run's."""
        own = {"sft": self.sft, "distill": self.distill, "train": self.root}
        return RunFolder(own[stage])

    def prepare(self, pipeline: Pipeline, *, stage: Stage, resume: bool) -> None:
        """Makes the folder, saves the resolved configuration and who starts what there.

        Raises:
            ConfigError: a run is already there and `resume` is false; or `resume` is true and the
                configuration differs in keys that change steps already taken; or the train stage
                would start from a cold start made with another model, task or prompt.
        """
        own = self.stage(stage)
        # An empty file was opened by a run that ended before its first step.
        begun = (
            own.checkpoints.exists()
            or (own.metrics.exists() and own.metrics.stat().st_size > 0)
            or (stage == "distill" and (own.root / "corpus").exists())
        )
        if begun and not resume:
            raise ConfigError(
                f"{own.root} already holds a run of the {stage} stage. Add --resume to continue "
                f"it, or keep it and choose another folder with --set output_dir=…, or remove it."
            )
        # Rejection reads what was sampled; until a step was taken it may be loosened.
        free = ("distill.corpus.keep.",) if not own.checkpoints.exists() else ()
        if begun and own.config.exists():
            shapes = {"sft": _SHAPES_SFT, "distill": _SHAPES_DISTILL}
            sections = shapes.get(stage, tuple(Pipeline.model_fields))
            what = f"--resume would continue the {stage} run"
            self._refuse(own.config, pipeline, sections, what, free=free)
        sft_config = RunFolder(self.sft).config
        if stage != "sft" and not begun and sft_config.exists() and pipeline.sft is not None:
            sections = ("model", "task", "prompt", "sft")
            what = f"{stage} would start from the cold start"
            self._refuse(sft_config, pipeline, sections, what)
        own.root.mkdir(parents=True, exist_ok=True)
        own.config.write_text(dump_toml(pipeline), encoding="utf-8")
        record_start(self.starts, stage=stage, resume=resume and begun)

    def _refuse(
        self,
        saved: Path,
        pipeline: Pipeline,
        sections: tuple[str, ...],
        what: str,
        *,
        free: tuple[str, ...] = (),
    ) -> None:
        changed = differing_keys(load_pipeline(saved, []), pipeline)
        blocking = {
            key: pair
            for key, pair in changed.items()
            if key.split(".")[0] in sections
            and key.split(".")[-1] not in _FREE_ON_RESUME
            and key != "output_dir"
            and not key.startswith(free)
        }
        if blocking:
            listed = "\n".join(
                f"  {k}: {old} there, {new} now" for k, (old, new) in blocking.items()
            )
            raise ConfigError(
                f"{what} in {saved.parent} under another configuration:\n{listed}\n"
                "Set these back, or choose another folder with --set output_dir=…"
            )

"""How large a teacher is and how much memory it takes in a distill stage, without loading it."""

from __future__ import annotations

from cotree.grpo.config import Pipeline
from cotree.grpo.config_distill import EngineTeacher, OnPolicyDistill, ResidentTeacher
from cotree.grpo.config_model import PretrainedModel
from cotree.grpo.footprint import ModelSize, model_size, run_bytes

_ENGINE_PROCESS_BYTES = 1 << 30
"""As in `grpo.footprint`: an actor with a vLLM engine in it, without weights or cache."""


def checkpoint_size(pipeline: Pipeline, path: str) -> ModelSize:
    """Of a local checkpoint other than the pipeline's own model."""
    model = PretrainedModel(type="pretrained", path=path)
    return model_size(pipeline.model_copy(update={"model": model}))


def teacher_size(pipeline: Pipeline) -> ModelSize:
    """Of the teacher whose weights are loaded here; unknown where there is none."""
    teacher = pipeline.distill.teacher if pipeline.distill else None
    if isinstance(teacher, EngineTeacher | ResidentTeacher):
        return checkpoint_size(pipeline, teacher.path)
    return ModelSize(None)


def distill_bytes(pipeline: Pipeline, student: ModelSize, teacher: ModelSize) -> int | None:
    """Memory of a distill stage on a CPU, in bytes; None where a size is not known.

        student  = as in a train stage, see `run_bytes`
        resident = the teacher's weights in its dtype, in each process of the learner
        engine   = the teacher's weights + its key-value cache where that is set, for each replica

    An engine runs beside the student on-policy, and before it on texts. A server counts nothing.
    """
    settings = pipeline.distill
    assert settings is not None, "the caller has looked"
    on_policy = isinstance(settings, OnPolicyDistill)
    loop = {"train": settings.train} if on_policy else {}
    needed = run_bytes(pipeline.model_copy(update=loop), student)
    told = settings.teacher
    if not isinstance(told, EngineTeacher | ResidentTeacher):
        return needed
    if needed is None or teacher.parameters is None:
        return None
    weights = teacher.parameters * (2 if told.dtype == "bfloat16" else 4)
    if isinstance(told, ResidentTeacher):
        return needed + pipeline.learner.processes * weights
    engines = told.replicas * (_ENGINE_PROCESS_BYTES + weights + (told.kv_cache_bytes or 0))
    return needed + engines if on_policy else max(needed, engines)

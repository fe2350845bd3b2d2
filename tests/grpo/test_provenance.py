"""Tests for grpo/provenance.py: a run tells which code it was."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from cotree.grpo import provenance


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True
    )


def test_the_running_code_is_named_by_version_and_folder():
    code = provenance.code_version()
    assert code["path"] == str(Path(provenance.__file__).parent)
    assert provenance.describe_code().startswith(f"cotree {code['version']} from {code['path']}")


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_a_checkout_tells_its_commit_and_whether_it_was_changed(tmp_path: Path, monkeypatch):
    package = tmp_path / "checkout" / "grpo"
    package.mkdir(parents=True)
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    assert "commit" not in provenance.code_version()  # not a checkout yet

    (package / "provenance.py").write_text("# one\n")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "one")
    clean = provenance.code_version()["commit"]
    assert len(clean) == 12

    (package / "provenance.py").write_text("# two\n")
    assert provenance.code_version()["commit"] == f"{clean}-dirty"


def test_starts_are_appended_and_name_no_host_and_no_user(tmp_path: Path):
    import getpass
    import socket

    path = tmp_path / "starts.jsonl"
    provenance.record_start(path, stage="train", resume=False)
    provenance.record_start(path, stage="train", resume=True)
    starts = [json.loads(line) for line in path.read_text().splitlines()]
    assert [start["resume"] for start in starts] == [False, True]
    machine = json.dumps(starts[0]["machine"])
    assert socket.gethostname() not in machine
    if len(getpass.getuser()) > 4:
        assert getpass.getuser() not in machine
    assert starts[0]["machine"]["cores"] >= 1
    assert "torch" in starts[0]["machine"]

"""Tests for rewards/sandbox/probe.py, layers.py and interpreter.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cotree.rewards.sandbox.interpreter import interpreter
from cotree.rewards.sandbox.layers import Layer, Layers
from cotree.rewards.sandbox.probe import chosen_layer, probe, why_unusable
from cotree.rewards.types import GraderError


def test_resource_limits_alone_are_not_taken_for_a_sandbox():
    reason = why_unusable(Layer.LIMITS)
    assert reason is not None
    assert "a program reached host files, other processes" in reason
    assert "the network, new processes" in reason


def test_the_first_layer_that_works_is_chosen_once():
    layers = probe()
    working = [layer for layer in (Layer.BUBBLEWRAP, Layer.LANDLOCK) if not why_unusable(layer)]
    assert layers.best == (working[0] if working else None)
    assert probe() is layers


def test_without_bubblewrap_the_next_layer_is_found(tmp_path: Path):
    program = (
        "from cotree.rewards.sandbox.probe import probe\n"
        "layers = probe()\n"
        "print(layers.best, layers.refused)"
    )
    environment = os.environ | {"PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    best, _, refused = done.stdout.partition(" ")
    assert "apt install bubblewrap" in refused, done.stderr
    assert best == ("None" if why_unusable(Layer.LANDLOCK) else "landlock")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="apt install bubblewrap")
def test_where_user_namespaces_are_off_the_next_layer_is_found():
    # In a namespace of its own that may not make another, as in most containers.
    off = "echo 0 > /proc/sys/user/max_user_namespaces && exec "
    program = "from cotree.rewards.sandbox.probe import *; print(probe().best, probe().refused)"
    command = ["unshare", "--user", "--map-root-user", "sh", "-c", f'{off} "$0" -c "$1"']
    done = subprocess.run([*command, sys.executable, program], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no user namespace to try it in: {done.stderr}")
    assert "bubblewrap sandbox did not start" in done.stdout
    assert done.stdout.startswith("None" if why_unusable(Layer.LANDLOCK) else "landlock")


def test_a_bubblewrap_that_shuts_nothing_out_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    # A wrapper that only runs what stands behind `--`: it works, and confines nothing.
    shell = shutil.which("sh")
    fake = tmp_path / "bwrap"
    fake.write_text(f'#!{shell}\nwhile [ "$1" != -- ]; do shift; done\nshift\nexec "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = why_unusable(Layer.BUBBLEWRAP)
    assert reason is not None
    assert "reached host files" in reason


def test_unsandboxed_code_must_be_asked_for():
    nothing = Layers(None, {Layer.BUBBLEWRAP: "no user namespaces", Layer.LANDLOCK: "old kernel"})
    with pytest.raises(GraderError, match="bubblewrap: no user namespaces; landlock: old kernel"):
        chosen_layer(nothing, allow_unsafe=False)
    assert chosen_layer(nothing, allow_unsafe=True) is Layer.LIMITS


def test_allow_unsafe_does_not_weaken_a_machine_that_has_a_sandbox():
    assert chosen_layer(Layers(Layer.LANDLOCK, {}), allow_unsafe=True) is Layer.LANDLOCK


def test_the_interpreter_is_listed_without_installed_packages():
    python = interpreter()
    assert Path(python.executable).is_file()
    assert any("libc" in Path(path).name for path in python.libraries)
    assert all(Path(path).is_file() for path in python.libraries)
    assert any(Path(folder, "os.py").is_file() for folder in python.folders)
    for entry in python.entries():
        assert not entry.endswith(("site-packages", "dist-packages"))

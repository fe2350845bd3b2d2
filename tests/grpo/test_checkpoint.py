"""Tests for grpo/checkpoint.py: real kills, a real full device, a real size limit."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotree.grpo.checkpoint import (
    CheckpointError,
    latest,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from cotree.grpo.types import Completion, Group, Rollout, Routes, Segment
from cotree.rewards.types import Failure, Problem, Reward, Status, StepScore, Ungraded, Verdict

# A column of a parquet file may hold what JSON cannot.
PROBLEM = Problem("p/1", "prompt\n", "7", "arithmetic", "3+4", {"image": b"\x89PNG"})


def _group() -> Group:
    """One group with every kind of field, and floats that a rounding writer would lose."""
    completion = Completion(
        token_ids=(5, 1),
        logprobs=(-0.1 - 2**-50, -1e-308),
        text="7 \u2264 \U0001f600",
        token_ends=(1, 5),
        stop_reason="stop",
        policy_version=3,
        segments=(Segment(4, 1), Segment(6, 2)),
        routes=Routes(1, 2, "AAABAP9/AgADAAQA"),  # 3 tokens, one layer, 2 experts each
    )
    step = StepScore((0, 3), -1.0, Verdict.REFUTED, "3+4 = 7, not 8", "3+4", "8")
    reward = Reward(
        1 / 3, "match", {"answer": 1.0}, (step,), Status.NO_ANSWER, {"judge": Failure.CRASH}
    )
    return Group(
        PROBLEM,
        (4, 9),
        (
            Rollout(completion, reward),
            Rollout(completion, Ungraded(Failure.TIMEOUT, "5 s", "answer")),
        ),
    )


def _write(folder: Path, *, size: int = 1000) -> None:
    (folder / "model.bin").write_bytes(b"x" * size)


def _save(run: Path, step: int, **fields) -> Path:
    arguments = {"state": {"cursor": step * 7}, "pending": [], "write_learner": _write} | fields
    return save_checkpoint(run, step=step, **arguments)


def _python(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_state_and_pending_groups_come_back_exactly(tmp_path: Path):
    pending = [[_group(), _group()], [], [_group()]]
    folder = _save(tmp_path, 10, pending=pending)
    assert folder == tmp_path / "checkpoints" / "step_000010"
    state, groups = load_checkpoint(folder, [PROBLEM])
    assert state == {"cursor": 70, "step": 10}
    assert groups == pending
    assert isinstance(groups[0][0].rollouts[1].reward, Ungraded)
    assert isinstance(groups[0][0].rollouts[0].completion.segments[1], Segment)
    assert (folder / "learner" / "model.bin").stat().st_size == 1000


def test_every_field_of_a_rollout_is_in_the_group_that_comes_back():
    # A field that a checkpoint forgets is a resumed run that differs: nothing here is a default.
    for rollout in _group().rollouts:
        for part in (rollout.reward, rollout.completion):
            for field in dataclasses.fields(part):
                made = callable(field.default_factory)
                empty = field.default_factory() if made else field.default
                assert getattr(part, field.name) != empty, field.name


def test_samples_of_a_problem_that_is_gone_are_refused(tmp_path: Path):
    folder = _save(tmp_path, 1, pending=[[_group()]])
    with pytest.raises(CheckpointError, match="'p/1', which the task no longer has"):
        load_checkpoint(folder)


def test_latest_is_the_newest_by_number_and_none_without_any(tmp_path: Path):
    assert latest(tmp_path) is None
    for step in (9, 1_000_000, 10):
        _save(tmp_path, step)
    assert latest(tmp_path) == tmp_path / "checkpoints" / "step_1000000"


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda f: (f / "learner" / "model.bin").write_bytes(b"x" * 999), "999 bytes in learner"),
        (lambda f: (f / "pending.jsonl").unlink(), "lacks pending.jsonl"),
        (lambda f: (f / "state.json").write_text('{"schema": 1, "st'), "damaged state.json"),
        (lambda f: (f / "state.json").unlink(), "has no state.json"),
        (lambda f: (f / "state.json").write_text('{"schema": 99}'), "not written by this version"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_a_warning_and_refused(tmp_path: Path, damage, what):
    whole, newer = _save(tmp_path, 1), _save(tmp_path, 2)
    damage(newer)
    with pytest.warns(UserWarning, match=what):
        assert latest(tmp_path) == whole
    with pytest.raises(CheckpointError, match=what):
        load_checkpoint(newer)
    # The resumed run reaches that step again and replaces it.
    assert latest(_save(tmp_path, 2).parents[1]) == newer


def test_pruning_keeps_the_newest_whole_ones(tmp_path: Path):
    for step in range(1, 6):
        _save(tmp_path, step)
    (tmp_path / "checkpoints" / "step_000005" / "state.json").unlink()
    prune(tmp_path, keep=2)
    names = sorted(folder.name for folder in (tmp_path / "checkpoints").iterdir())
    # 3 and 4 are the newest whole ones; 5 is damaged but newer, so it stays for a look.
    assert names == ["step_000003", "step_000004", "step_000005"]


def test_a_writer_killed_before_the_rename_leaves_the_previous_checkpoint(tmp_path: Path):
    previous = _save(tmp_path, 1)
    child = _python(
        "import os, signal, sys; from pathlib import Path\n"
        "from cotree.grpo.checkpoint import save_checkpoint\n"
        "def write(folder):\n"
        "    (folder / 'model.bin').write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "save_checkpoint(Path(sys.argv[1]), step=2, state={}, pending=[], write_learner=write)",
        tmp_path,
    )
    assert child.wait(timeout=30) == -signal.SIGKILL
    partial = tmp_path / "checkpoints" / ".partial_step_000002"
    assert (partial / "learner" / "model.bin").exists()  # it did die in the middle
    assert latest(tmp_path) == previous
    assert latest(_save(tmp_path, 2).parents[1]) == tmp_path / "checkpoints" / "step_000002"
    assert not partial.exists()


def test_a_kill_at_any_moment_leaves_only_whole_checkpoints(tmp_path: Path):
    code = (
        "import itertools, sys; from pathlib import Path\n"
        "from cotree.grpo.checkpoint import prune, save_checkpoint\n"
        "def write(folder):\n"
        "    for name in 'abcdef': (folder / name).write_bytes(b'x' * 100_000)\n"
        "for step in itertools.count(int(sys.argv[2])):\n"
        "    save_checkpoint(Path(sys.argv[1]), step=step, state={}, pending=[], "
        "write_learner=write)\n"
        "    prune(Path(sys.argv[1]), keep=2)\n"
        "    print(step, flush=True)\n"
    )
    delays, step = random.Random(0), 1
    for _ in range(6):
        child = _python(code, tmp_path, step)
        saved = int(child.stdout.readline())
        time.sleep(delays.uniform(0.0, 0.05))
        child.kill()
        saved = max([saved, *map(int, child.stdout.read().split())])
        child.wait()
        newest = latest(tmp_path)
        state, _ = load_checkpoint(newest)
        # What was reported is there; the one after it may or may not have made it.
        assert state["step"] in (saved, saved + 1)
        step = state["step"] + 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_leaves_the_previous_checkpoint_and_says_so(tmp_path: Path):
    previous = _save(tmp_path, 1)

    def write(folder: Path) -> None:
        (folder / "model.bin").symlink_to("/dev/full")
        (folder / "model.bin").write_bytes(b"x" * 100_000)

    with pytest.raises(CheckpointError, match="No space left on device") as caught:
        _save(tmp_path, 2, write_learner=write)
    assert f"{previous} is intact" in str(caught.value)
    assert [entry.name for entry in (tmp_path / "checkpoints").iterdir()] == ["step_000001"]
    assert load_checkpoint(latest(tmp_path))[0]["step"] == 1


def test_a_file_too_large_for_the_disk_leaves_the_previous_checkpoint(tmp_path: Path):
    child = _python(
        "import resource, sys; from pathlib import Path\n"
        "from cotree.grpo.checkpoint import CheckpointError, latest, save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "run = Path(sys.argv[1])\n"
        "def save(step, size):\n"
        "    def write(folder): (folder / 'model.bin').write_bytes(b'x' * size)\n"
        "    return save_checkpoint(run, step=step, state={}, pending=[], write_learner=write)\n"
        "save(1, 1000)\n"
        "try: save(2, 2 << 20)\n"
        "except CheckpointError as error: print(error)\n"
        "print(latest(run).name)",
        tmp_path,
    )
    output, errors = child.communicate(timeout=30)
    assert child.returncode == 0, errors
    assert "File too large" in output
    assert output.splitlines()[-1] == "step_000001"


def test_saving_a_step_again_replaces_it(tmp_path: Path):
    _save(tmp_path, 1, state={"cursor": 1})
    folder = _save(tmp_path, 1, state={"cursor": 2})
    assert load_checkpoint(folder)[0]["cursor"] == 2
    names = [entry.name for entry in (tmp_path / "checkpoints").iterdir()]
    assert names == ["step_000001"]


def test_the_state_file_is_plain_json_with_a_schema(tmp_path: Path):
    document = json.loads((_save(tmp_path, 3) / "state.json").read_text())
    assert document["schema"] == 2
    assert document["sizes"] == {"learner/model.bin": 1000, "pending.jsonl": 0}

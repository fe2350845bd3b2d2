"""Tests for grpo/log.py: every step is on disk, once, and standard output stays readable."""

import json
from pathlib import Path

import pytest

from cotree.grpo.log import RunLog, refuse_missing_trackers
from cotree.grpo.run_folder import ConfigError, RunFolder
from cotree.grpo.types import Completion, Group, Problem, Rollout
from cotree.rewards.types import Failure, Reward, StepScore, Ungraded, Verdict


def open_log(root: Path, *, trackers=(), json_lines=False) -> RunLog:
    return RunLog(RunFolder(root), num_steps=9, trackers=trackers, json_lines=json_lines)


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def group(name: str, *rewards: Reward | Ungraded) -> Group:
    completion = Completion((1, 2), (-0.5, -0.1), "ab", (1, 2), "stop", policy_version=4)
    problem = Problem(id=name, prompt="P", reference="R", task="T", question="Q")
    return Group(problem, (7,), tuple(Rollout(completion, reward) for reward in rewards))


def test_each_step_is_a_line_that_is_there_before_write_returns(tmp_path: Path):
    with open_log(tmp_path) as log:
        log.write(1, {"loss": 0.5})
        (row,) = rows_of(tmp_path / "metrics.jsonl")
    assert row.pop("time") > 1e9
    assert row == {"step": 1, "loss": 0.5}


def test_a_second_log_continues_the_file(tmp_path: Path):
    for step in (1, 2):
        with open_log(tmp_path) as log:
            log.write(step, {})
    assert [row["step"] for row in rows_of(tmp_path / "metrics.jsonl")] == [1, 2]


def test_numbers_that_json_lacks_become_null(tmp_path: Path):
    with open_log(tmp_path) as log:
        log.write(1, {"a": float("nan"), "b": float("inf"), "c": 1.0})
    (row,) = rows_of(tmp_path / "metrics.jsonl")
    assert (row["a"], row["b"], row["c"]) == (None, None, 1.0)


def test_a_long_stage_writes_about_a_hundred_plain_lines(tmp_path: Path, capsys):
    with RunLog(RunFolder(tmp_path), num_steps=1003, trackers=(), json_lines=False) as log:
        for step in range(1, 1004):
            log.write(step, {"eval/accuracy": 0.5} if step == 17 else {"loss": 1.0})
    lines = capsys.readouterr().out.splitlines()
    shown = [int(line.split()[1].split("/")[0]) for line in lines]
    # Each tenth (1003 // 100 = 10), the one with an evaluation, and the last.
    assert shown == sorted([*range(10, 1001, 10), 17, 1003])
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1003


def test_off_a_terminal_each_step_is_one_plain_line(tmp_path: Path, capsys):
    with open_log(tmp_path) as log:
        log.write(3, {"reward/mean": 0.25, "accuracy": 0.5, "seconds/step": 6.04})
    assert capsys.readouterr().out == "step 3/9  reward 0.250  accuracy 50.0%  took 6.0 s\n"


def test_with_json_stdout_is_the_metrics_file(tmp_path: Path, capsys):
    with open_log(tmp_path, json_lines=True) as log:
        log.write(1, {"loss": 0.5})
        log.write(2, {"loss": 0.4})
    assert capsys.readouterr().out == (tmp_path / "metrics.jsonl").read_text()


def test_on_a_terminal_the_bar_moves(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich then takes any stream for a terminal
    monkeypatch.setenv("COLUMNS", "120")
    with open_log(tmp_path) as log:
        log.write(4, {"accuracy": 0.5})
    shown = capsys.readouterr().out
    assert "4/9" in shown
    assert "accuracy 50.0%" in shown


def test_a_resume_drops_the_steps_it_takes_again(tmp_path: Path):
    graded = group("p", Reward(1.0, "match"))
    with open_log(tmp_path) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": float(step)})
            log.write_samples(step, [graded])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # the process was killed here
    with open_log(tmp_path) as log:
        log.truncate_after(2)
        log.write(3, {"loss": 30.0})
    rows = rows_of(tmp_path / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(1, 1.0), (2, 2.0), (3, 30.0)]
    assert [row["step"] for row in rows_of(tmp_path / "samples.jsonl")] == [1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", "samples.jsonl"]


def test_a_corrupt_line_in_the_middle_stops_a_resume(tmp_path: Path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\nnot json\n{"step": 2}\n')
    with open_log(tmp_path) as log, pytest.raises(json.JSONDecodeError):
        log.truncate_after(1)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3  # nothing was lost


def test_samples_carry_the_reward_its_reason_and_the_steps(tmp_path: Path):
    scored = StepScore((0, 1), -1.0, Verdict.REFUTED, "3, but 4")
    reward = Reward(0.5, "answer=match", {"answer": 1.0}, (scored,))
    with open_log(tmp_path) as log:
        log.write_samples(7, [group("p", reward)])
    (row,) = rows_of(tmp_path / "samples.jsonl")
    assert row == {
        "step": 7,
        "problem": "p",
        "task": "T",
        "prompt": "P",
        "question": "Q",
        "reference": "R",
        "completion": "ab",
        "num_tokens": 2,
        "stop_reason": "stop",
        "policy_version": 4,
        "reward": {
            "value": 0.5,
            "reason": "answer=match",
            "breakdown": {"answer": 1.0},
            "status": "ok",
        },
        "ungraded": None,
        "steps": [{"span": [0, 1], "value": -1.0, "verdict": "refuted", "reason": "3, but 4"}],
    }


def test_a_rollout_without_a_reward_is_kept_with_its_failure(tmp_path: Path):
    with open_log(tmp_path) as log:
        log.write_samples(1, [group("p", Ungraded(Failure.TIMEOUT, "killed after 5 s"))])
    (row,) = rows_of(tmp_path / "samples.jsonl")
    assert row["reward"] is None
    assert row["ungraded"] == {"failure": "timeout", "reason": "killed after 5 s"}


def test_a_few_samples_show_many_problems(tmp_path: Path):
    rewards = [Reward(float(i), "r") for i in range(3)]
    with open_log(tmp_path) as log:
        log.write_samples(1, [group(name, *rewards) for name in "abc"], limit=5)
    rows = rows_of(tmp_path / "samples.jsonl")
    # The first of each group, then the second of each, up to five.
    found = [(row["problem"], row["reward"]["value"]) for row in rows]
    assert found == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1)]


def test_tensorboard_gets_the_numbers_and_a_resume_purges_what_it_takes_again(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_log(tmp_path, trackers=["tensorboard"]) as log:
        for step in (1, 2, 3):
            log.write(step, {"reward/mean": float(step)})
    with open_log(tmp_path, trackers=["tensorboard"]) as log:
        log.truncate_after(1)
        log.write(2, {"reward/mean": 20.0})

    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    events.Reload()
    scalars = [(event.step, event.value) for event in events.Scalars("reward/mean")]
    assert scalars == [(1, 1.0), (2, 20.0)]


def test_a_tracker_that_is_not_installed_stops_the_run_before_it_starts(tmp_path: Path):
    missing = [n for n in ("wandb", "trackio") if not _installed(n)]
    if not missing:
        pytest.skip("wandb and trackio are both installed here")
    with pytest.raises(ConfigError, match=f"pip install {missing[0]}"):
        open_log(tmp_path / "run", trackers=missing[:1])
    assert not (tmp_path / "run").exists()


def test_installed_trackers_are_accepted():
    refuse_missing_trackers(["tensorboard"])


def _installed(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None

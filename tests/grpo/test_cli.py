"""Tests for grpo/cli.py: exit codes, messages people can act on, and clean ends."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cotree.grpo.cli import main
from cotree.grpo.run_folder import dump_toml, load_pipeline

TEXT = """
model = { type = "new" }
task = { type = "arithmetic" }
trackers = []
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
[train]
num_steps = 3
optimizer = { learning_rate = 1e-4 }
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COTREE_DEBUG", raising=False)
    path = tmp_path / "tiny.toml"
    path.write_text(TEXT)
    return path


def python(code: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_check_prints_the_resolved_configuration(config: Path, capsys):
    assert main(["check", str(config), "--set", "seed=5"]) == 0
    printed = capsys.readouterr().out
    assert printed == dump_toml(load_pipeline(config, ["seed=5"]))
    assert "seed = 5" in printed


def test_check_answers_without_torch_ray_or_vllm(config: Path):
    code = (
        "import sys\nfrom cotree.grpo.cli import main\n"
        f"assert main(['check', {str(config)!r}]) == 0\n"
        "print([name for name in ('torch', 'ray', 'vllm') if name in sys.modules])"
    )
    process = python(code, config.parent)
    printed, _ = process.communicate(timeout=60)
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--set", "train.num_step=1"], "error: train.num_step: unknown key; did you mean"),
        (["--set", "rewards=[{name='answre'}]"], "error: rewards.0 (answre): no installed reward"),
        (["--set", "rewards=[{name='answer', options={x=1}}]"], "has no option 'x'"),
        (["--set", "rewards=[{name='no/file.py:f'}]"], "error: rewards.0 (no/file.py:f):"),
        (
            ["--set", "evaluate.benchmarks={names=['gsm9k'], max_tokens=64}"],
            "no benchmark is named 'gsm9k'",
        ),
    ],
)
def test_a_wrong_configuration_is_one_message_and_exit_code_2(
    config: Path, capsys, arguments: list[str], expected: str
):
    assert main(["check", str(config), *arguments]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["check"],
        ["check", "no.toml"],
        ["nonsense"],
        ["check", "tiny.toml", "--nonsense"],
        ["report"],
    ],
)
def test_wrong_usage_is_exit_code_2(config: Path, capsys, arguments: list[str]):
    assert main(arguments) == 2
    assert capsys.readouterr().err


def test_debug_shows_the_traceback(config: Path, capsys, monkeypatch):
    monkeypatch.setenv("COTREE_DEBUG", "")  # so that what --debug sets is undone afterwards
    monkeypatch.delenv("COTREE_DEBUG")
    arguments = ["check", str(config), "--set", "sede=1"]
    assert main([*arguments, "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("COTREE_DEBUG", "1")
    assert main(arguments) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_help_names_every_command_and_every_exit_code(capsys):
    assert main(["--help"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for word in ("sft", "train", "evaluate", "report", "check", "doctor", "130", "interrupted"):
        assert word in shown


def test_doctor_prints_json_and_its_exit_code_says_whether_there_are_faults(config: Path, capsys):
    code = main(["doctor", str(config), "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert code == any(finding["ok"] is False for finding in findings)
    assert {"python", "memory", "disk"} <= {finding["name"] for finding in findings}

    model = "model={type='pretrained', path='./nowhere'}"
    assert main(["doctor", str(config), "--set", model, "--set", "sft.traces.slip_frac=0.1"]) == 1
    assert "./nowhere does not" in capsys.readouterr().out


def test_report_takes_a_folder_or_the_configuration(config: Path, capsys):
    assert main(["report", str(config)]) == 2
    assert "nothing was run there yet" in capsys.readouterr().err
    folder = config.parent / "runs" / "tiny"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1, "time": 1.0, "loss": 0.5}\n')
    for argument in (str(config), str(folder)):
        assert main(["report", argument]) == 0
        assert Path(capsys.readouterr().out.strip()).samefile(folder / "report.html")


def test_a_stage_says_which_code_runs_and_refuses_an_existing_run(config: Path, capsys):
    folder = config.parent / "runs" / "tiny" / "sft"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    assert main(["sft", str(config)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("cotree ")
    assert "--resume" in captured.err
    assert captured.out == ""


STOPPED = """
import signal, sys, time
from cotree.grpo import cli

if {ray_handler}:
    # What `ray.init` does to the driver, from inside the stage.
    def begin(): signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
else:
    def begin(): pass

@cli.app.command()
def wait() -> None:
    with cli.boundary(debug=False):
        begin()
        try:
            print("waiting", flush=True)
            time.sleep(60)
        finally:
            print("cleaned up", flush=True)

sys.exit(cli.main(["wait"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("ray_handler", [False, True])
def test_a_stopped_command_cleans_up_and_ends_with_130(
    tmp_path: Path, number: signal.Signals, ray_handler: bool
):
    process = python(STOPPED.format(ray_handler=ray_handler), tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "waiting\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == "cleaned up\n"
    assert err.startswith("interrupted; --resume continues")
    assert process.returncode == 130


FAILING = """
import sys
from cotree.grpo import cli
from cotree.grpo.run_folder import load_pipeline

@cli.app.command()
def run(works: bool = False) -> None:
    with cli.boundary(debug=False), cli.stage(load_pipeline("tiny.toml", [])):
        if not works:
            raise RuntimeError("the weights did not arrive")

sys.exit(cli.main(["run", *sys.argv[1:]]))
"""


def test_a_failed_run_is_exit_code_1_and_its_traceback_is_kept(config: Path):
    process = python(FAILING, config.parent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: RuntimeError: the weights did not arrive" in err
    assert "Traceback" not in err
    kept = (config.parent / "runs" / "tiny" / "traceback.txt").read_text()
    assert "Traceback" in kept
    assert "the weights did not arrive" in kept

    again = python(FAILING, config.parent, "--works")  # it was resumed, say, and ends well
    again.communicate(timeout=60)
    assert again.returncode == 0
    assert not (config.parent / "runs" / "tiny" / "traceback.txt").exists()


def test_the_module_is_the_command(config: Path):
    started = time.perf_counter()
    process = subprocess.run(
        [sys.executable, "-m", "cotree.grpo.cli", "check", str(config)],
        capture_output=True,
        text=True,
        env=os.environ | {"COTREE_DEBUG": ""},
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("seed = 0")
    assert time.perf_counter() - started < 20  # 0.4 s measured

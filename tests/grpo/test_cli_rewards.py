"""Tests for grpo/cli_rewards.py: what the commands print, their exit codes, their messages."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from cotree.grpo.cli import main

REWARDS = '''
import time
from cotree.rewards.types import Reward


def equal(completion, reference, *, strict=True):
    """Whether the box holds the reference."""
    if "sleep" in completion:
        time.sleep(60)
    right = f"\\\\boxed{{{reference}}}" in completion if strict else reference in completion
    return Reward(float(right), f"compared with {reference}")


def unit(completion, unit):
    return float(completion.endswith(unit))


def fragile(completion):
    return 1.0 / len(completion)
'''
SAMPLE = {
    "step": 1,
    "problem": "p/1",
    "task": "t",
    "prompt": "1+1",
    "question": "1+1",
    "reference": "2",
    "completion": r"<b>so</b> \boxed{2}",
    "reward": {"value": 1.0, "reason": "answer=match", "breakdown": {"answer": 1.0}},
    "ungraded": None,
}
KEYS = (
    "n",
    "accuracy",
    "false_positive_rate",
    "false_negative_rate",
    "could_not_grade",
    "median_ms",
    "p99_ms",
    "max_ms",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.delenv("COTREE_DEBUG", raising=False)
    (tmp_path / "mine.py").write_text(REWARDS)
    return tmp_path


def write(name: str, *rows: object) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return name


def labeled(pred: str, expected: bool, **more: object) -> dict[str, object]:
    return {"kind": "answer", "gold": "2", "pred": pred, "expected": expected, **more}


def grade(*arguments: str) -> int:
    return main(["grade", "--reward", "mine.py:equal", "--timeout", "1", *arguments])


def test_grade_prints_one_json_object_over_the_undisputed_rows(capsys):
    cases = write(
        "cases.jsonl",
        labeled("2", True),
        labeled("two", True),
        labeled("3", False),
        labeled("sleep", False, tags=["hang"]),
        labeled("2", False, disputed=True),
    )
    assert grade("--cases", cases, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert tuple(found) == KEYS
    # 4 rows: right, wrongly refused, right, and one that is killed and so is never right.
    assert (found["n"], found["accuracy"], found["could_not_grade"]) == (4, 0.5, 1)
    assert (found["false_positive_rate"], found["false_negative_rate"]) == (0.0, 0.5)
    assert found["median_ms"] < 100 < 1000 <= found["max_ms"]


def test_grade_shows_hostile_and_disputed_rows_apart_and_each_error(capsys):
    cases = write(
        "cases.jsonl",
        labeled("two", True, id="first"),
        labeled("3", False, tags=["injection"]),
        labeled("2", False, disputed=True),
    )
    assert grade("--cases", cases, "--all", "--show-errors") == 0
    shown = capsys.readouterr().out
    for row in ("undisputed", "not hostile", "hostile", "disputed"):
        assert row in shown
    assert "first: wrongly refused" in shown
    assert r"completion  \boxed{two}" in shown
    assert "reason      compared with 2" in shown


def test_grade_passes_options_on(capsys):
    cases = write("cases.jsonl", labeled("2 or so", True))
    assert grade("--cases", cases, "--json", "--option", "strict=false") == 0
    assert json.loads(capsys.readouterr().out)["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cases", "none.jsonl"], "error: there is no file 'none.jsonl'"),
        (["--cases", "bad.jsonl"], "error: bad.jsonl, row 2: there is no field 'pred'"),
        (["--cases", "good.jsonl", "--disputed"], "has no disputed rows"),
        (["--cases", "good.jsonl", "--json", "--all"], "drop --all"),
        (["--cases", "good.jsonl", "--disputed", "--all"], "--disputed has no effect"),
        (["--cases", "good.jsonl", "--option", "strict"], "'strict' is no option"),
        (["--cases", "good.jsonl", "--option", "stric=1"], "did you mean 'strict'"),
        (["--cases", "good.jsonl", "--extraction", "lenient"], "has no option 'extraction'"),
        (["--cases", "good.jsonl", "--reward", "answre"], "did you mean 'answer'"),
        (["--cases", "good.jsonl", "--reward", "no.py"], "no reward file 'no.py'"),
        (["--cases", "good.jsonl", "--reward", "exit.py"], "importing it raised SystemExit: 0"),
        (["--cases", "good.jsonl", "--reward", "syntax.py"], "importing it raised SyntaxError"),
        (["--cases", "."], "is a folder; give a file. Its .jsonl files: ['bad.jsonl', 'good"),
    ],
)
def test_wrong_usage_of_grade_is_one_message_and_exit_code_2(
    capsys, arguments: list[str], message: str
):
    write("good.jsonl", labeled("2", True))
    write("bad.jsonl", labeled("2", True), {"kind": "answer"})
    Path("exit.py").write_text("import sys\nsys.exit(0)")  # not to be taken for success
    Path("syntax.py").write_text("def f(completion: return 1.0")
    assert grade(*arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_list_names_installed_rewards_with_their_origin_and_options(capsys):
    assert main(["reward", "list"]) == 0
    shown = capsys.readouterr().out
    assert "answer  (cotree 0.1.0; per sample)" in shown
    assert "python_tests" in shown
    assert "allow_unsafe = False" in shown


def test_a_reward_that_does_what_is_expected_passes_its_trial(capsys):
    cases = write(
        "cases.jsonl",
        {"completion": r"\boxed{2}", "reference": "2", "expected": 1},
        {"completion": "2", "reference": "2", "expected": [0, 0.5]},
    )
    assert main(["reward", "test", "mine.py:equal", "--cases", cases]) == 0
    shown = capsys.readouterr().out
    assert "completion       from the run" in shown
    assert "reference        the problem's field" in shown
    assert "strict           True unless an option or a column sets it" in shown
    assert "1 MB of text" in shown
    assert "as they should be" in shown


def test_a_reward_that_fails_on_an_empty_completion_is_told_what_a_run_would_do(capsys):
    cases = write("cases.jsonl", {"completion": "12", "expected": 0.5})
    assert main(["reward", "test", "mine.py:fragile", "--cases", cases]) == 1
    lines = capsys.readouterr().out.splitlines()
    (empty,) = [line for line in lines if line.startswith("empty")]
    assert "masked, counted as crash" in empty
    assert "ZeroDivisionError" in empty
    assert "could not grade" in empty


def test_a_reward_that_is_not_as_expected_fails_its_trial(capsys):
    cases = write("cases.jsonl", {"completion": "3", "reference": "2", "expected": 1})
    assert main(["reward", "test", "mine.py:equal", "--cases", cases]) == 1
    assert "expected 1" in capsys.readouterr().out


def test_a_problem_that_the_rewards_own_check_refuses_fails_its_trial(capsys):
    cases = write("cases.jsonl", {"completion": r"\boxed{2}", "reference": "  "})
    assert main(["reward", "test", "math", "--cases", cases]) == 1
    assert "refused before a run starts" in capsys.readouterr().out


def test_the_function_of_a_file_must_be_named_when_there_are_several(capsys):
    cases = write("cases.jsonl", {"completion": "3"})
    assert main(["reward", "test", "mine.py", "--cases", cases]) == 2
    assert "3 public functions" in capsys.readouterr().err


def test_a_column_that_the_cases_lack_is_found_before_anything_runs(capsys):
    cases = write("cases.jsonl", {"completion": "3 cm", "unit": "cm"}, {"completion": "3"})
    assert main(["reward", "test", "mine.py:unit", "--cases", cases]) == 2
    assert "needs 'unit'" in capsys.readouterr().err


def test_an_audit_counts_and_shows_disagreements(capsys):
    wrong = {**SAMPLE, "problem": "p/2", "reference": "7"}
    samples = write("samples.jsonl", SAMPLE, wrong)
    command = ["reward", "audit", samples, "--against", "mine.py:equal", "--html", "page.html"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "disagreement: 50.0%" in shown
    assert "p/2, step 1: right in the run" in shown
    assert "p/1, step 1" not in shown
    assert "compared with 7" in shown
    page = Path("page.html").read_text()
    assert "p/2" in page
    assert "compared with 7" in page
    assert "&lt;b&gt;so" in page  # a completion is text, never markup
    assert "<b>so" not in page


def test_an_audit_may_fail_above_a_share(capsys):
    wrong = {**SAMPLE, "reference": "7"}
    samples = write("samples.jsonl", SAMPLE, wrong)
    command = ["reward", "audit", samples, "--against", "mine.py:equal", "--fail-above"]
    assert main([*command, "0.5"]) == 0
    assert main([*command, "0.4"]) == 1
    assert "disagreement" in capsys.readouterr().out


def test_an_audit_of_what_is_no_run_is_refused(capsys):
    samples = write("samples.jsonl", {"step": 1})
    assert main(["reward", "audit", samples, "--against", "mine.py:equal"]) == 2
    assert "no line of a run's samples.jsonl" in capsys.readouterr().err


def test_text_that_a_terminal_would_obey_is_escaped(capsys):
    samples = write("samples.jsonl", {**SAMPLE, "reference": "\x1b[2J\ud800[red]"})
    assert main(["reward", "audit", samples, "--against", "mine.py:equal"]) == 0
    assert r"\x1b[2J\ud800[red]" in capsys.readouterr().out


def command(*arguments: str) -> list[str]:
    code = "import sys\nfrom cotree.grpo.cli import main\nsys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-c", code, *arguments]


def test_a_reader_that_has_enough_ends_the_command_without_a_word():
    rows = [labeled("3", True)] * 200  # each error is shown, which is more than a pipe holds
    arguments = ["grade", "--cases", write("cases.jsonl", *rows), "--show-errors"]
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait(60)) == (b"", 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_the_command_and_its_processes_at_once(number: signal.Signals):
    Path("slow.py").write_text(
        "import os, time\ndef f(completion):\n    open('started', 'w').close()\n"
        "    time.sleep(1000)\n"
    )
    cases = write("cases.jsonl", *[labeled("2", True)] * 500)
    arguments = ["grade", "--cases", cases, "--reward", "slow.py", "--timeout", "500"]
    with subprocess.Popen(command(*arguments), stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        deadline = time.monotonic() + 60
        while not Path("started").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(number)
        assert (process.stderr.read(), process.wait(60)) == (b"interrupted.\n", 130)
    assert children
    _, left = psutil.wait_procs(children, timeout=10)
    assert not left


def test_the_commands_load_no_torch_ray_or_vllm():
    cases = write("cases.jsonl", labeled("2", True))
    code = (
        "import sys\nfrom cotree.grpo.cli import main\n"
        f"assert main(['grade', '--cases', {cases!r}, '--reward', 'answer', '--json']) == 0\n"
        "assert main(['reward', 'list']) == 0\n"
        "print([name for name in ('torch', 'ray', 'vllm') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr

"""`cotree distill` from the command line, on real Ray and real vLLM: every kind, killed, resumed.

A teacher learns arithmetic in a minute; what students learn from it is measured elsewhere. Tested
here are the promises: the files, the exit codes, and that a stage which was killed and resumed ends
in the same bytes.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from smoke_distill import ON_POLICY_STEPS, STEPS, write_folder, write_other_student
from smoke_pipeline import cotree, finish

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


def distill(folder: Path, name: str, *options: str, code: int = 0) -> str:
    return finish(cotree(folder, "distill", f"{name}.toml", *options), code=code)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def fingerprint(run: Path) -> str:
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def repeatable_metrics(run: Path) -> list[dict]:
    """The metrics without what is time."""
    timed = ("time", "seconds", "tokens_per_second", "engine")
    return [
        {key: value for key, value in line.items() if key.split("/")[0] not in timed}
        for line in lines(run / "metrics.jsonl")
    ]


def kill_when(process: subprocess.Popen[str], is_time: Callable[[], bool]) -> None:
    """Kills the command, in a way that it can do nothing about, and waits until it is gone."""
    deadline = time.monotonic() + 250
    while not is_time():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "what to wait for did not come in 250 s"
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configurations, a teacher, and a student of its texts."""
    folder = tmp_path_factory.mktemp("distill")
    write_folder(folder)
    distill(folder, "traces")
    return folder


@pytest.fixture(scope="module")
def traces(folder: Path) -> Path:
    """The stage of an undisturbed run on traces."""
    return folder / "runs" / "traces" / "distill"


@pytest.fixture(scope="module")
def logits(folder: Path) -> Path:
    """The same of one on logits, which asks the teacher about those traces."""
    distill(folder, "logits")
    return folder / "runs" / "logits" / "distill"


# --- traces -------------------------------------------------------------------------------------


def test_a_student_of_traces_learns_and_its_numbers_add_up(traces: Path):
    corpus = json.loads((traces / "corpus" / "corpus.json").read_text())
    assert corpus["candidates"] == 4 * corpus["problems"] == 4 * 200
    assert corpus["kept"] + sum(corpus["dropped"].values()) == corpus["candidates"]
    assert corpus["kept"] == len(lines(traces / "corpus" / "traces.jsonl")) > 64
    assert sum(rate["problems"] for rate in corpus["pass_rates"]) == corpus["problems"]

    result = json.loads((traces / "result.json").read_text())
    assert result["steps"] == STEPS
    assert result["seconds"]["distill"] > 0
    for key in ("accuracy_teacher", "accuracy_after"):
        assert 0 <= result[key]["low"] <= result[key]["value"] <= result[key]["high"] <= 1
        assert result[key]["n"] == 8
    loss = [step["loss"] for step in lines(traces / "metrics.jsonl")]
    assert len(loss) == STEPS
    assert loss[-1] < loss[0] / 2
    assert (traces / "model" / "tokenizer.json").exists()


def test_a_run_killed_while_sampling_and_again_in_its_steps_ends_in_the_same_bytes(
    folder: Path, traces: Path
):
    other = folder / "runs" / "killed" / "distill"
    log = other / "corpus" / "candidates.jsonl"
    settings = ("--set", "output_dir=runs/killed")
    started = cotree(folder, "distill", "traces.toml", *settings)
    kill_when(started, lambda: log.exists() and log.read_bytes().count(b"\n") > 1)
    before = log.read_bytes()
    sampled = before[: before.rfind(b"\n") + 1]
    assert 1 < sampled.count(b"\n") < 201, "it was killed too late to show anything"
    assert not (other / "corpus" / "traces.jsonl").exists()

    resumed = cotree(folder, "distill", "traces.toml", *settings, "--resume")
    kill_when(resumed, lambda: (other / "checkpoints" / "step_000005").exists())
    assert not (other / "model").exists(), "it was killed too late to show anything"
    assert log.read_bytes().startswith(sampled)
    asked = [line["id"] for line in lines(log)[1:]]
    assert len(set(asked)) == len(asked) == 200
    whole = (traces / "corpus" / "traces.jsonl").read_bytes()
    assert (other / "corpus" / "traces.jsonl").read_bytes() == whole
    finished = log.read_bytes()

    told = distill(folder, "traces", *settings, "--resume")
    assert "starting the engine with runs/teacher" not in told
    assert log.read_bytes() == finished
    assert (other / "corpus" / "traces.jsonl").read_bytes() == whole
    assert fingerprint(other) == fingerprint(traces)
    assert repeatable_metrics(other) == repeatable_metrics(traces)


def test_starting_over_an_existing_stage_is_refused(folder: Path, traces: Path):
    before = fingerprint(traces)
    assert "--resume" in distill(folder, "traces", code=2)
    assert fingerprint(traces) == before


# --- logits -------------------------------------------------------------------------------------


def test_a_student_of_logits_comes_closer_to_its_teacher(logits: Path):
    found = [step["distill/divergence_nats"] for step in lines(logits / "metrics.jsonl")]
    assert len(found) == STEPS
    assert found[-1] < found[0] / 2
    reading = json.loads((logits / "reading.json").read_text())
    assert reading["same_tokenizer"]
    assert reading["texts"] == reading["read"] > 64
    assert reading["refused"] == {}


def test_another_student_learns_from_the_same_answers_without_the_teacher(
    folder: Path, logits: Path
):
    told = distill(folder, "stored")
    assert "starting the engine with runs/teacher" not in told
    other = folder / "runs" / "stored" / "distill"
    # The same student as the first: the answers are the same, and so is everything after.
    first, second = (repeatable_metrics(run) for run in (logits, other))
    assert second[0]["loss"] == first[0]["loss"]
    assert second == first
    assert fingerprint(other) == fingerprint(logits)


def test_a_student_with_another_tokenizer_learns_from_logits(folder: Path, traces: Path):
    write_other_student(folder / "other")
    rows = lines(traces / "corpus" / "traces.jsonl")
    strange = rows[0] | {"id": "strange", "solution": "\\boxed{é}"}  # the teacher has no é
    (folder / "traces.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in [*rows, strange])
    )
    told = distill(folder, "other")
    assert "the teacher cannot read 1 texts" in told
    other = folder / "runs" / "other" / "distill"
    reading = json.loads((other / "reading.json").read_text())
    assert reading == {
        "same_tokenizer": False,
        "texts": len(rows) + 1,
        "read": len(rows),
        "refused": {"a character that the teacher does not know": 1},
    }
    loss = [step["loss"] for step in lines(other / "metrics.jsonl")]
    assert len(loss) == STEPS
    assert loss[-1] < loss[0] / 2
    result = json.loads((other / "result.json").read_text())
    assert result["benchmarks_after"]["arithmetic"]["n"] == 8


# --- on-policy ----------------------------------------------------------------------------------


def test_an_on_policy_run_that_is_killed_and_resumed_ends_in_the_same_bytes(
    folder: Path, traces: Path
):
    distill(folder, "on_policy")
    whole, other = (folder / "runs" / name / "distill" for name in ("on_policy", "on_killed"))
    steps = [one for one in lines(whole / "metrics.jsonl") if "loss" in one]
    assert [one["step"] for one in steps] == [1, 2, 3]
    assert {one["distill/refused"] for one in steps} == {0.0}
    assert all(one["distill/reverse_kl_nats"] > 0 for one in steps)
    assert json.loads((whole / "result.json").read_text())["steps"] == ON_POLICY_STEPS
    assert fingerprint(whole) != fingerprint(traces)

    settings = ("--set", "output_dir=runs/on_killed")
    started = cotree(folder, "distill", "on_policy.toml", *settings)
    kill_when(started, lambda: (other / "checkpoints" / "step_000001").exists())
    assert not (other / "model").exists(), "it was killed too late to show anything"
    distill(folder, "on_policy", *settings, "--resume")
    assert fingerprint(other) == fingerprint(whole)
    assert repeatable_metrics(other) == repeatable_metrics(whole)


# --- a teacher behind a server ------------------------------------------------------------------


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The teacher behind OpenAI's protocol."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    command = [str(ROOT / "scripts/serve_cpu.sh"), "runs/teacher/sft/model", str(port)]
    settings = {"COTREE_VENV": sys.prefix, "COTREE_KV_CACHE": "64M", "OMP_NUM_THREADS": "1"}
    with (folder / "server.log").open("wb") as output:
        started = subprocess.Popen(
            [*command, "--max-model-len", "96"],
            cwd=folder,
            env=os.environ | settings,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 240
        while not _answers(f"http://127.0.0.1:{port}/health"):
            assert started.poll() is None, (folder / "server.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (folder / "server.log").read_text()[-3000:]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(started.pid, signal.SIGTERM)
        started.wait(60)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except (URLError, TimeoutError):
        return False


@pytest.mark.slow
def test_a_corpus_is_sampled_from_a_server(folder: Path, server: str):
    text = (folder / "traces.toml").read_text()
    engine = 'type = "engine"\npath = "runs/teacher/sft/model"'
    assert engine in text
    (folder / "server.toml").write_text(text.replace(engine, f'type = "server"\nurl = "{server}"'))
    distill(folder, "server", "--set", "distill.corpus.num_problems=80")
    own = folder / "runs" / "server" / "distill"
    corpus = json.loads((own / "corpus" / "corpus.json").read_text())
    assert corpus["candidates"] == 4 * corpus["problems"] == 4 * 80
    assert corpus["kept"] == len(lines(own / "corpus" / "traces.jsonl")) > 16
    assert corpus["accuracy"]["value"] > 0.2
    result = json.loads((own / "result.json").read_text())
    assert "accuracy_after" in result
    assert "accuracy_teacher" not in result  # only its samples are measured, in corpus.json


# --- errors -------------------------------------------------------------------------------------


def test_a_teacher_that_is_not_there_is_named_and_leaves_nothing_to_resume(folder: Path):
    settings = (
        "--set",
        "output_dir=runs/missing",
        "--set",
        "distill.teacher.path=runs/nobody/model",
    )
    told = distill(folder, "traces", *settings, code=1)
    assert "cannot load a model from 'runs/nobody/model' (folder exists: False)" in told
    assert "Traceback (most" not in told
    # The folder is as good as new: the corrected command need not resume anything.
    assert "--resume" not in distill(folder, "traces", *settings, code=1)


def test_a_teacher_beside_the_student_needs_its_tokenizer(folder: Path, traces: Path):
    write_other_student(folder / "other")
    text = (folder / "logits.toml").read_text().replace('type = "engine"', 'type = "resident"')
    (folder / "resident.toml").write_text(
        text.replace('path = "runs/teacher/sft/model"', 'path = "other"')
    )
    told = distill(folder, "resident", code=2)
    assert "the teacher other has another tokenizer than the student" in told
    assert 'set distill.teacher.type = "engine"' in told


@pytest.mark.slow
def test_answers_about_another_corpus_are_refused(folder: Path, logits: Path):
    rows = (folder / "runs/traces/distill/corpus/traces.jsonl").read_text().splitlines()
    swapped = [rows[1], rows[0], *rows[2:]]
    for name, chosen, words in [
        ("shorter", rows[:-1], f"scores of {len(rows)} texts, and the corpus has {len(rows) - 1}"),
        ("swapped", swapped, "text 0 of the corpus is not the one"),
    ]:
        (folder / f"{name}.jsonl").write_text("".join(f"{row}\n" for row in chosen))
        changes = (f"output_dir=runs/{name}", f"distill.corpus.path={name}.jsonl")
        told = distill(
            folder, "stored", *(part for one in changes for part in ("--set", one)), code=2
        )
        assert words in told


@pytest.mark.slow
def test_a_corpus_of_nothing_says_what_to_loosen(folder: Path, traces: Path):
    # The samples of the other run are taken over, so that no engine has to start.
    own = folder / "runs" / "nothing" / "distill"
    (own / "corpus").mkdir(parents=True)
    shutil.copy(traces / "corpus" / "candidates.jsonl", own / "corpus")
    shutil.copy(traces / "result.json", own)
    settings = ("--set", "output_dir=runs/nothing", "--set", "distill.corpus.keep.max_tokens=3")
    told = distill(folder, "traces", *settings, "--resume", code=1)
    assert "none of the teacher's completions was kept" in told
    assert "Loosen [distill.corpus.keep]" in told
    assert "too_long" in told
    assert json.loads((own / "corpus" / "corpus.json").read_text())["kept"] == 0

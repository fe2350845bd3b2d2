"""Tests for grpo/cli_kernels.py: what is printed, what is JSON, and what is refused."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState

from cotree.grpo.cli import main
from cotree.kernels.dispatch import OPS, status

ON_GPU = torch.cuda.is_available()


@pytest.fixture(autouse=True)
def _fresh_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COTREE_DEBUG", "COTREE_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "160")  # no cell of a table is cut
    AcceleratorState._reset_state(reset_partial_state=True)


# --- status ----------------------------------------------------------------------------------


def test_status_has_a_row_for_each_kernel(capsys: pytest.CaptureFixture[str]):
    assert main(["kernels", "status"]) == 0
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    found = {row[1].strip(): (row[2].strip(), row[3].strip()) for row in rows}
    assert found == {choice.op: (choice.backend, choice.reason) for choice in status()}
    assert found.keys() == set(OPS)


def test_status_as_json_is_nothing_but_that(capsys: pytest.CaptureFixture[str]):
    assert main(["kernels", "status", "--json"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert [row["op"] for row in found] == list(OPS)
    assert all(row.keys() == {"op", "backend", "reason"} for row in found)
    assert all(row["backend"] in ("torch", "triton") and row["reason"] for row in found)
    assert printed.err == ""


def test_status_tells_what_the_environment_chose(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COTREE_KERNELS", "torch")
    assert main(["kernels", "status", "--json"]) == 0
    for row in json.loads(capsys.readouterr().out):
        assert (row["backend"], row["reason"]) == ("torch", "COTREE_KERNELS = torch")

    monkeypatch.setenv("COTREE_KERNELS", "fast")
    assert main(["kernels", "status"]) == 1
    printed = capsys.readouterr()
    assert "COTREE_KERNELS = 'fast' must be auto, torch, triton or cuda" in printed.err
    assert "Traceback" not in printed.err
    assert printed.out == ""


@pytest.mark.skipif(ON_GPU, reason="has a GPU to run them on")
def test_kernels_that_cannot_run_here_are_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COTREE_KERNELS", "triton")
    assert main(["kernels", "status"]) == 1
    assert "TRITON_INTERPRET=1" in capsys.readouterr().err


# --- preview ---------------------------------------------------------------------------------


def preview(model: Path, *options: str) -> int:
    return main(["kernels", "preview", str(model), "--tokens", "96", *options])


ERRORS = {"output", "input_grad", "weight_grad"}


def test_preview_as_json_has_every_layer_and_both_losses(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
):
    assert preview(tiny_model, "--steps", "2", "--json") == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    assert (found["model"], found["precision"]) == (str(tiny_model), "fp8_block")
    # 2 layers of q, k, v, o, gate, up, down; the embedding is the head and has no part in it.
    assert len(found["layers"]) == 14
    for layer in found["layers"]:
        assert layer["name"].startswith("model.layers.")
        assert layer["low"].keys() == layer["bfloat16"].keys() == ERRORS
        # 3 bits behind the leading one, against 7.
        assert layer["bfloat16"]["output"] < layer["low"]["output"] < 0.1
    for gap in (found["loss"], *found["trained"]):
        assert gap["bfloat16"] != gap["low"]
        assert gap["low"] == pytest.approx(gap["bfloat16"], rel=0.05)
    assert 0 < found["largest_step_gap"] < 0.05
    assert found["tokens"] >= 96
    # What it does meanwhile is told elsewhere.
    assert "training, run 1 of 1: 2 steps in fp8_block" in printed.err


def test_preview_as_a_table_is_worst_first_and_says_what_to_compare_with(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
):
    assert preview(tiny_model, "--steps", "2") == 0
    out = capsys.readouterr().out
    rows = [line.split("│") for line in out.splitlines() if "│" in line]
    errors = [float(row[2].strip().removesuffix("%")) for row in rows]
    assert len(errors) == 14
    assert errors == sorted(errors, reverse=True)
    assert rows[0][1].strip().startswith(("0.", "1."))  # model.layers. goes without saying
    said = " ".join(out.split())
    assert "loss of the model as it is (" in said
    assert "--runs 8 gives an interval" in said
    assert "DeepSeek-V3 kept it below 0.25%" in said


def test_several_runs_give_the_mean_gap_and_its_interval(
    tiny_model: Path, capsys: pytest.CaptureFixture[str]
):
    options = ("--steps", "2", "--runs", "2")
    assert preview(tiny_model, *options, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    gaps = [gap["low"] / gap["bfloat16"] - 1 for gap in found["trained"]]
    assert found["relative"]["value"] == pytest.approx(sum(gaps) / 2)
    assert found["relative"]["low"] < min(gaps) < max(gaps) < found["relative"]["high"]

    assert preview(tiny_model, *options) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "(later half, run 2): " in said
    assert f"mean of the runs {found['relative']['value']:+.3%} (95 % interval" in said


def test_runs_that_would_not_differ_are_refused(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    texts = tmp_path / "texts.txt"
    texts.write_text("Two and two are four.\n")
    assert preview(tiny_model, "--runs", "2", "--steps", "4", "--texts", str(texts)) != 0
    assert "they would not differ" in " ".join(capsys.readouterr().err.split())
    assert preview(tiny_model, "--runs", "2", "--steps", "0") != 0
    assert "2 runs need two steps" in " ".join(capsys.readouterr().err.split())


def test_a_preview_reads_the_texts_that_it_is_given_and_trains_nothing_in_no_steps(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "Two and two are four."}\n')
    assert preview(tiny_model, "--steps", "0", "--texts", str(texts), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["tokens"] == len("Two and two are four.")  # a character a token
    assert found["trained"] == []
    assert found["largest_step_gap"] is None
    assert found["relative"] is None

    assert preview(tiny_model, "--steps", "0", "--texts", str(texts)) == 0
    out = capsys.readouterr().out
    assert "(21 tokens)" in " ".join(out.split())
    assert "while training" not in out


def test_texts_that_are_not_there_are_a_mistake_in_the_command(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for texts in (tmp_path / "none.jsonl", tmp_path):  # none, and a folder
        assert preview(tiny_model, "--steps", "0", "--texts", str(texts)) == 2
        printed = capsys.readouterr()
        assert texts.name in "".join(printed.err.replace("│", "").split())  # wherever it is cut
        assert "Traceback" not in printed.err
        assert printed.out == ""


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.txt", "\n\n", "no text of two tokens or more; give others with --texts"),
        ("rows.jsonl", '{"words": "abc"}\n', "text"),
        ("strange.txt", "日本語\n", "error: "),
    ],
)
def test_texts_that_cannot_be_read_are_one_message(
    tiny_model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    message: str,
):
    (tmp_path / name).write_text(text)
    code = preview(tiny_model, "--steps", "0", "--texts", str(tmp_path / name))
    printed = capsys.readouterr()
    assert code == 2
    assert message in printed.err
    assert "Traceback" not in printed.err


def test_a_model_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert preview(tmp_path / "nowhere", "--steps", "0") == 2
    said = capsys.readouterr().err
    assert f"error: cannot load a model from '{tmp_path / 'nowhere'}'" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "option",
    [
        ["--precision", "fp4"],
        ["--tokens", "1"],
        ["--steps", "-1"],
        ["--learning-rate", "-0.1"],
        ["--learning-rate", "0"],
        ["--learning-rate", "nan"],
    ],
    ids=" ".join,
)
def test_numbers_and_names_out_of_range_are_refused(
    tiny_model: Path, capsys: pytest.CaptureFixture[str], option: list[str]
):
    assert preview(tiny_model, *option) == 2
    said = capsys.readouterr().err
    assert option[0] in said
    assert "layers: one pass" not in said  # before anything is measured


# --- compile ---------------------------------------------------------------------------------


def compiled(*options: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Triton's compiler leaves state behind, and noise at its exit."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-m", "cotree.grpo.cli", "kernels", "compile", *options],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env=environment,
    )


def test_names_that_no_kernel_has_compile_nothing(capfd: pytest.CaptureFixture[str]):
    assert main(["kernels", "compile", "--only", "quantise"]) == 1
    assert "no specialisation's name contains 'quantise'" in capfd.readouterr().out


@pytest.mark.e2e
def test_a_kernel_is_compiled_for_hopper_and_for_blackwell():
    name = "quantize_tiles/bfloat16/pow2"
    done = compiled("--only", name)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(name)]
    assert [row[1] for row in rows] == ["sm_90a", "sm_100a"]
    for row in rows:
        registers, stack, spills = map(int, row[2:5])
        assert 0 < registers <= 255
        assert (stack, spills) == (0, 0)
    assert "2 compiled, 0 problems" in done.stdout

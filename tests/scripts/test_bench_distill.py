"""scripts/bench_distill.py, without TRL: its own side, and how the two are compared."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPTS))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / "bench_distill.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        cwd=SCRIPTS.parent,
    )


def test_help_says_how_to_install_trl_and_a_folder_without_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
):
    import bench_distill

    for arguments, said in (
        (["--help"], "pip install --no-deps --target PEERS/trl trl"),
        (["model", "teacher", "--trl", str(tmp_path)], "has no trl; pip install"),
    ):
        monkeypatch.setattr(sys, "argv", ["bench_distill.py", *arguments])
        with pytest.raises(SystemExit):
            bench_distill.main()
        assert said in "".join(capsys.readouterr())


def test_texts_are_read_as_they_were_written(tmp_path: Path):
    from distill_orders import Text, read_texts, write_texts

    steps = [[Text("1+1\n", (5, 6), (7,)), Text("", (1,), (2, 3))], [Text("ü", (4,), ())]]
    write_texts(tmp_path / "texts.json", steps)
    assert read_texts(tmp_path / "texts.json") == steps


def test_sampling_is_a_part_of_its_own_step_only():
    from distill_orders import Laps, Result

    result = Result("test")
    laps = Laps(result)
    with laps.sampling():
        sum(range(100_000))
    with laps.sampling():
        sum(range(100_000))
    laps.end()
    laps.end()
    assert 0 < result.sampling_seconds[0] <= result.seconds[0]
    assert 0 < result.sampling_cpu_seconds[0] <= result.cpu_seconds[0]
    assert result.sampling_seconds[1] == 0 < result.seconds[1]


def test_losses_are_compared_over_the_same_number_of_tokens(tmp_path: Path):
    import numpy as np
    from bench_distill import agreement
    from distill_orders import Result
    from safetensors.numpy import save_file

    # The start is 0, TRL's weights are (3, 4) from it, |.| = 5, and ours (0, 0.5) from TRL's.
    ends = {"start": (0.0, 0.0), "ours": (3.0, 4.5), "theirs": (3.0, 4.0)}
    for name, values in ends.items():
        folder = tmp_path / name if name == "start" else tmp_path / name / "model"
        folder.mkdir(parents=True)
        save_file({"weight": np.array(values, dtype=np.float32)}, folder / "model.safetensors")
    ours = Result("ours", losses=[1.0, 2.0], tokens=[10, 20], divisors=[10, 20])
    # 0.5 is the first step's 10 tokens' sum, 10, over 20; the second step's is off by 0.25.
    theirs = Result("theirs", losses=[0.5, 1.75], tokens=[10, 20], divisors=[20, 20])
    sides = (ours, tmp_path / "ours"), (theirs, tmp_path / "theirs")

    found = agreement(*sides, tmp_path / "start")

    assert (found.ours, found.theirs, found.tokens, found.divisor) == (1.0, 0.5, 10, 20)
    assert found.most_apart == 0.25
    assert found.weights_apart == pytest.approx(0.5 / 5)
    other = (replace(theirs, tokens=[10, 21]), tmp_path / "theirs")
    with pytest.raises(ValueError, match="other texts"):
        agreement(sides[0], other, tmp_path / "start")


@pytest.mark.slow
def test_our_side_alone_is_measured(tiny_model: Path, tmp_path: Path):
    sizes = ["--steps", "1", "--warm-up", "1", "--rounds", "1", "--sequences", "4"]
    chosen = ["--threads", "1", "--only", "sft", "reverse_kl"]
    done = run(tiny_model, tiny_model, *sizes, *chosen, "--json", tmp_path / "figures.json")
    assert done.returncode == 0, done.stderr
    cross_entropy, divergence = json.loads((tmp_path / "figures.json").read_text())["rows"]
    assert cross_entropy["theirs"] is None
    assert cross_entropy["agreement"]["ours"] > 1
    # The student is its own teacher before its first update.
    assert divergence["agreement"]["ours"] == pytest.approx(0, abs=1e-6)
    assert divergence["ours"]["median_seconds"] > 0
    assert divergence["ours"]["peak_bytes"] >= divergence["ours"]["start_bytes"] > 0
    assert "| cross-entropy (SFTTrainer) | 1 |" in done.stdout

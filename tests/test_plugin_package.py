"""A reward from somebody's package: really installed, found by name, checked and run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent / "plugin_package"
CONFIG = """
model = { type = "pretrained", path = "none" }
task = { type = "rows", train = "rows.jsonl", test = "rows.jsonl" }
trackers = []
[[rewards]]
name = "answer"
[[rewards]]
name = "example_brevity"
weight = 0.1
options = { limit = 40 }
[[rewards]]
name = "example_unit"
weight = 0.5
[train]
num_steps = 1
optimizer = { learning_rate = 1e-4 }
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed example package and nothing else."""
    source = tmp_path_factory.mktemp("source") / "package"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("site")
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", str(target), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


def cotree(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user of the package would run it, from a folder of their own."""
    return subprocess.run(
        [sys.executable, "-m", "cotree.grpo.cli", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(site), "COLUMNS": "200", "COTREE_DEBUG": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def write(path: Path, *rows: object) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def pipeline(folder: Path, *rows: object, config: str = CONFIG) -> str:
    write(folder / "rows.jsonl", *rows)
    (folder / "pipeline.toml").write_text(config)
    return "pipeline.toml"


def test_the_list_shows_the_package_its_version_and_what_its_rewards_need(
    site: Path, tmp_path: Path
):
    shown = cotree(site, tmp_path, "reward", "list").stdout
    assert "example_brevity  (cotree-example-reward 1.0; per sample)" in shown
    assert "example_unit  (cotree-example-reward 1.0; batch, async)" in shown
    assert "needs (column or option): unit" in shown


def test_a_configuration_with_the_packages_rewards_passes_the_check(site: Path, tmp_path: Path):
    rows = {"question": "2 m + 3 m?", "answer": "5", "unit": "m"}
    done = cotree(site, tmp_path, "check", pipeline(tmp_path, rows))
    assert done.returncode == 0, done.stderr
    assert "example_unit" in done.stdout


def test_the_check_finds_a_missing_column(site: Path, tmp_path: Path):
    rows = [{"question": "2 m + 3 m?", "answer": "5", "unit": "m"}, {"question": "?", "answer": 1}]
    done = cotree(site, tmp_path, "check", pipeline(tmp_path, *rows))
    assert done.returncode == 2
    assert "example_unit needs 'unit'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("options = { limit = 40 }", "options = { limits = 40 }", "did you mean 'limit'"),
        ("options = { limit = 40 }", "", "example_brevity needs 'limit'"),
        ('"example_unit"', '"example_units"', "did you mean 'example_unit'"),
        ("weight = 0.5", 'on_error = "value"', "needs error_value"),
    ],
)
def test_the_check_finds_wrong_names_and_options(
    site: Path, tmp_path: Path, right: str, wrong: str, message: str
):
    assert right in CONFIG
    rows = {"question": "2 m + 3 m?", "answer": "5", "unit": "m"}
    done = cotree(
        site, tmp_path, "check", pipeline(tmp_path, rows, config=CONFIG.replace(right, wrong))
    )
    assert done.returncode == 2
    assert message in done.stderr


def test_a_reward_in_a_file_passes_the_same_check(site: Path, tmp_path: Path):
    (tmp_path / "mine.py").write_text("def mine(completion, unit):\n    return 1.0\n")
    config = CONFIG.replace('"example_unit"', '"mine.py:mine"')
    rows = {"question": "2 m + 3 m?", "answer": "5", "unit": "m"}
    assert cotree(site, tmp_path, "check", pipeline(tmp_path, rows, config=config)).returncode == 0
    without = {"question": "2 m + 3 m?", "answer": "5"}
    done = cotree(site, tmp_path, "check", pipeline(tmp_path, without, config=config))
    assert done.returncode == 2
    assert "mine.py:mine needs 'unit'" in done.stderr


def test_its_batch_reward_runs_in_the_children(site: Path, tmp_path: Path):
    cases = write(
        tmp_path / "cases.jsonl",
        {"completion": "It is 5 m.", "unit": "m", "expected": 1},
        {"completion": "It is 5 km", "unit": "s", "expected": 0},
        {"completion": "It is 5", "unit": None},
    )
    done = cotree(site, tmp_path, "reward", "test", "example_unit", "--cases", cases)
    assert "unit             a column that every row must have" in done.stdout
    assert "masked, counted as skipped" in done.stdout  # the row without a unit
    assert done.returncode == 0, done.stdout

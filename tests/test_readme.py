"""What README and docs/ show is true: examples pass `cotree check`, links lead somewhere."""

import json
import re
from pathlib import Path

import pytest

from cotree.grpo.cli import main
from cotree.grpo.evaluation.benchmark import benchmark_named, load_benchmark
from cotree.rewards.equality.answers import Outcome, compare

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    page: page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
README = PAGES[ROOT / "README.md"]
PIPELINE = """
model = { type = "pretrained", path = "none" }
task = { type = "rows", train = "rows.jsonl", test = "rows.jsonl" }
trackers = []
[train]
num_steps = 1
optimizer = { learning_rate = 1e-4 }
"""


def block(language: str, first: str) -> str:
    """The pages' code block in this language that starts so."""
    blocks = re.findall(rf"```{language}\n(.*?)```", "\n".join(PAGES.values()), re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(first)]
    return found


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings outside code."""
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings_that_exist(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked.read_text(encoding="utf-8")), target


def test_every_page_is_linked_from_the_readme_and_scripts_it_names_exist():
    for page, text in PAGES.items():
        assert page.name == "README.md" or f"(docs/{page.name})" in README
        for script in re.findall(r"scripts/[\w./]+\.(?:py|sh)", text):
            assert (ROOT / script).is_file(), f"{page.name} names {script}"


def test_the_example_of_a_reward_passes_the_check(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my_rewards.py").write_text(block("python", "# my_rewards.py"))
    Path("pipeline.toml").write_text(PIPELINE + block("toml", "[[rewards]]"))
    row = {"question": "1+1?", "answer": "2", "rubric": "shows the sum"}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["check", "pipeline.toml"]) == 0, capsys.readouterr().err
    del row["rubric"]
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    assert main(["check", "pipeline.toml"]) == 2
    assert "needs 'rubric'" in capsys.readouterr().err


def test_the_example_of_a_benchmark_can_be_loaded(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_benchmark.py").write_text(block("python", "# my_benchmark.py"))
    Path("riddles.jsonl").write_text(json.dumps({"riddle": "6 x 7?", "solution": 42}) + "\n")
    benchmark = benchmark_named("my_benchmark.py:Riddles")
    (problem,) = load_benchmark(benchmark, tmp_path, limit=None, subset_seed=0).problems
    assert (problem.id, problem.question, problem.reference) == ("riddles/0", "6 x 7?", "42")


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("1000", "1,000.0"),
        ("3.14", r"\pi"),
        ("0.5", "1/2"),
        ("1/3", "0.333333"),
        (r"28\%", "0.28"),
        (r"28\%", "28"),
        ("28", r"28\%"),
        ("5 cm", "5"),
        ("5 cm", "5 centimeters"),
        ("12", "12 apples"),
        ("1, 2", "2, 1"),
        (r"\pm 2", "2, -2"),
        (r"(5, \infty)", "x > 5"),
        ("5", "x = 5"),
        ("f(x) = x", "f(z) = z"),
        ("x + y = 3", "2x + 2y = 6"),
        ("C", "(C)"),
        ("C", "C. 5"),
        ("Monday", "monday"),
    ],
)
def test_what_the_page_of_rewards_calls_equal_is_equal(reference: str, answer: str):
    assert compare(reference, answer).outcome is Outcome.EQUAL


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        ("699", "699.04"),
        ("12", "0.12"),
        ("2.5", "2.53"),
        ("1/3", "0.333"),
        ("5 cm", "5 m"),
        ("5 cm", "50 mm"),
        ("(1,2)", "[1,2]"),
        (r"(5, \infty)", r"x \ge 5"),
        ("0 = 0", "1 = 1"),
        ("C", "A, B, C"),
        ("42", "41 or 42"),
        ("42", "[0, 100]"),
        ("42", r"x \ge 5"),
    ],
)
def test_what_the_page_of_rewards_calls_not_equal_is_not(reference: str, answer: str):
    assert compare(reference, answer).outcome is not Outcome.EQUAL


@pytest.mark.parametrize(
    "command", ["benchmarks", "check", "compare", "evaluate", "grade", "reward"]
)
def test_commands_that_the_readme_names_exist(command: str, capsys):
    assert f"cotree {command}" in README
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out

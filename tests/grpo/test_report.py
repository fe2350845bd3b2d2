"""Tests for grpo/report.py: the page says what was measured, and nothing a model wrote runs."""

import html
import json
import re
from pathlib import Path

import pytest
from pages import elements

from cotree.grpo.report import pieces, write_report
from cotree.grpo.run_folder import ConfigError, RunFolder, load_pipeline

TEXT = """
model = { type = "new" }
task = { type = "arithmetic" }
[sft]
num_steps = 5
traces = { type = "generated" }
optimizer = { learning_rate = 1e-3 }
[train]
num_steps = 3
optimizer = { learning_rate = 1e-4 }
"""
ATTACK = '</pre><script>alert(1)</script><img src=x onerror="alert(2)">'
DISTILL = f"""
model = {{ type = "new" }}
task = {{ type = "arithmetic" }}
[distill]
type = "traces"
num_steps = 3
optimizer = {{ learning_rate = 1e-3 }}
teacher = {{ type = "server", url = "http://host", model = {json.dumps(ATTACK)} }}
corpus = {{ type = "teacher" }}
"""
ROW = {
    "accuracy": 0.5,
    "reward/mean": 0.4,
    "loss": 0.1,
    "groups/kept": 3,
    "groups/constant": 1,
    "ungraded/timeout": 2,
    "seconds/generate": 2.0,
    "seconds/learn": 1.0,
    "seconds/step": 3.5,
    "tokens_per_second/generate": 1000.0,
}


def sample(step: int, text: str, *steps: dict, **changes) -> dict:
    return {
        "step": step,
        "problem": "p",
        "task": "t",
        "prompt": "1+1\n",
        "question": "1+1",
        "reference": "2",
        "completion": text,
        "num_tokens": 3,
        "stop_reason": "stop",
        "policy_version": 0,
        "reward": {"value": 1.0, "reason": "match", "breakdown": {}},
        "ungraded": None,
        "steps": list(steps),
    } | changes


def write_lines(path: Path, rows: list) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Two of three steps taken."""
    config = tmp_path / "c.toml"
    config.write_text(TEXT)
    pipeline = load_pipeline(config, [f"output_dir={tmp_path / 'run'}"])
    folder = RunFolder.of(pipeline)
    folder.prepare(pipeline, stage="train", resume=False)
    write_lines(folder.metrics, [{"step": s, "time": 100.0 + s, **ROW} for s in (1, 2)])
    return folder


def distilled(root: Path) -> None:
    """A finished distillation on three texts that were kept of ten."""
    config = root.parent / "d.toml"
    config.write_text(DISTILL)
    pipeline = load_pipeline(config, [f"output_dir={root}"])
    folder = RunFolder.of(pipeline)
    folder.prepare(pipeline, stage="distill", resume=False)
    own = folder.stage("distill")
    rows = [{"step": s, "time": 100.0 + s, "loss": 3.0 / s} for s in (1, 2, 3)]
    write_lines(own.metrics, rows)
    interval = {"low": 0.1, "high": 0.9, "n": 50}
    result = {"accuracy_teacher": {"value": 0.8} | interval}
    result |= {"accuracy_after": {"value": 0.4} | interval, "steps": 3}
    own.result.write_text(json.dumps(result | {"seconds": {"distill": 60.0}}))
    (own.root / "corpus").mkdir()
    corpus = {
        "problems": 5,
        "in_corpus": 3,
        "candidates": 10,
        "kept": 3,
        "dropped": {"cut": 0, "wrong": 6, ATTACK: 1},
        "accuracy": None,
        "pass_rates": [{"rate": 0.0, "problems": 2}, {"rate": 1.0, "problems": 3}],
        "tokens": {"sampled": 100, "kept": 30},
    }
    (own.root / "corpus" / "corpus.json").write_text(json.dumps(corpus))


def text_of(page: str) -> str:
    body = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", "", body)).split())


def test_an_unfinished_run_says_how_far_it_is(run: RunFolder):
    page = text_of(write_report(run.root).read_text())
    assert "reinforcement unfinished: 2 of 3 steps" in page
    assert "50.0% of training rollouts were right" in page
    assert "What the policy writes" not in page  # no samples.jsonl


def test_a_finished_run_says_so(run: RunFolder):
    write_lines(run.metrics, [{"step": s, "time": 100.0 + s, **ROW} for s in (1, 2, 3)])
    assert "reinforcement finished: 3 steps" in text_of(write_report(run.root).read_text())


def test_a_cold_start_alone_is_reported(tmp_path: Path):
    write_lines(tmp_path / "sft" / "metrics.jsonl", [{"step": 1, "time": 1.0, "loss": 2.5}])
    page = text_of(write_report(tmp_path).read_text())
    assert "cold start: 1 steps; reinforcement has not begun" in page
    assert "2.5" in page
    assert "The run's configuration was not found." in page


def test_a_distillation_is_a_section_of_its_run_and_a_page_of_its_own(tmp_path: Path):
    run = tmp_path / "run"
    distilled(run)
    page, own = (text_of(write_report(path).read_text()) for path in (run, run / "distill"))
    told = "The student keeps 50.0 % of its teacher's accuracy"
    for shown in (page, own):
        assert "distillation finished: 3 steps" in shown
        assert shown.count(told) == 1
        assert "kept330.0 %" in shown  # three cells of a table
    assert page.startswith("run: cotree run")
    assert own.startswith("run/distill: cotree run")
    assert (run / "distill" / "report.html").exists()


def test_a_run_that_also_trained_has_both_sentences(run: RunFolder):
    distilled(run.root)
    page = text_of(write_report(run.root).read_text())
    assert page.index("50.0% of training rollouts") < page.index("Reinforcement")
    assert page.index("Distillation") < page.index("The student keeps 50.0")
    assert "What the policy writes" not in page


def test_a_stage_whose_teacher_is_still_writing_has_a_page(tmp_path: Path):
    distilled(tmp_path / "run")
    (tmp_path / "run" / "distill" / "metrics.jsonl").unlink()
    page = text_of(write_report(tmp_path / "run").read_text())
    assert "distillation: no step of the student yet" in page


def test_an_error_of_another_stage_is_not_on_the_page_of_the_distillation(tmp_path: Path):
    run = RunFolder(tmp_path / "run")
    distilled(run.root)
    run.traceback.write_text("ValueError: too hot\n")
    assert "too hot" in text_of(write_report(run.distill).read_text())
    with run.starts.open("a") as file:
        file.write(json.dumps(json.loads(run.starts.read_text()) | {"stage": "train"}) + "\n")
    assert "too hot" not in text_of(write_report(run.distill).read_text())
    assert "too hot" in text_of(write_report(run.root).read_text())


def test_a_folder_without_metrics_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no metrics\.jsonl"):
        write_report(tmp_path)


def test_what_a_model_or_a_grader_writes_is_never_markup(run: RunFolder):
    attack = ATTACK
    step = {"span": [0, 6], "value": -1.0, "verdict": "refuted", "reason": attack}
    reward = {"value": 0.0, "reason": attack, "breakdown": {}}
    changes = dict.fromkeys(("question", "prompt", "reference", "problem"), attack)
    failed = {"reward": None, "ungraded": {"failure": "crash", "reason": attack}}
    rows = [sample(1, attack, step, reward=reward, **changes), sample(2, attack, **failed)]
    write_lines(run.samples, rows)

    page = write_report(run.root).read_text()

    tags = elements(page)
    assert not [tag for tag, _ in tags if tag in ("script", "img", "iframe", "link", "object")]
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    # Shown as text: question, completion, reason of the step, reason of the reward, reference,
    # problem; then completion and reason of the second (its question is 1+1).
    assert text_of(page).count("<script>alert(1)</script>") == 8


def test_what_a_distillation_read_from_its_files_is_never_markup(tmp_path: Path):
    distilled(tmp_path)
    page = write_report(tmp_path).read_text()
    tags = elements(page)
    assert not [tag for tag, _ in tags if tag in ("script", "img", "iframe", "link", "object")]
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]
    # As text: the teacher's name, a reason to drop a completion, the name in the configuration.
    assert text_of(page).count("<script>alert(1)</script>") == 3


def test_the_page_asks_for_nothing_from_elsewhere(run: RunFolder):
    write_lines(run.samples, [sample(1, "text")])
    page = write_report(run.root).read_text()
    loading = ("src", "srcset", "action", "data", "poster")
    for tag, attrs in elements(page):
        assert not [name for name in loading if name in attrs], tag
        for name in ("href", "xlink:href"):
            assert attrs.get(name, "#").startswith("#"), tag
    assert "@import" not in page
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "default-src 'none'" in page


def test_ids_are_unique_though_many_charts_are_on_the_page(run: RunFolder):
    tags = elements(write_report(run.root).read_text())
    ids = [attrs["id"] for _, attrs in tags if "id" in attrs]
    assert ids
    assert len(ids) == len(set(ids))
    for _, attrs in tags:
        for name in ("xlink:href", "clip-path"):
            if name in attrs:
                assert attrs[name].removeprefix("url(").rstrip(")").removeprefix("#") in ids


def test_early_and_late_samples_stand_side_by_side(run: RunFolder):
    rows = [sample(1, "early text"), sample(2, "middle text"), sample(9, "late text")]
    rows.append(sample(9, "x", reward=None, ungraded={"failure": "timeout", "reason": "5 s"}))
    write_lines(run.samples, rows)
    page = text_of(write_report(run.root).read_text())
    assert page.index("Early: step 1") < page.index("early text") < page.index("Late: step 9")
    assert page.index("Late: step 9") < page.index("late text")
    assert "middle text" not in page
    assert "could not grade (timeout): 5 s" in page


def test_a_verdict_is_told_by_mark_and_words_not_by_colour_alone(run: RunFolder):
    steps = [
        {"span": [0, 1], "value": 0.0, "verdict": "verified", "reason": "same value"},
        {"span": [2, 3], "value": -1.0, "verdict": "refuted", "reason": "3, but 4"},
        {"span": [4, 5], "value": 0.0, "verdict": "unchecked", "reason": ""},
    ]
    write_lines(run.samples, [sample(1, "a b c", *steps)])
    page = text_of(write_report(run.root).read_text())
    assert "✓averified: same value" in page
    assert "✗brefuted: 3, but 4" in page
    assert "?cunchecked" in page


def test_unreadable_lines_are_counted_on_the_page(run: RunFolder):
    with run.metrics.open("a") as file:
        file.write('{"step": 3, "loss')  # the process was killed while it wrote
    page = text_of(write_report(run.root).read_text())
    assert "1 line of metrics.jsonl could not be read" in page
    assert "2 of 3 steps" in page


def test_a_configuration_of_another_version_does_not_stop_the_report(run: RunFolder):
    run.config.write_text(run.config.read_text() + "\n[retired]\nkey = 1\n")
    page = text_of(write_report(run.root).read_text())
    assert "another version of cotree: retired: unknown key" in page
    assert "[retired]" in page


def test_a_start_that_failed_is_told(run: RunFolder):
    run.traceback.write_text(
        "Traceback (most recent call last):\n  ...\nValueError: <b>too hot</b>\n"
    )
    page = text_of(write_report(run.root).read_text())
    assert "The last start ended in an error: ValueError: <b>too hot</b>" in page


def test_the_report_tells_code_machine_and_configuration(run: RunFolder):
    page = text_of(write_report(run.root).read_text())
    start = json.loads(run.starts.read_text())
    assert start["code"]["path"] in page
    assert start["machine"]["processor"] in page
    assert "learning_rate = 0.0001" in page
    assert "1.58 M parameters" in page


def test_pieces_joined_are_the_text_even_where_spans_are_odd():
    text = "0123456789"
    spans = [(2, 4), (3, 6), (6, 6), (8, 99)]  # overlapping, empty, past the end
    steps = [
        {"span": list(span), "verdict": "refuted", "reason": str(i)} for i, span in enumerate(spans)
    ]
    cut = pieces(text, steps)
    assert "".join(piece.text for piece in cut) == text
    assert [(p.text, p.verdict) for p in cut] == [
        ("01", ""),
        ("23", "refuted"),
        ("45", "refuted"),
        ("67", ""),
        ("89", "refuted"),
    ]

"""Tests for grpo/evaluation/page.py: wrong answers come first, and nothing a model wrote runs."""

import html
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import CUT, RIGHT, SILENT, UNGRADED, WRONG, record, sampled, summary
from pages import elements

from cotree.grpo.evaluation import page as page_module
from cotree.grpo.evaluation.page import (
    FILTERS,
    PageTable,
    Piece,
    chosen,
    outcome,
    thinking_apart,
    write_page,
)
from cotree.grpo.evaluation.records import BenchmarkSummary, ProblemRecord

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = '</pre><script>alert("x")</script><img src=x onerror=alert(1)>'
ONE_OF_EACH = [
    record(0, RIGHT),
    record(1, WRONG),
    record(2, SILENT),
    record(3, CUT),
    record(4, UNGRADED),
]


def text_of(page: str) -> str:
    body = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def written(
    folder: Path,
    records: Sequence[ProblemRecord],
    found: BenchmarkSummary | None = None,
    **options: object,
) -> str:
    found = found or summary()
    target = folder / "report.html"
    write_page(
        target,
        [found],
        {found.benchmark: records},
        model="Qwen/Qwen3-0.6B",
        facts={"Sampling": "greedy"},
        **options,
    )
    return target.read_text()


def articles(page: str) -> list[tuple[str, set[str]]]:
    """(id, classes) of the problems, in the order of the page."""
    return [
        (found["id"], set(found["class"].split()))
        for tag, found in elements(page)
        if tag == "article"
    ]


# --- what the page says


def test_the_page_has_the_numbers_and_the_problems(tmp_path: Path):
    page = written(tmp_path, ONE_OF_EACH)
    text = text_of(page)
    assert "62.5 % (58.1 to 66.7) right. Solved: 1 of 5 problems; not solved: 3." in text
    assert "Sampling greedy" in text
    assert "fingerprint 3f9a1c0b prompt.style boxed prompt.examples 4" in text
    assert "strict" in text
    assert "pass@" not in text.replace("avg@k = pass@1", "")
    assert "too large" in text
    assert len(articles(page)) == 5


def test_several_samples_bring_curves_and_counts(tmp_path: Path):
    page = written(tmp_path, [record(0, RIGHT, WRONG, WRONG, SILENT)], sampled())
    text = text_of(page)
    assert "1 of 4 right" in text
    assert "reference 42 answers 17 ✗ × 2 42 ✓ × 1 no answer ✗ × 1" in text
    assert "pass@4 50.0 %" in text
    assert "4 50.0 % (30.0 to 70.0) 30.0 % (10.0 to 50.0)" in text
    assert "standard error of 2.0 points" in text
    assert "strict" not in text


def test_wrong_problems_come_first_and_are_the_ones_shown(tmp_path: Path):
    page = written(tmp_path, ONE_OF_EACH)
    assert [name for name, _ in articles(page)] == [
        f"problem-1-{index}" for index in (1, 2, 3, 4, 0)
    ]
    checked = [found["id"] for tag, found in elements(page) if "checked" in found]
    assert checked == ["filter-1-wrong"]


def test_without_wrong_problems_others_are_shown(tmp_path: Path):
    page = written(tmp_path, [record(0, RIGHT)])
    checked = [found["id"] for tag, found in elements(page) if "checked" in found]
    assert checked == ["filter-1-right"]


def test_every_filter_has_a_rule_and_a_label(tmp_path: Path):
    page = written(tmp_path, [record(0, RIGHT, WRONG)], sampled())
    labels = {found["for"] for tag, found in elements(page) if tag == "label"}
    assert labels == {f"filter-1-{name}" for name in FILTERS}
    for name in FILTERS.keys() - {"all"}:
        rule = f".show-{name}:checked ~ .problems > .problem:not(.is-{name}) {{ display: none; }}"
        assert rule in page


def test_a_problem_has_the_class_of_every_filter_that_shows_it(tmp_path: Path):
    found = dict(articles(written(tmp_path, ONE_OF_EACH)))
    classes = {
        name: {c.removeprefix("is-") for c in of if c.startswith("is-")}
        for name, of in found.items()
    }
    assert classes == {
        "problem-1-0": {"right"},
        "problem-1-1": {"wrong"},
        "problem-1-2": {"wrong", "no-answer"},
        "problem-1-3": {"wrong", "no-answer", "truncated"},
        "problem-1-4": {"ungraded"},
    }


def test_a_filter_without_problems_cannot_be_chosen(tmp_path: Path):
    page = written(tmp_path, [record(0, WRONG)])
    disabled = {found["id"] for tag, found in elements(page) if "disabled" in found}
    assert disabled == {f"filter-1-{n}" for n in ("right", "no-answer", "truncated", "ungraded")}


def test_the_problems_left_out_are_counted_and_found(tmp_path: Path):
    records = [record(i, RIGHT) for i in range(4)] + [record(i, WRONG) for i in range(4, 7)]
    page = written(tmp_path, records, most_problems=3)
    assert [name for name, _ in articles(page)] == [f"problem-1-{i}" for i in (4, 5, 6)]
    assert (
        "This page has 3 of 7 problems, wrong ones first. The other 4 are not shown; they are in "
        "samples_gsm8k.jsonl ." in text_of(page)
    )
    assert "Right 0 of 4" in text_of(page)
    assert "not shown" not in text_of(written(tmp_path, records))


def test_a_page_stays_small_enough_to_open(tmp_path: Path):
    # 40 problems of 1 million characters each: only the first 16 or so fit.
    long = [record(i, replace(WRONG, text="x" * 1_000_000)) for i in range(40)]
    page = written(tmp_path, long)
    assert len(page) < 1.3 * page_module.MOST_CHARACTERS
    assert "This page has 16 of 40 problems" in text_of(page)


def test_of_many_samples_different_answers_are_shown(tmp_path: Path):
    others = [replace(WRONG, answer=str(i), text=f"guess {i}") for i in range(10, 20)]
    samples = [WRONG] * 20 + others + [RIGHT]
    assert chosen(samples, 4) == [0, 20, 21, 30]  # the right one is among them
    assert chosen(samples[:3], 4) == [0, 1, 2]
    page = text_of(written(tmp_path, [record(5, *samples)], sampled(k=31)))
    assert "8 of 31 samples, different answers first" in page
    assert "samples_gsm8k" not in page
    assert "samples_aime.jsonl , doc_id 5" in page


def test_further_tables_are_shown(tmp_path: Path):
    table = PageTable("Against <b>ase", ["benchmark", "difference"], [["gsm8k", "+3.1"]], "Paired.")
    text = text_of(written(tmp_path, [record(0, WRONG)], tables=[table]))
    assert "Against <b>ase benchmark difference gsm8k +3.1 Paired." in text


def test_summaries_and_records_must_be_of_the_same_benchmarks(tmp_path: Path):
    with pytest.raises(ValueError, match=r"\['gsm8k'\].*\['aime'\]"):
        write_page(tmp_path / "r.html", [summary()], {"aime": []}, model="m", facts={})


# --- what a model wrote


def test_nothing_a_model_wrote_becomes_markup(tmp_path: Path):
    nasty = replace(WRONG, text=NASTY, answer=NASTY, reason=NASTY)
    found = replace(record(0, nasty, question=NASTY), id=NASTY, reference=NASTY, prompt=NASTY)
    page = written(tmp_path, [found], summary(parts={NASTY: NASTY}))
    assert "<script" not in page
    assert "<img" not in page
    assert page.count(html.escape(NASTY, quote=False).replace('"', "&#34;")) >= 8
    assert elements(page)


def test_a_lone_surrogate_does_not_lose_the_page(tmp_path: Path):
    assert r"half \ud83d" in written(tmp_path, [record(0, replace(WRONG, text="half \ud83d"))])


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path):
    page = written(tmp_path, [record(0, RIGHT, WRONG)], sampled())
    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    for tag, attributes in elements(page):
        assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base", "form")
        assert not [name for name in attributes if name.startswith("on") or name == "src"]
        assert attributes.get("href", "#").startswith("#")
    assert not re.findall(r"https?:|url\(|@import", page)


def test_ids_are_unique_and_labels_lead_somewhere(tmp_path: Path):
    names = ("one", "two")
    write_page(
        tmp_path / "report.html",
        [sampled(name) for name in names],
        {name: [record(i, RIGHT, WRONG) for i in range(3)] for name in names},
        model="m",
        facts={},
    )
    tags = elements((tmp_path / "report.html").read_text())
    ids = [found["id"] for _, found in tags if "id" in found]
    assert len(ids) == len(set(ids))
    for _, found in tags:
        targets = [found.get("for"), found.get("aria-labelledby"), found.get("href", "")[1:]]
        assert all(target in ids for target in targets if target)


# --- parts


def test_the_outcome_of_a_problem_is_that_of_its_graded_samples():
    assert outcome(record(0, RIGHT, UNGRADED)) == "right"
    assert outcome(record(0, WRONG, SILENT)) == "wrong"
    assert outcome(record(0, WRONG, RIGHT)) == "mixed"
    assert outcome(record(0, UNGRADED)) == "ungraded"


@pytest.mark.parametrize(
    ("text", "unfinished", "pieces"),
    [
        ("so 42", False, [Piece("so 42", False)]),
        ("", False, []),
        (
            "<think>a</think>\n\nso",
            False,
            [Piece("<think>a</think>\n\n", True), Piece("so", False)],
        ),
        ("a</think>so", False, [Piece("a</think>", True), Piece("so", False)]),
        ("ok <think>a", True, [Piece("ok ", False), Piece("<think>a", True)]),
        ("a", True, [Piece("a", True)]),
        ("<think>a<think>b", True, [Piece("<think>a<think>b", True)]),
        (
            "<think>a</think>b<think>c</think>",
            False,
            [
                Piece("<think>a</think>", True),
                Piece("b", False),
                Piece("<think>c</think>", True),
            ],
        ),
    ],
)
def test_thinking_is_set_apart(text: str, unfinished: bool, pieces: list):
    found = thinking_apart(text, unfinished=unfinished)
    assert found == pieces
    assert "".join(piece.text for piece in found) == text


def test_long_thinking_is_folded_and_unfinished_thinking_is_not(tmp_path: Path):
    long = "<think>" + "a" * page_module.LONG_THINKING
    finished = replace(WRONG, text=f"{long}</think>so 17")
    assert '<details class="thinking">' in written(tmp_path, [record(0, finished)])
    unfinished = replace(CUT, text=long)
    page = written(tmp_path, [record(0, unfinished)])
    assert '<details class="thinking">' not in page
    assert "unfinished thinking" in page


# --- in a browser


def seen_by_a_browser(page: str, folder: Path, filters: Sequence[str]) -> list[list[str]]:
    """Ids of the problems shown at first, and after a click on each of the filters.

    The browser gets a copy of the page that allows one script of ours, which clicks and looks.
    """
    assert CHROMIUM
    look = (
        "<script>const look = () => [...document.querySelectorAll('article')]"
        ".filter(a => getComputedStyle(a).display !== 'none').map(a => a.id).join();"
        "const seen = [look()];"
        f"for (const id of {list(filters)}) {{"
        " document.querySelector(`label[for=${id}]`).click(); seen.push(look()); }"
        "document.body.dataset.seen = seen.join(';')</script>"
    )
    copy = folder / "copy.html"
    copy.write_text(
        re.sub(r"<meta http-equiv[^>]*>", "", page).replace("</body>", look + "</body>")
    )
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"]
    command += ["--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command += ["--disable-sync", f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, copy.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    (seen,) = re.findall(r'data-seen="([^"]*)"', done.stdout)
    return [ids.split(",") for ids in seen.split(";")]


@pytest.mark.skipif(not CHROMIUM, reason="no chromium on the PATH to look at the page with")
def test_a_browser_hides_right_answers_until_a_filter_shows_them(tmp_path: Path):
    page = written(tmp_path, ONE_OF_EACH)
    shown = {
        "filter-1-right": [0],
        "filter-1-no-answer": [2, 3],
        "filter-1-truncated": [3],
        "filter-1-ungraded": [4],
        "filter-1-all": [1, 2, 3, 4, 0],
        "filter-1-wrong": [1, 2, 3],
    }
    seen = seen_by_a_browser(page, tmp_path, list(shown))
    expected = [[1, 2, 3], *shown.values()]
    assert seen == [[f"problem-1-{index}" for index in indices] for indices in expected]

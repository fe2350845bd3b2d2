"""Tests for grpo/searching/curves_page.py: what the page says, and that nothing on it runs."""

import html
import itertools
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pages import elements

from cotree.grpo.evaluation.records import Estimate
from cotree.grpo.searching.anytime import Anytime, Run
from cotree.grpo.searching.curves import Point
from cotree.grpo.searching.curves_compared import Comparison, compared
from cotree.grpo.searching.curves_page import (
    Chart,
    JudgeQuality,
    apart,
    chart,
    flops_text,
    write_page,
)

NASTY = '"/></svg><script>alert("x")</script><img src=x onerror=alert(1)>'
JUDGE = JudgeQuality("countdown", Estimate(0.96, 0.94, 0.98), Estimate(0.004, 0.0, 0.01), "traces")


def run(name: str, first: int, **changes: object) -> Run:
    """20 problems; each is right from `first` tokens on, every second one from twice as many."""
    problems = {f"{i:02}": [Anytime(1024, ((first * (1 + i % 2), True),))] for i in range(20)}
    return Run(name, problems, budget=1024, **changes)


def comparison(*runs: Run, **changes: object) -> Comparison:
    runs = runs or (run("majority", 256), run("mcts", 64))
    settings = {"baseline": runs[0].name, "oracles": {}, "parameters": None, "seed": 0}
    return compared(runs, **{**settings, **changes})


def written(folder: Path, found: Comparison, **changes: object) -> str:
    settings = {"title": "Qwen3 on countdown", "facts": {"Task": "countdown"}, "judge": None}
    target = folder / "curves.html"
    write_page(target, found, **{**settings, **changes})
    assert [path.name for path in folder.iterdir()] == ["curves.html"]
    return target.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    body = re.sub(r"<style.*?</style>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def drawn(found: Comparison) -> Chart:
    return chart(found, {place: one.points for place, one in enumerate(found.runs)})


# --- what the page says


def test_the_page_has_the_headline_the_curves_and_the_differences(tmp_path: Path):
    page = written(tmp_path, comparison(), judge=JUDGE)
    text = text_of(page)
    assert "Problems 20, which all runs have Baseline majority" in text
    # mcts is always right from 128 tokens on, majority from 512.
    assert "mcts reaches majority's best accuracy (100.0 %, at 512 tokens) with 0.25" in text
    assert "Paired differences from majority" in text
    # At 128 tokens all 20 problems are right against none.
    assert "128 +100.0 (+100.0 to +100.0) p < 0.001 · 20 : 0" in text
    assert "1,024 no problem differs" in text
    assert "recall 96.0 % (94.0 to 98.0) of the wrong completions have a refuted step" in text
    assert len([tag for tag, _ in elements(page) if tag == "svg"]) == 1


def test_what_was_not_measured_is_not_on_the_page(tmp_path: Path):
    text = text_of(written(tmp_path, comparison()))
    assert "The judge by itself" not in text
    assert "Oracle: pass@tokens" not in text
    assert "The oracle: not all finished completions were graded." in text
    assert "FLOPs are not known here" in text
    assert "seconds" not in text


def test_oracle_flops_and_seconds_are_shown_where_they_are_known(tmp_path: Path):
    runs = run("majority", 256, prompt_tokens=976.0, seconds=2.5), run("mcts", 64)
    found = comparison(*runs, oracles={"mcts": run("mcts", 32)}, parameters=10**9)
    page = written(tmp_path, found)
    text = text_of(page)
    assert "Oracle: pass@tokens" in text
    assert "4 T 2.5 0 mcts" in text  # 2 * 10^9 * (1,024 + 976)
    assert "– – 0" in text
    assert len([tag for tag, _ in elements(page) if tag == "svg"]) == 2


def test_a_run_alone_is_a_curve_without_differences(tmp_path: Path):
    text = text_of(written(tmp_path, comparison(run("majority", 256))))
    assert "majority 100.0 %" in text
    assert "Paired differences" not in text


def test_the_page_asks_for_nothing_and_runs_nothing(tmp_path: Path):
    tags = elements(written(tmp_path, comparison()))
    assert not {"script", "link", "img", "iframe"} & {tag for tag, _ in tags}
    assert not {"src", "href", "style"} & {name for _, found in tags for name in found}
    policy = next(found["content"] for tag, found in tags if "http-equiv" in found)
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_hostile_names_are_text(tmp_path: Path):
    found = comparison(run(NASTY, 256), run(NASTY + "\ud800", 64))
    page = written(
        tmp_path, found, title=NASTY, facts={NASTY: NASTY}, judge=replace(JUDGE, name=NASTY)
    )
    tags = elements(page)
    assert not {"script", "img"} & {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert text_of(page).count(NASTY) > 5


# --- drawing


def test_budgets_are_on_a_logarithmic_axis():
    found = drawn(comparison())
    assert [tick.label for tick in found.x_ticks] == ["64", "128", "256", "512", "1,024"]
    gaps = [b.at - a.at for a, b in itertools.pairwise(found.x_ticks)]
    assert gaps == pytest.approx([gaps[0]] * 4, abs=0.2)
    assert (found.x_ticks[0].at, found.x_ticks[-1].at) == (found.left, found.right)


def test_numbers_on_a_long_axis_do_not_run_into_each_other():
    late = run("late", 2)
    long = replace(late, budget=2**21)
    ticks = drawn(comparison(long)).x_ticks
    assert min(b.at - a.at for a, b in itertools.pairwise(ticks)) >= 54
    assert ticks[-1].label == "2,097,152"


def test_a_curve_goes_from_its_first_budget_to_its_end():
    short = replace(run("short", 64), problems={f"{i:02}": [Anytime(512, ())] for i in range(20)})
    found = drawn(comparison(run("majority", 256), replace(short, budget=512)))
    whole, cut = found.curves
    assert whole.end[0] == found.right
    assert cut.end == (found.x_ticks[-2].at, found.bottom)  # never right
    assert whole.end[1] < cut.end[1]
    # From 256, half of the shorter run: 256, 512 and 1,024 have marks, 362 and 724 have none.
    assert len(whole.marks) == 3
    assert len(whole.line.split()) == 5
    assert len(whole.band.split()) == 10


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.0, 1.0, ["0 %", "20 %", "40 %", "60 %", "80 %", "100 %"]),
        (0.31, 0.47, ["30 %", "35 %", "40 %", "45 %", "50 %"]),
        (1.0, 1.0, ["98 %", "100 %"]),
        (0.0, 0.0, ["0 %", "2 %"]),
    ],
)
def test_the_vertical_axis_covers_the_intervals(low: float, high: float, labels: list[str]):
    found = comparison(run("majority", 256))
    points = [Point(budget, Estimate(low, low, high)) for budget in found.budgets]
    assert [tick.label for tick in chart(found, {0: points}).y_ticks] == labels


def test_many_runs_differ_by_colour_dashes_or_mark():
    found = drawn(comparison(*(run(f"run {i}", 64 + i) for i in range(12))))
    assert len({(one.color, one.dashes, one.mark) for one in found.curves}) == 12
    assert found.curves[1].label == "run 1"


def test_long_names_are_cut_beside_the_curve():
    (one,) = drawn(comparison(run("a-name-that-is-far-too-long", 64))).curves
    assert one.label == "a-name-that-is-far-…"  # 20 characters


@given(st.lists(st.floats(14, 284), min_size=1, max_size=12))
def test_labels_keep_their_order_do_not_touch_and_stay_inside(ys: list[float]):
    placed = apart(ys)
    assert min(placed) >= 14 - 1e-9
    assert max(placed) <= 284 + 1e-9
    order = sorted(range(len(ys)), key=lambda i: ys[i])
    assert all(placed[b] - placed[a] >= 19 - 1e-9 for a, b in itertools.pairwise(order))


def test_labels_that_are_far_apart_stay_where_they_are():
    assert apart([100.0, 20.0, 60.0]) == [100.0, 20.0, 60.0]


def test_operations_are_written_in_steps_of_a_thousand():
    numbers = [5e8, 2e9, 1.234e13, 5e15, 7e18]
    assert [flops_text(one) for one in numbers] == ["5e+08", "2 G", "12.3 T", "5 P", "7 E"]

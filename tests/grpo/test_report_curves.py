"""Tests for grpo/report_curves.py and report_charts.py: what is drawn from which measurements."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from cotree.grpo.report_charts import Chart, Interval, draw, summary, trailing_mean
from cotree.grpo.report_curves import evaluations, phase_table, supervised_charts, training_charts


def charts_of(rows):
    charts = training_charts(rows, held_back=evaluations(rows, {}), rollouts_per_round=10)
    return {chart.title: chart for chart in charts}


def test_absent_measurements_give_no_chart():
    assert set(charts_of([{"step": 1, "loss": 0.5}])) == {"Loss"}
    assert supervised_charts([]) == []


def test_null_is_a_gap_in_the_curve():
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None}, {"step": 3, "loss": 2.0}]
    assert charts_of(rows)["Loss"].curves == {"": [(1, 1.0), (3, 2.0)]}


def test_a_single_reward_term_is_not_drawn_twice():
    row = {"step": 1, "reward/mean": 1.0, "reward/answer": 1.0}
    assert list(charts_of([row])["Reward"].curves) == ["total"]
    row |= {"reward/format": 0.5}
    assert list(charts_of([row])["Reward"].curves) == ["total", "answer", "format"]


def test_shares_that_were_left_out_have_their_own_denominators():
    # 3 kept + 1 constant groups; 2 + 3 failures of 10 rollouts a round in 2 rounds.
    row = {
        "step": 1,
        "groups/kept": 3,
        "groups/constant": 1,
        "ungraded/timeout": 2,
        "ungraded/crash": 3,
        "sampling/rounds": 2,
        "status/no_answer_frac": 0.125,
    }
    left_out = charts_of([row])["Left out, cut short or unanswered"].curves
    assert left_out == {
        "no answer": [(1, 0.125)],
        "groups with equal rewards": [(1, 0.25)],
        "could not be graded": [(1, 0.25)],
    }


def test_staleness_is_drawn_only_when_there_is_any():
    assert "Staleness" not in charts_of([{"step": 1, "staleness": 0}])
    assert "Staleness" in charts_of([{"step": 1, "staleness": 0}, {"step": 2, "staleness": 1}])


def test_each_benchmark_has_a_chart_of_its_own():
    keys = {"accuracy": 0.5, "low": 0.4, "high": 0.6, "no_answer_frac": 0.1}
    row = {"step": 5, "eval/accuracy": 0.9, "eval/low": 0.8, "eval/high": 1.0}
    row |= {f"eval/gsm8k/{key}": value for key, value in keys.items()}
    chart = charts_of([row])["Benchmark gsm8k"]
    assert chart.intervals == [Interval(5, 0.5, 0.4, 0.6)]
    assert "gsm8k 50" in summary(chart)
    assert charts_of([row])["Accuracy"].intervals == [Interval(5, 0.9, 0.8, 1.0)]


def test_evaluations_before_and_after_come_from_the_result():
    rows = [{"step": 5, "eval/accuracy": 0.5, "eval/low": 0.4, "eval/high": 0.6}]
    result = {
        "steps": 9,
        "accuracy_before": {"value": 0.2, "low": 0.1, "high": 0.3, "n": 50},
        "accuracy_after": {"value": 0.8, "low": 0.7, "high": 0.9, "n": 50},
    }
    assert evaluations(rows, result) == [
        Interval(0, 0.2, 0.1, 0.3),
        Interval(5, 0.5, 0.4, 0.6),
        Interval(9, 0.8, 0.7, 0.9),
    ]


def test_the_phase_table_adds_up():
    rows = [
        {"step": 1, "seconds/learn": 4, "seconds/generate": 2, "seconds/step": 8},
        {"step": 2, "seconds/learn": 6, "seconds/generate": 2, "seconds/step": 10},
        {"step": 3, "seconds/learn": 5, "seconds/generate": 2, "seconds/step": 8},
    ]
    rows[1] |= {"seconds/evaluate": 4, "tokens_per_second/learn": 100}
    table = phase_table(rows)
    # Measured: generate 6, learn 15, evaluate 4 (outside of the step), and of the steps' 26
    # seconds 26 - 21 = 5 that no phase accounts for: 30 in all.
    assert [row["name"] for row in table] == ["generate", "learn", "evaluate", "rest"]
    assert [row["seconds"] for row in table] == [2, 5, 4, pytest.approx(5 / 3)]
    shares = [row["share"] for row in table]
    assert shares == pytest.approx([6 / 30, 15 / 30, 4 / 30, 5 / 30])
    assert [row["rate"] for row in table] == [None, 100, None, None]


def test_a_teacher_is_asked_between_grading_and_learning():
    row = {"step": 1} | {f"seconds/{name}": 1.0 for name in ("learn", "teach", "sync", "grade")}
    assert [one["name"] for one in phase_table([row])] == ["grade", "teach", "learn", "sync"]


def test_a_trailing_mean_never_looks_ahead():
    assert trailing_mean([1.0, 3.0, 5.0, 9.0], window=2) == [1.0, 2.0, 4.0, 7.0]


def test_the_summary_gives_first_and_last_tenth():
    # 20 points: a tenth is 2. (0 + 1) / 2 = 0.5 and (18 + 19) / 2 = 18.5.
    chart = Chart("t", "u", {"a": [(i, float(i)) for i in range(20)]})
    assert summary(chart) == "a 0.5 → 18.5"
    space = "\N{NO-BREAK SPACE}"
    evaluated = Chart("t", "u", {}, intervals=[Interval(1, 0.5, 0.4, 0.6)], percent=True)
    assert summary(evaluated) == f"held-back 50{space}% (40{space}% to 60{space}%)"


@pytest.mark.parametrize(
    "chart",
    [
        Chart("one point", "nats", {"a": [(1, 2.0)]}),
        Chart("many points", "nats", {"a": [(i, i * 0.1) for i in range(60)]}),
        Chart("zeros on a log axis", "nats", {"a": [(1, 0.0), (2, 1.0)]}, log=True),
        Chart("bars with gaps", "s", {"a": [(1, 1.0), (9, 2.0)], "b": [(9, 1.0)]}, stacked=True),
        Chart("one bar", "s", {"a": [(1, 1.0)]}, stacked=True),
        Chart("intervals alone", "x", {}, intervals=[Interval(0, 0.5, 0.4, 0.6)], percent=True),
        Chart("odd names", "u", {"$a_b$ <i>&": [(1, 1.0), (2, 2.0)], "c": [(1, 1.0)]}),
    ],
    ids=lambda chart: chart.title,
)
def test_every_chart_is_well_formed_and_takes_its_colours_from_the_page(chart: Chart):
    svg = draw(chart, name="x1")
    texts = [e.text for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]
    assert not re.findall(r"#[0-9a-fA-F]{6}", svg)
    assert "var(--series-0)" in svg
    assert chart.unit in texts
    assert all(label in texts for label in chart.curves)


def test_a_chart_is_the_same_each_time_it_is_drawn():
    chart = Chart("t", "u", {"a": [(1, 1.0), (2, 3.0)]})
    assert draw(chart, name="x") == draw(chart, name="x")

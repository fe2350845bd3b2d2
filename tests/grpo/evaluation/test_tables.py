"""Tests for grpo/evaluation/tables.py: what a terminal and a log show."""

import io

import pytest
from evaluated import sampled, summary
from rich.console import Console

from cotree.grpo.evaluation.records import BenchmarkSummary, Estimate
from cotree.grpo.evaluation.tables import at_k, plain_lines, summary_table, with_interval


def shown(*summaries: BenchmarkSummary, width: int = 100) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(summary_table(summaries))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_estimate_is_shown_with_its_interval():
    assert with_interval(Estimate(0.625, 0.581, 0.667)) == "62.5 % (58.1 to 66.7)"


def test_columns_that_say_nothing_are_left_out():
    page = shown(summary())
    assert "62.5 % (58.1 to 66.7)" in page
    assert "strict" in page
    assert "pass@" not in page
    assert "maj@" not in page
    assert "graded" not in page
    assert "strict" not in shown(sampled())


def test_a_benchmark_with_one_sample_has_no_value_under_pass_at_k():
    row = shown(summary("gsm8k"), sampled("aime")).splitlines()[-2]
    assert row.split() == [
        "gsm8k", "200", "1", "62.5", "%", "(58.1", "to", "66.7)", "50.0", "%", "1.2", "%",
        "3.4", "%", "512",
    ]  # fmt: skip


@pytest.mark.parametrize("width", [80, 100])
def test_no_number_is_cut_with_every_column_present(width: int):
    page = shown(
        summary("math_500", n=199, num_total=1319, ungraded=3),
        sampled("aime_2024", ungraded=12),
        width=width,
    )
    assert "…" not in page
    assert "199/1319" in page
    assert "aime_2024" in page
    assert all(len(line) <= width for line in page.splitlines())


def test_ungraded_samples_are_named_below_the_table():
    page = shown(summary("gsm8k", ungraded=3), sampled("aime"))
    assert "could not be graded: 3 of gsm8k" in page


def test_a_benchmark_name_is_no_markup():
    assert "[bold]mine" in shown(summary("[bold]mine"))
    assert "3 of [bold]mine" in shown(summary("[bold]mine", ungraded=3))


def test_a_header_names_k_when_all_benchmarks_share_it():
    assert at_k("pass", [summary(), sampled(k=4), sampled(k=4)]) == "pass@4"
    assert at_k("pass", [sampled(k=4), sampled(k=8)]) == "pass@k"


def test_a_log_line_is_complete_by_itself():
    assert plain_lines([summary()]) == [
        "gsm8k: accuracy 62.5 % (58.1 to 66.7), 200 problems, strict 50.0 %, no answer 1.2 %, "
        "truncated 3.4 %, 512 tokens a sample"
    ]
    assert plain_lines([sampled(n=28, ungraded=8)]) == [
        "aime: accuracy 62.5 % (58.1 to 66.7), 28 of 30 problems x 4 samples, pass@4 50.0 %, "
        "maj@4 30.0 %, no answer 1.2 %, truncated 3.4 %, not graded 8, 512 tokens a sample"
    ]


def test_pass_at_k_without_a_value_is_a_dash():
    # Every problem has a sample that could not be graded: none has all 4.
    once = {1: Estimate(0.25, 0.1, 0.4)}
    summaries = [sampled(ungraded=30, pass_at=once, maj_at=once)]
    assert "pass@4 –, maj@4 –" in plain_lines(summaries)[0]
    assert "pass@4" in shown(*summaries)

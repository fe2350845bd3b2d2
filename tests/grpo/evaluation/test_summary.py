"""Tests for grpo/evaluation/summary.py, against numbers worked out by hand in the comments."""

from dataclasses import replace

import pytest
from evaluated import CUT, RIGHT, SILENT, UNGRADED, WRONG, record

from cotree.grpo.evaluation.fingerprint import digest
from cotree.grpo.evaluation.summary import NothingGradedError, summarize

PARTS = {"benchmark": {"name": "gsm8k", "version": 3}, "data": {"checksum": "x"}}


def test_the_numbers_of_a_small_benchmark():
    # Problem 0: 2 of 4 right, answers 42 42 17 17. Problem 1: 0 of 4, answers 17 - - - (one cut).
    records = [record(0, RIGHT, WRONG, RIGHT, WRONG), record(1, WRONG, SILENT, CUT, SILENT)]
    found = summarize(records, parts=PARTS, num_total=9)
    assert (found.benchmark, found.version, found.n, found.num_total, found.k) == (
        "gsm8k", 3, 2, 9, 4,
    )  # fmt: skip
    assert found.avg.value == pytest.approx((2 / 4 + 0) / 2)
    # pass@2 of problem 0: 1 - C(2,2) / C(4,2) = 5/6; of problem 1: 0. pass@4: 1 and 0.
    assert list(found.pass_at) == [1, 2, 4]
    assert found.pass_at[2].value == pytest.approx(5 / 12)
    assert found.pass_at[4].value == pytest.approx(1 / 2)
    # maj@4 of problem 0 is a tie of one right and one wrong class: 1/2. Problem 1: 0.
    assert found.maj_at[4].value == pytest.approx(1 / 4)
    # maj@2: pairs of problem 0: 42 42 (1 of 6), 17 17 (1 of 6), one of each (4 of 6, worth 1/2).
    assert found.maj_at[2].value == pytest.approx((1 / 6 + 4 / 6 / 2) / 2)
    assert found.no_answer == pytest.approx(3 / 8)
    assert found.truncated == pytest.approx(1 / 8)
    assert found.unfinished_thinking == pytest.approx(1 / 8)
    # 9 + 8 + 9 + 8 and 8 + 5 + 99 + 5 tokens.
    assert found.total_tokens == 34 + 117
    assert found.mean_tokens == pytest.approx(151 / 8)
    assert found.fingerprint == digest(PARTS)


def test_equal_answers_vote_together_however_they_are_written():
    # 0.5 and 1/2 are one answer with two votes against one for 17, so they win.
    half = replace(WRONG, answer="0.5", text="0.5"), replace(WRONG, answer=r"\frac12", text="1/2")
    right = [replace(sample, correct=True, strict=True) for sample in half]
    found = summarize([record(0, *right, WRONG)], parts=PARTS, num_total=1)
    assert found.maj_at[3].value == pytest.approx(1.0)


def test_what_could_not_be_graded_counts_neither_way():
    records = [record(0, RIGHT, UNGRADED), record(1, UNGRADED, UNGRADED), record(2, WRONG, WRONG)]
    found = summarize(records, parts=PARTS, num_total=3)
    assert (found.n, found.ungraded) == (2, 3)  # problem 1 has nothing to count
    assert found.avg.value == pytest.approx((1 + 0) / 2)
    assert found.pass_at[2].value == pytest.approx(0.0)  # only problem 2 has two graded samples


def test_a_benchmark_that_nobody_could_grade_has_no_accuracy():
    with pytest.raises(NothingGradedError, match="none of 2 samples could be graded"):
        summarize([record(0, UNGRADED, UNGRADED)], parts=PARTS, num_total=1)


def test_a_prompt_that_asks_for_no_format_has_no_strict_accuracy():
    samples = [replace(RIGHT, strict=None), replace(WRONG, strict=None)]
    assert summarize([record(0, *samples)], parts=PARTS, num_total=1).strict is None


def test_one_sample_says_nothing_about_other_runs():
    once = summarize([record(0, RIGHT), record(1, WRONG)], parts=PARTS, num_total=2)
    assert once.run_error is None
    # Twice: problem 0 varies with s^2 = 1/2, problem 1 not: sqrt(1/2 / 2) / 2 = 1/4.
    twice = summarize([record(0, RIGHT, WRONG), record(1, WRONG, WRONG)], parts=PARTS, num_total=2)
    assert twice.run_error == pytest.approx(0.25)

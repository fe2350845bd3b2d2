"""Tests for grpo/evaluation/compare.py: like with like, problem by problem."""

from pathlib import Path

import pytest
from evaluated import PARTS, RIGHT, UNGRADED, WRONG, finished, record

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.compare import compare_evaluations, holm


def test_problems_are_paired_by_their_id(tmp_path: Path):
    a = finished(tmp_path / "a", record(0, WRONG), record(1, RIGHT), record(2, WRONG))
    b = finished(tmp_path / "b", record(2, RIGHT), record(1, RIGHT), record(0, RIGHT))
    (found,) = compare_evaluations(a, b, benchmarks=(), allow=())
    assert (found.accuracy_a, found.accuracy_b) == (pytest.approx(1 / 3), 1.0)
    assert found.paired.difference == pytest.approx(2 / 3)
    assert (found.paired.num_better, found.paired.num_worse) == (2, 0)
    # McNemar: two discordant problems, both for B: 2 * (1/2)^2 = 0.5.
    assert found.paired.p_value == pytest.approx(0.5)


def test_a_problem_that_one_side_could_not_grade_is_left_out(tmp_path: Path):
    a = finished(tmp_path / "a", record(0, WRONG), record(1, UNGRADED))
    b = finished(tmp_path / "b", record(0, RIGHT), record(1, RIGHT))
    (found,) = compare_evaluations(a, b, benchmarks=(), allow=())
    assert (found.paired.n, found.accuracy_a, found.accuracy_b) == (1, 0.0, 1.0)


def test_unlike_measurements_are_refused_with_what_differs(tmp_path: Path):
    a = finished(tmp_path / "a", record(0, WRONG))
    warm = {**PARTS, "sampler": {"temperature": 0.6, "top_p": 0.95}}
    b = finished(tmp_path / "b", record(0, RIGHT), parts=warm)
    with pytest.raises(ConfigError) as caught:
        compare_evaluations(a, b, benchmarks=(), allow=["sampler.top_p"])
    assert "sampler.temperature: 0.0 in A, 0.6 in B" in str(caught.value)
    assert "top_p:" not in str(caught.value)
    (found,) = compare_evaluations(a, b, benchmarks=(), allow=["sampler"])
    assert found.unlike == ("sampler.temperature", "sampler.top_p")


def test_a_permission_without_effect_is_refused(tmp_path: Path):
    a = finished(tmp_path / "a", record(0, WRONG))
    b = finished(tmp_path / "b", record(0, RIGHT))
    with pytest.raises(ConfigError, match="--allow template has no effect"):
        compare_evaluations(a, b, benchmarks=(), allow=["template"])


def test_an_unfinished_evaluation_is_not_compared(tmp_path: Path):
    a = finished(tmp_path / "a", record(0, WRONG))
    b = finished(tmp_path / "b", record(0, RIGHT))
    (b / "results.json").unlink()
    with pytest.raises(ConfigError, match="an unfinished evaluation: --resume it first"):
        compare_evaluations(a, b, benchmarks=(), allow=())
    with pytest.raises(ConfigError, match="it holds none"):
        compare_evaluations(a, tmp_path / "c", benchmarks=(), allow=())


def test_other_problems_are_not_paired(tmp_path: Path):
    a = finished(tmp_path / "a", record(0, WRONG))
    b = finished(tmp_path / "b", record(1, RIGHT))
    with pytest.raises(ConfigError, match="are of other problems"):
        compare_evaluations(a, b, benchmarks=(), allow=())


def test_an_unknown_benchmark_is_refused(tmp_path: Path):
    a = finished(tmp_path / "a", record(0, WRONG))
    b = finished(tmp_path / "b", record(0, RIGHT))
    with pytest.raises(ConfigError, match=r"has no benchmark 'aime24'; it has gsm8k"):
        compare_evaluations(a, b, benchmarks=["aime24"], allow=())


def test_p_values_are_adjusted_for_their_number():
    # Sorted .01 .02 .04: 3 * .01 = .03; 2 * .02 = .04; 1 * .04 = .04 (never below the one before).
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.7]) == pytest.approx([1.0, 1.0])
    assert holm([0.2]) == [0.2]

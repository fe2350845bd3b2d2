"""Tests for grpo/searching/judge.py: what is said of a state comes from the question alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.benchmark import benchmark_named
from cotree.grpo.evaluation.scoring import GradingFailedError
from cotree.grpo.searching.judge import BenchmarkJudge, judged_text
from cotree.rewards.types import Verdict
from cotree.search.strategy import Question
from cotree.search.types import State

QUESTION = Question("arithmetic/0", "2+3*4")
SETTINGS = Benchmarks(names=("arithmetic",), temperature=1.0)


def state(text: str, *, is_finished: bool = False) -> State:
    return State(QUESTION, text, is_finished)


@pytest.fixture(scope="module")
def judge():
    with BenchmarkJudge(
        benchmark_named("arithmetic"), SETTINGS, value=None, prompt_opens_thinking=False
    ) as made:
        yield made


@pytest.mark.parametrize(
    ("text", "judged"),
    [
        ("<think>\n2+12\n14", "<think>\n2+12\n</think>"),  # the last line may not be complete
        ("<think>\n2+12\n", "<think>\n2+12\n</think>"),
        ("<think>\n14\n</think>\n\\boxed{1", "<think>\n14\n</think>"),  # no half an answer
        ("2+12\n14\nso", "2+12\n14\n"),  # it does not think between tags
        ("2+1", ""),
    ],
)
def test_rules_see_whole_lines_of_what_is_not_finished(text: str, judged: str):
    assert judged_text(state(text), prompt_opens_thinking=False) == judged


def test_a_prompt_that_opens_the_thinking_has_it_closed():
    assert judged_text(state("2+12\n1"), prompt_opens_thinking=True) == "2+12\n</think>"


def test_a_finished_text_is_judged_as_it_is():
    text = "<think>\n14"
    assert judged_text(state(text, is_finished=True), prompt_opens_thinking=False) == text


def test_true_steps_score_one_and_a_false_one_zero(judge: BenchmarkJudge):
    right, wrong = judge.judge([state("<think>\n2+12\n"), state("<think>\n5*4\n")])
    assert (right.score, wrong.score) == (1.0, 0.0)
    assert [step.verdict for step in right.steps] == [Verdict.VERIFIED]
    assert [step.verdict for step in wrong.steps] == [Verdict.REFUTED]
    # 2 + 3 * 4 is 14; taking the sum first gives 20.
    assert wrong.steps[0].span == (8, 11)


def test_an_unfinished_completion_is_not_refuted_for_its_missing_answer(judge: BenchmarkJudge):
    (found,) = judge.judge([state("<think>\n2+12\n14\n</think>\n")])
    assert (found.score, found.answer) == (1.0, None)


def test_a_finished_completion_needs_an_answer(judge: BenchmarkJudge):
    whole = "<think>\n2+12\n14\n</think>\n\\boxed{14}"
    with_box, without = judge.judge(
        [state(whole, is_finished=True), state("<think>\n2+12\n", is_finished=True)]
    )
    assert (with_box.answer, with_box.score) == ("14", 1.0)
    assert (without.answer, without.score) == (None, 0.0)


def test_a_wrong_answer_that_rules_cannot_see_scores_one(judge: BenchmarkJudge):
    # Every line is true to the one before, and so is the box: rules find nothing, the first line
    # having been written without the question. The reference would know; it is not there.
    del judge
    with BenchmarkJudge(
        benchmark_named("gsm8k"), SETTINGS, value=None, prompt_opens_thinking=False
    ) as words:
        (found,) = words.judge([state("2 + 2 = 4. \\boxed{4}", is_finished=True)])
    assert (found.answer, found.score) == ("4", 1.0)


def test_nothing_to_judge_is_no_call(judge: BenchmarkJudge):
    assert judge.judge([]) == []


VALUES = """
def length(completion, problem):
    assert problem.reference == ""
    return min(1.0, len(completion) / 10)

def too_much(completion):
    return 2.0
"""


def test_a_value_model_scores_what_rules_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "values.py").write_text(VALUES)
    monkeypatch.chdir(tmp_path)
    with BenchmarkJudge(
        benchmark_named("arithmetic"), SETTINGS, value="values.py:length",
        prompt_opens_thinking=False,
    ) as judge:  # fmt: skip
        short, refuted, silent = judge.judge(
            [state("<think>"), state("<think>\n5*4\n"), state("<think>1234", is_finished=True)]
        )
    assert short.score == 0.7  # seven characters of ten
    assert (refuted.score, silent.score) == (0.0, 0.0)


def test_a_value_outside_zero_and_one_stops_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "values.py").write_text(VALUES)
    monkeypatch.chdir(tmp_path)
    with (
        BenchmarkJudge(
            benchmark_named("arithmetic"), SETTINGS, value="values.py:too_much",
            prompt_opens_thinking=False,
        ) as judge,
        pytest.raises(GradingFailedError, match="returned 2 for a state"),
    ):  # fmt: skip
        judge.judge([state("<think>")])

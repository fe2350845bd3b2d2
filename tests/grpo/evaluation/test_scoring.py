"""Tests for grpo/evaluation/scoring.py: thinking is no answer, failures are no zeros."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cotree.grpo.evaluation.benchmarks import Gsm8k
from cotree.grpo.evaluation.definition import Benchmark, Row
from cotree.grpo.evaluation.records import Drawn
from cotree.grpo.evaluation.scoring import GradingFailedError, Scorer, answer_text
from cotree.rewards.registry import Term
from cotree.rewards.types import Problem

PROBLEM = Problem("p", "", "42", "gsm8k", "6 x 7?")
LIMITS = {"workers": 1, "timeout_seconds": 1.0, "max_failed_frac": 0.2}


def drawn(*texts: str) -> list[Drawn]:
    return [Drawn(text, len(text), "stop") for text in texts]


@pytest.fixture(scope="module")
def scorer() -> Iterator[Scorer]:
    with Scorer(Gsm8k(), strict_rule="boxed", **LIMITS) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "opens", "answered"),
    [
        ("42", False, "42"),
        ("<think>7</think>42", False, "42"),
        ("7</think>42", True, "42"),  # the prompt ended in <think>
        ("<think>7</think><think>8</think>42", False, "42"),
        ("<think>7", False, None),
        ("7", True, None),
        ("<think>7</think>42<think>8", False, None),  # it began again, and was cut
        ("", False, ""),
    ],
)
def test_only_what_follows_the_thinking_is_an_answer(text: str, opens: bool, answered: str | None):
    assert answer_text(text, prompt_opens_thinking=opens) == answered


def test_strict_needs_the_format_that_was_asked_for(scorer: Scorer):
    boxed, said, wrong = scorer.score(
        PROBLEM,
        drawn(r"so \boxed{42}", "The answer is 42.", r"\boxed{41}"),
        prompt_opens_thinking=False,
    )
    assert (boxed.correct, boxed.strict, boxed.answer, boxed.rule) == (True, True, "42", "boxed")
    assert (said.correct, said.strict, said.answer, said.rule) == (True, False, "42", "phrase")
    assert (wrong.correct, wrong.strict, wrong.answer) == (False, False, "41")


def test_a_box_in_an_unfinished_thought_is_no_answer(scorer: Scorer):
    (cut,) = scorer.score(
        PROBLEM, [Drawn(r"<think>perhaps \boxed{42}", 9, "length")], prompt_opens_thinking=False
    )
    assert (cut.correct, cut.answer, cut.unfinished_thinking) == (False, None, True)
    assert (cut.reason, cut.stop_reason, cut.num_tokens) == ("unfinished thinking", "length", 9)


def test_the_last_formula_of_a_completion_that_was_cut_is_no_answer(scorer: Scorer):
    text = "Then $x = 42$ and so we ta"
    ended, cut = scorer.score(
        PROBLEM,
        [Drawn("It comes to $42$", 9, "stop"), Drawn(text, 9, "length")],
        prompt_opens_thinking=False,
    )
    assert (ended.correct, ended.rule) == (True, "math")
    assert (cut.correct, cut.answer, cut.rule) == (False, None, "none")
    assert cut.reason == "cut before it marked an answer (math)"
    (marked,) = scorer.score(
        PROBLEM, [Drawn(r"so \boxed{42}. To che", 9, "length")], prompt_opens_thinking=False
    )
    assert (marked.correct, marked.strict) == (True, True)


def test_an_answer_that_cannot_be_read_is_wrong_and_told_apart(scorer: Scorer):
    (garbled,) = scorer.score(PROBLEM, drawn(r"\boxed{\frac{1}}"), prompt_opens_thinking=False)
    assert (garbled.correct, garbled.parse_error) == (False, True)


class Fragile(Benchmark):
    """Graded by a function that raises on some completions."""

    name = "fragile"

    def problem(self, row: Row, place: str, index: int) -> Problem:
        raise NotImplementedError

    def term(self, strict_rule: str | None) -> Term | None:
        return None if strict_rule else Term("fragile.py:fragile")


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fragile:
    (tmp_path / "fragile.py").write_text(
        "def fragile(completion):\n    return {'yes': 1.0, 'no': 0.0}[completion]\n"
    )
    monkeypatch.chdir(tmp_path)
    return Fragile()


def test_a_grader_that_fails_gives_no_verdict(fragile: Fragile):
    with Scorer(fragile, strict_rule="boxed", **LIMITS) as running:
        right, wrong, failed = running.score(
            PROBLEM, drawn("yes", "no", "?"), prompt_opens_thinking=False
        )
    assert (right.correct, wrong.correct, failed.correct) == (True, False, None)
    assert right.strict is None, "this benchmark has no strict grader"
    assert failed.reason.startswith("crash: KeyError")


def test_too_many_failures_end_the_evaluation(fragile: Fragile):
    with Scorer(fragile, strict_rule=None, **LIMITS) as running:
        running.score(PROBLEM, drawn(*["?"] * 5), prompt_opens_thinking=False)  # few are no share
        with pytest.raises(GradingFailedError, match=r"6 of 6 samples could not be graded; 20%"):
            running.score(PROBLEM, drawn("?"), prompt_opens_thinking=False)

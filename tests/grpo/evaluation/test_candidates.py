"""Tests for grpo/evaluation/candidates.py: what strategies are told, and that it leaks nothing."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from evaluated import CUT, RIGHT

from cotree.grpo.evaluation.benchmark import benchmark_named, installed_benchmarks
from cotree.grpo.evaluation.benchmarks import Countdown, Gsm8k, TinyCountdown, games
from cotree.grpo.evaluation.candidates import StepJudge, drawn_candidates, recorded_candidates
from cotree.grpo.evaluation.records import Drawn
from cotree.grpo.evaluation.scoring import GradingFailedError
from cotree.rewards.registry import Term, bound
from cotree.search.strategy import Candidate, Question

QUESTION = Question("q", "What is 2 + 3 - 1?")
TRUE, FALSE = "2 + 3 = 5, 5 - 1 = 4. So \\boxed{4}", "2 + 3 = 6, 6 - 1 = 5. So \\boxed{5}"

REWARDS = '''
from cotree.rewards.types import Problem, StepScore, Verdict

def spy(completion: str, problem: Problem) -> list[StepScore]:
    """Refutes every completion as soon as it sees more than the question."""
    seen = problem.reference or problem.columns or problem.question != "What is 2 + 3 - 1?"
    return [StepScore((0, 1), -1.0, Verdict.REFUTED, "leak")] if seen else []

def fragile(completion: str) -> list[StepScore]:
    if "broken" in completion:
        raise RuntimeError("no idea")
    return [StepScore((0, 1), -1.0, Verdict.REFUTED, "as always")]
'''


def judge(step_reward: str, *, max_failed_frac: float = 0.2) -> StepJudge:
    class Judged(Gsm8k):
        pass

    Judged.step_reward = step_reward
    return StepJudge(Judged(), workers=1, timeout_seconds=5.0, max_failed_frac=max_failed_frac)


@pytest.fixture(scope="module")
def arithmetic() -> Iterator[StepJudge]:
    with judge("arithmetic_steps") as found:
        yield found


@pytest.fixture
def rewards(tmp_path: Path) -> Path:
    path = tmp_path / "rules.py"
    path.write_text(REWARDS)
    return path


def read(
    texts: Sequence[str], judging: StepJudge | None, *, opens: bool = False
) -> list[Candidate]:
    drawn = [Drawn(text, 7, "stop") for text in texts]
    return drawn_candidates(drawn, QUESTION, Gsm8k(), judging, prompt_opens_thinking=opens)


def test_a_candidate_says_what_a_completion_answers_and_whether_a_step_is_refuted(
    arithmetic: StepJudge,
):
    good, bad = read([TRUE, FALSE], arithmetic)
    assert good == Candidate(TRUE, "4", 7, is_finished=True, is_refuted=False)
    assert bad == Candidate(FALSE, "5", 7, is_finished=True, is_refuted=True, score=0.0)


def test_without_a_judge_nothing_is_refuted():
    assert [one.is_refuted for one in read([TRUE, FALSE], None)] == [False, False]


def test_what_was_cut_is_not_finished():
    (one,) = drawn_candidates(
        [Drawn(TRUE, 7, "length")], QUESTION, Gsm8k(), None, prompt_opens_thinking=False
    )
    assert not one.is_finished


def test_unfinished_thinking_answers_nothing_but_its_steps_are_judged(arithmetic: StepJudge):
    (one,) = read([FALSE], arithmetic, opens=True)
    assert (one.answer, one.is_refuted) == (None, True)
    (closed,) = read([f"{FALSE}</think>\\boxed{{7}}"], arithmetic, opens=True)
    assert (closed.answer, closed.is_refuted) == ("7", True)


def test_recorded_samples_become_candidates_without_their_verdicts(arithmetic: StepJudge):
    found = recorded_candidates([RIGHT, CUT], QUESTION, arithmetic)
    assert found == [
        Candidate("so 42", "42", 9, is_finished=True, is_refuted=False),
        Candidate("<think>wait", None, 99, is_finished=False, is_refuted=False),
    ]


def test_a_step_rule_sees_the_question_and_nothing_else(rewards: Path):
    with judge(f"{rewards}:spy") as spying:
        assert spying.refuted(QUESTION, ["2 + 3", "4"]) == [False, False]
        assert spying.refuted(Question("r", "Another?"), ["4"]) == [True]  # it can refute


def test_a_rule_that_fails_refutes_nothing_and_is_counted(
    rewards: Path, capsys: pytest.CaptureFixture[str]
):
    with judge(f"{rewards}:fragile") as fragile:
        assert fragile.refuted(QUESTION, ["broken", "4"]) == [False, True]
        assert (fragile.num_judged, fragile.num_failed) == (2, 1)
        with pytest.raises(GradingFailedError, match=r"7 of 8 completions .* no idea"):
            fragile.refuted(QUESTION, ["broken"] * 6)
    assert "7 of 8 completions could not be judged by" in capsys.readouterr().err


def test_failures_can_be_allowed_without_limit(rewards: Path):
    with judge(f"{rewards}:fragile", max_failed_frac=1.0) as fragile:
        assert fragile.refuted(QUESTION, ["broken"] * 9) == [False] * 9


@pytest.mark.parametrize("name", installed_benchmarks())
def test_the_step_reward_of_every_benchmark_is_there(name: str):
    reward = benchmark_named(name).step_reward
    assert reward is not None
    bound(Term(reward))


def test_the_numbers_of_a_countdown_game_are_read_from_its_question():
    benchmark = Countdown()
    for index, game in enumerate(games(4)):
        row = {"nums": list(game.numbers), "target": game.target}
        question = benchmark.problem(row, "row", index).question
        told = benchmark.question_columns(question)
        assert told == {"numbers": [str(number) for number in game.numbers]}


def test_a_countdown_game_is_judged_by_its_lines_and_not_by_its_target():
    row = {"nums": [25, 5, 3], "target": 60}
    question = Question("g", Countdown().problem(row, "row", 0).question)
    texts = [
        "25 - 5 = 20\n20 * 3 = 60\n\\boxed{(25 - 5) * 3}",
        "25 - 5 = 21\n21 * 3 = 63\n\\boxed{(25 - 5) * 3}",
        "25 + 5 = 30\n30 * 3 = 90\n\\boxed{(25 + 5) * 3}",  # true, and not the target
    ]
    with StepJudge(Countdown(), workers=1, timeout_seconds=5.0, max_failed_frac=0.0) as judging:
        assert judging.refuted(question, texts) == [False, True, False]


def test_a_tiny_game_is_judged_by_its_answer_too_as_its_question_tells_the_target():
    texts = [
        "<think>\n5*3=15\n15+7=22\n</think>\n\\boxed{(5*3)+7}",
        "<think>\n5*3=16\n16+7=22\n</think>\n\\boxed{(5*3)+7}",  # a false line
        "<think>\n5+3=8\n8+7=15\n</think>\n\\boxed{(5+3)+7}",  # true, and not the target
    ]
    with StepJudge(TinyCountdown(), workers=1, timeout_seconds=5.0, max_failed_frac=0.0) as judging:
        assert judging.refuted(Question("g", "3,5,7->22"), texts) == [False, True, True]

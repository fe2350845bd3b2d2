"""Tests for grpo/grader.py."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray

from cotree.grpo.config import Grading, RewardTerm
from cotree.grpo.grader import Grader, GraderGroup, TooManyFailures
from cotree.grpo.reward_terms import reward_terms
from cotree.grpo.types import Completion, Problem, Rollout
from cotree.rewards.combine import RewardFailedError
from cotree.rewards.isolation import WorkerStartError
from cotree.rewards.registry import Term
from cotree.rewards.types import Failure, Reward, Ungraded

MOODY = """
import os
def moody(completion, problem):
    if completion == "die": os._exit(3)
    if completion == "throw": raise ValueError("no such rule")
    return 1.0
"""


def completion(text: str) -> Completion:
    return Completion((1,), (-0.5,), text, (len(text),), "stop", 0)


def sampled(index: int, *texts: str):
    problem = Problem(f"p{index}", "1+1=", "2", "test", "1+1")
    return problem, (index, 7), [completion(text) for text in texts]


@pytest.fixture
def moody(tmp_path: Path) -> RewardTerm:
    (tmp_path / "moody.py").write_text(MOODY)
    return RewardTerm(name=f"{tmp_path}/moody.py:moody")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20)
    yield
    ray.shutdown()


def started(*terms: RewardTerm, **grading: float) -> Grader:
    grader = Grader(reward_terms(terms), Grading.model_validate(grading))
    grader.start()
    return grader


def test_each_completion_gets_its_own_reward_in_its_own_group():
    grader = started(RewardTerm(name="answer"), RewardTerm(name="rewriting_steps", weight=0.5))
    asked = [
        sampled(0, r"\boxed{2}", r"\boxed{3}"),
        sampled(1),
        sampled(2, "", r"<think>2</think>\boxed{2}", r"\boxed{4}"),
    ]
    groups = grader.grade(asked)
    grader.close()
    assert [(g.problem, g.prompt_ids) for g in groups] == [(p, ids) for p, ids, _ in asked]
    for group, (_, _, completions) in zip(groups, asked, strict=True):
        assert [rollout.completion for rollout in group.rollouts] == completions
    # answer + 0.5 * steps: a wrong or missing box is 0 - 0.5 * 1.
    assert [_values(group.rollouts) for group in groups] == [[1.0, -0.5], [], [-0.5, 1.0, -0.5]]
    first = groups[0].rollouts[0].reward
    assert isinstance(first, Reward)
    assert first.breakdown == {"answer": 1.0, "rewriting_steps": 0.0}


def _values(rollouts: tuple[Rollout, ...]) -> list[float]:
    return [r.reward.value for r in rollouts if isinstance(r.reward, Reward)]


def test_a_completion_that_could_not_be_graded_is_kept_with_its_reason(moody: RewardTerm):
    grader = started(moody, max_failed_frac=0.5)
    (group,) = grader.grade([sampled(0, "a", "die", "b", "throw")])
    grader.close()
    rewards = [rollout.reward for rollout in group.rollouts]
    assert [isinstance(reward, Ungraded) for reward in rewards] == [False, True, False, True]
    assert isinstance(rewards[1], Ungraded)
    assert rewards[1].failure is Failure.CRASH
    assert "exit code 3" in rewards[1].reason


def test_too_many_failures_stop_the_run_with_counts_and_the_first_reason(moody: RewardTerm):
    grader = started(moody, max_failed_frac=0.4)
    grader.grade([sampled(0, "a", "b", "c"), sampled(1, "die", "throw")])  # 2 of 5 is the limit
    with pytest.raises(
        TooManyFailures,
        match=r"2 of 4 .*\(2 crash of .*moody\).*max_failed_frac = 0.4.*exit code 3",
    ):
        grader.grade([sampled(0, "a", "b"), sampled(1, "die", "throw")])
    grader.close()


def test_failures_that_count_as_a_value_count_as_failures_too(moody: RewardTerm):
    steps = RewardTerm(name="rewriting_steps")
    valued = moody.model_copy(update={"on_error": "value", "error_value": -1.0})
    grader = started(steps, valued, max_failed_frac=0.5)
    (group,) = grader.grade([sampled(0, "a", "die", "throw", "b")])
    assert [r.reward.breakdown[moody.name] for r in group.rollouts] == [1.0, -1.0, -1.0, 1.0]
    with pytest.raises(TooManyFailures, match=r"2 of 3 completions .*\(2 crash of .*moody\)"):
        grader.grade([sampled(0, "a", "die", "throw")])
    grader.close()


def test_a_reward_may_stop_the_run_at_its_first_failure(moody: RewardTerm):
    grader = started(moody.model_copy(update={"on_error": "raise"}), max_failed_frac=1.0)
    with pytest.raises(RewardFailedError, match=r"moody failed .crash.: ValueError: no such rule"):
        grader.grade([sampled(0, "a", "throw")])
    grader.close()


def test_the_message_counts_failures_by_reward(moody: RewardTerm, tmp_path: Path):
    (tmp_path / "vain.py").write_text("def vain(completion): return 'high'")
    grader = started(moody, RewardTerm(name=f"{tmp_path}/vain.py:vain"), max_failed_frac=0.9)
    with pytest.raises(TooManyFailures) as caught:
        grader.grade([sampled(0, "a", "die")])
    message = str(caught.value)
    assert message.startswith("2 of 2 completions could not be graded (1 crash of ")
    assert "moody, 2 invalid of " in message
    assert "The first reason: " in message
    grader.close()


def test_completions_to_which_no_reward_applies_stop_the_run_like_failures(tmp_path: Path):
    (tmp_path / "forgot.py").write_text("def forgot(completion): completion == '1'")
    grader = started(RewardTerm(name=f"{tmp_path}/forgot.py:forgot"))
    with pytest.raises(TooManyFailures, match=r"1 of 1 .*\(1 skipped\).*every function returned"):
        grader.grade([sampled(0, "a")])
    grader.close()


def test_nothing_to_grade_is_no_failure():
    grader = started(RewardTerm(name="answer"))
    assert grader.grade([]) == []
    grader.close()


def test_a_grader_that_was_not_started_says_so():
    with pytest.raises(RuntimeError, match="call start"):
        Grader([Term("answer")], Grading()).grade([])


def test_the_actor_grades_like_the_plain_class(cluster: None, moody: RewardTerm):
    asked = [sampled(0, r"\boxed{2}", r"\boxed{3}")]
    group = GraderGroup.start([RewardTerm(name="answer")], Grading())
    plain = started(RewardTerm(name="answer"))
    assert group.first_term == "answer"
    assert group.grade(asked) == plain.grade(asked)
    plain.close()
    group.stop()


def test_errors_cross_the_actor_as_they_are(cluster: None, moody: RewardTerm):
    with pytest.raises(WorkerStartError, match="did you mean 'answer'"):
        GraderGroup.start([RewardTerm(name="answerx")], Grading())
    group = GraderGroup.start([moody], Grading(max_failed_frac=0.0))
    with pytest.raises(TooManyFailures, match="1 of 2"):
        group.grade([sampled(0, "a", "die")])
    group.stop()

"""Tests for rewards/combine.py."""

import pytest

from cotree.rewards.combine import Combination, RewardFailedError, combine
from cotree.rewards.outcomes import Outcome
from cotree.rewards.registry import Term
from cotree.rewards.types import Failure, Reward, Status, StepScore, Ungraded, Verdict

LATE = Ungraded(Failure.TIMEOUT, "no reward within 2 s")


def step(start: int, end: int, value: float = -1.0) -> StepScore:
    return StepScore((start, end), value, Verdict.REFUTED, f"{start}", "1+1", "3")


def summed(*terms: tuple[Term, Outcome]) -> Reward | Ungraded:
    return combine([term for term, _ in terms], [found for _, found in terms])


def test_the_sum_is_weighted_and_the_breakdown_is_not():
    reward = summed(
        (Term("answer"), Reward(1.0, "match")), (Term("steps", 0.5), Reward(-0.4, "2 of 5"))
    )
    assert isinstance(reward, Reward)
    assert reward.value == pytest.approx(0.8)  # 1 * 1 + 0.5 * -0.4
    assert reward.breakdown == {"answer": 1.0, "steps": -0.4}
    assert reward.reason == "answer=match steps=2 of 5"


def test_parts_of_a_reward_are_shown_under_its_name_and_not_summed():
    reward = summed((Term("tests", 2.0), Reward(0.5, "", {"passed": 3.0})))
    assert isinstance(reward, Reward)
    assert (reward.value, reward.breakdown) == (1.0, {"tests": 0.5, "tests.passed": 3.0})


def test_steps_are_weighted_in_the_order_of_the_text_and_keep_both_sides():
    late, early = Reward(0.0, "", steps=(step(8, 9),)), Reward(0.0, "", steps=(step(2, 4, 2.0),))
    reward = summed((Term("late", 0.5), late), (Term("early", 3.0), early))
    assert isinstance(reward, Reward)
    assert [(s.span, s.value) for s in reward.steps] == [((2, 4), 6.0), ((8, 9), -0.5)]
    assert {(s.left, s.right) for s in reward.steps} == {("1+1", "3")}


def test_steps_of_two_terms_may_touch_and_must_not_overlap():
    first = (Term("a"), Reward(0.0, "", steps=(step(0, 2),)))
    touching = summed(first, (Term("b"), Reward(0.0, "", steps=(step(2, 4),))))
    assert isinstance(touching, Reward)
    overlapping = summed(first, (Term("b"), Reward(0.0, "", steps=(step(1, 3),))))
    assert isinstance(overlapping, Ungraded)
    assert overlapping.failure is Failure.INVALID
    assert "(0, 2) (0) and (1, 3) (1)" in overlapping.reason


def test_the_first_status_that_is_not_ok_is_that_of_the_sum():
    unread = Reward(0.0, "", status=Status.PARSE_ERROR)
    none = Reward(0.0, "", status=Status.NO_ANSWER)
    reward = summed((Term("a"), Reward(1.0, "")), (Term("b"), unread), (Term("c"), none))
    assert isinstance(reward, Reward)
    assert reward.status is Status.PARSE_ERROR


def test_a_term_that_does_not_apply_is_left_out_and_says_so():
    reward = summed((Term("code"), None), (Term("math", 2.0), Reward(0.5, "half")))
    assert reward == Reward(1.0, "code=does not apply math=half", {"math": 0.5})


def test_a_completion_to_which_nothing_applies_has_no_reward():
    nothing = summed((Term("code"), None), (Term("math"), None))
    assert isinstance(nothing, Ungraded)
    assert nothing.failure is Failure.SKIPPED


def test_a_masked_failure_names_its_term():
    found = summed((Term("answer"), Reward(1.0, "")), (Term("math"), LATE))
    assert found == Ungraded(
        Failure.TIMEOUT, "math failed (timeout): no reward within 2 s", term="math"
    )


def test_a_failure_may_count_as_a_value_and_is_still_told():
    term = Term("math", 2.0, on_error="value", error_value=-0.5)
    reward = summed((Term("answer"), Reward(1.0, "match")), (term, LATE))
    assert isinstance(reward, Reward)
    assert reward.value == 0.0  # 1 * 1 + 2 * -0.5
    assert reward.breakdown == {"answer": 1.0, "math": -0.5}
    assert reward.failed == {"math": Failure.TIMEOUT}
    assert "math=error_value (timeout: no reward within 2 s)" in reward.reason


def test_a_failure_may_stop_the_run_whatever_other_terms_say():
    terms = (Term("answer"), LATE), (Term("judge", on_error="raise"), LATE)
    with pytest.raises(RewardFailedError, match=r"judge failed \(timeout\).*\"mask\" would"):
        summed(*terms)


@pytest.mark.parametrize(
    ("combination", "value"), [("sum", 1.0), ("product", -0.25), ("minimum", -0.5)]
)
def test_values_may_be_multiplied_or_the_lowest_taken(combination: Combination, value: float):
    # 0.5 + 1 - 0.5 = 1; 0.5 * 1 * -0.5 = -0.25; the lowest is -0.5
    terms = [Term("answer"), Term("format"), Term("steps")]
    outcomes = [Reward(0.5, ""), Reward(1.0, ""), Reward(-0.5, "")]
    reward = combine(terms, outcomes, combination=combination)
    assert isinstance(reward, Reward)
    assert reward.value == value


def test_every_term_must_have_an_outcome():
    with pytest.raises(ValueError, match="zip"):
        combine([Term("answer")], [])

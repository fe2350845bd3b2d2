"""Tests for rewards/combine.py."""

import math
from fractions import Fraction

import pytest

from cotree.rewards.combine import combine
from cotree.rewards.types import Failure, Reward, StepScore, Ungraded, Verdict


def step(start: int, end: int, value: float = -1.0) -> StepScore:
    return StepScore((start, end), value, Verdict.REFUTED, f"{start}")


def test_the_sum_is_weighted_and_the_breakdown_is_not():
    reward = combine(
        [("answer", 1.0, Reward(1.0, "match")), ("steps", 0.5, Reward(-0.4, "2 of 5"))]
    )
    assert isinstance(reward, Reward)
    assert reward.value == pytest.approx(0.8)  # 1 * 1 + 0.5 * -0.4
    assert reward.breakdown == {"answer": 1.0, "steps": -0.4}
    assert reward.reason == "answer=match steps=2 of 5"


def test_steps_are_weighted_and_in_the_order_of_the_text():
    late, early = Reward(0.0, "", steps=(step(8, 9),)), Reward(0.0, "", steps=(step(2, 4, 2.0),))
    reward = combine([("late", 0.5, late), ("early", 3.0, early)])
    assert isinstance(reward, Reward)
    assert [(s.span, s.value) for s in reward.steps] == [((2, 4), 6.0), ((8, 9), -0.5)]


def test_steps_may_touch_and_must_not_overlap():
    touching = [("a", 1.0, Reward(0.0, "", steps=(step(0, 2), step(2, 4))))]
    assert isinstance(combine(touching), Reward)
    with pytest.raises(ValueError, match=r"steps overlap: \(0, 2\).*\(1, 3\)"):
        combine(
            [
                ("a", 1.0, Reward(0.0, "", steps=(step(0, 2),))),
                ("b", 1.0, Reward(0.0, "", steps=(step(1, 3),))),
            ]
        )


@pytest.mark.parametrize(
    ("number", "value"), [(0.5, 0.5), (2, 2.0), (True, 1.0), (Fraction(1, 4), 0.25)]
)
def test_a_bare_number_is_wrapped(number: object, value: float):
    reward = combine([("f", 2.0, number)])
    assert isinstance(reward, Reward)
    assert (reward.value, reward.breakdown) == (2 * value, {"f": value})


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (math.nan, "f returned a value of nan"),
        (-math.inf, "f returned a value of -inf"),
        (None, "f returned None; a reward is a finite number or a Reward"),
        ("1.0", "f returned '1.0'"),
        (Reward(math.nan, ""), "a value of nan"),
        (Reward("high", ""), "a value of 'high'"),  # pyright: ignore[reportArgumentType]
        (Reward(0.0, "", steps=(step(3, 1),)), r"a step with the span \(3, 1\)"),
        (Reward(0.0, "", steps=(step(0, 1, math.inf),)), "a step's value of inf"),
        (Reward(0.0, "", steps=((0, 1),)), "a step is a StepScore"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_is_no_reward_is_ungraded_and_not_a_zero(returned: object, says: str):
    result = combine([("good", 1.0, 1.0), ("f", 1.0, returned)])
    assert isinstance(result, Ungraded)
    assert result.failure is Failure.INVALID
    assert says.replace("\\", "") in result.reason

"""Tests for rewards/outcomes.py."""

import math
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest

from cotree.rewards.outcomes import MAX_REASON_CHARS, Outcome, failed, outcome, packed, unpacked
from cotree.rewards.types import Failure, Reward, Status, StepScore, Ungraded, Verdict

TEXT = "0123456789"


def step(start: int, end: int, value: float = -1.0) -> StepScore:
    return StepScore((start, end), value, Verdict.REFUTED, "no", "1", "2")


@pytest.mark.parametrize(
    ("number", "value"),
    [
        (0.5, 0.5),
        (2, 2.0),
        (True, 1.0),
        (Fraction(1, 4), 0.25),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3.0),
        (np.bool_(True), 1.0),
        (np.array(0.25), 0.25),
    ],
)
def test_a_number_is_a_reward_of_a_plain_float(number: object, value: float):
    found = outcome(number, TEXT)
    assert isinstance(found, Reward)
    assert (found.value, type(found.value)) == (value, float)


def test_none_means_that_the_function_does_not_apply():
    assert outcome(None, TEXT) is None


def test_step_scores_have_the_value_of_the_worst():
    found = outcome([step(4, 6, -0.5), step(0, 2, -1.0)], TEXT)
    assert isinstance(found, Reward)
    assert (found.value, [s.span for s in found.steps]) == (-1.0, [(0, 2), (4, 6)])
    assert found.steps[0] == step(0, 2)  # the two sides and all
    assert outcome((), TEXT) == Reward(0.0, "minimum of 0 steps")


def test_a_reward_keeps_its_status_its_parts_and_its_steps():
    given = Reward(0.0, "none", {"tests": 0.5}, (step(1, 2),), Status.NO_ANSWER)
    assert outcome(given, TEXT) == given


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (math.nan, "a value of nan"),
        (-math.inf, "a value of -inf"),
        (np.float64("nan"), "a value of"),
        (10**400, "a value of inf"),
        pytest.param(-(10**5000), "a value of inf", id="an integer too long to be shown"),
        ("1.0", "it returned '1.0'; a reward is a finite number, a Reward, a list of StepScore"),
        (Decimal(1), "Decimal"),
        (1j, "1j"),
        ([1.0], "[1.0]"),
        ({"score": 1.0}, "{'score': 1.0}"),
        (np.array([1.0, 2.0]), "array"),
        (Reward(math.nan, ""), "a value of nan"),
        (Reward("high", ""), "a value of 'high'"),
        (Reward(0.0, "", {"part": math.inf}), "a part of inf"),
        (Reward(0.0, "", steps=(step(3, 1),)), "a step with the span (3, 1)"),
        (Reward(0.0, "", steps=(step(8, 11),)), "the span (8, 11); 0 <= start <= end <= 10"),
        (Reward(0.0, "", steps=(step(0, 1, math.inf),)), "a step's value of inf"),
        (Reward(0.0, "", steps=((0, 1),)), "a step is a StepScore"),
        (Reward(0.0, "", steps=(step(0, 2), step(1, 3))), "steps that overlap, (0, 2) and (1, 3)"),
        (Reward(0.0, "", steps=None), "malformed"),
        ([StepScore((0,), 0.0, Verdict.REFUTED, "")], "malformed"),
        ([StepScore((0, 1), 0.0, "wrong", "")], "malformed reward: 'wrong' is not a valid Verdict"),
        (Reward(0.0, "", status="sleepy"), "'sleepy' is not a valid Status"),
    ],
)
def test_what_is_no_reward_is_invalid_and_not_a_zero(returned: object, says: str):
    found = outcome(returned, TEXT)
    assert isinstance(found, Ungraded)
    assert found.failure is Failure.INVALID
    assert says in found.reason


def test_reasons_are_cut():
    found = outcome(Reward(1.0, "x" * 10_000_000), TEXT)
    assert isinstance(found, Reward)
    assert len(found.reason) == MAX_REASON_CHARS + 1


def test_an_exception_is_told_with_its_place():
    class MuteError(Exception):
        def __str__(self) -> str:
            raise ValueError

    def raising(error: Exception) -> Ungraded:
        try:
            raise error
        except Exception as caught:
            return failed(caught)

    assert raising(KeyError("x")).failure is Failure.CRASH
    assert raising(KeyError("x")).reason.startswith(f"KeyError: 'x' in raising at {__file__}:")
    assert raising(MuteError()).reason.startswith("MuteError: (its message cannot be shown")


@pytest.mark.parametrize(
    "found",
    [
        None,
        Ungraded(Failure.CRASH, "lost"),
        Reward(0.5, "half", {"part": 1.0}, (step(0, 1),), Status.PARSE_ERROR),
    ],
)
def test_an_outcome_arrives_as_it_was_sent(found: Outcome):
    assert unpacked(pickle.loads(pickle.dumps(packed(found)))) == found

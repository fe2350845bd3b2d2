"""Tests for rewards/plan.py, with makers that lose calls by a script."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.rewards.outcomes import Outcome
from cotree.rewards.plan import Call, Deliver, Form, outcomes_by, planned, planned_checks
from cotree.rewards.types import Failure, Problem, Reward, Ungraded

SINGLE, GROUPED = Form(False, False, True), Form(True, False, False)
CRASH = Ungraded(Failure.CRASH, "died")
TIMEOUT = Ungraded(Failure.TIMEOUT, "late")


def items(count: int) -> list[tuple[str, Problem]]:
    return [(str(index), Problem("p", "", "", "")) for index in range(count)]


class Process:
    """A maker in memory: each text may be deadly, and `poison` makes the next call die."""

    def __init__(self, forms: tuple[Form, ...], deadly: dict[str, Ungraded], poison: set[str]):
        self.forms, self._deadly, self._poison = forms, deadly, poison
        self._alive = self._poisoned = False
        self.starts = 0

    def ensure_ready(self) -> bool:
        if self._alive:
            return False
        self._alive, self._poisoned, self.starts = True, False, self.starts + 1
        return True

    def make(self, calls: tuple[Call, ...], items, deliver: Deliver) -> Ungraded | None:
        for call in calls:
            texts = [items[index][0] for index in call.items]
            lost = [self._deadly[text] for text in texts if text in self._deadly]
            if lost or self._poisoned:
                self._alive = False
                return lost[0] if lost else CRASH
            self._poisoned = any(text in self._poison for text in texts)
            deliver(call, [Reward(float(text), str(call.reward)) for text in texts])
        return None


def seen(outcomes: list[list[Outcome]]) -> list[list[float | str]]:
    return [
        [o.value if isinstance(o, Reward) else o.failure.value for o in row] for row in outcomes
    ]


def test_single_calls_are_planned_one_by_one_and_grouped_ones_at_once():
    assert planned([SINGLE, GROUPED], 2) == [Call(0, (0,)), Call(0, (1,)), Call(1, (0, 1))]
    assert planned_checks([SINGLE, GROUPED], 2) == [Call(0, (0,), True), Call(0, (1,), True)]


def test_a_hang_in_one_term_keeps_the_other_terms_results():
    class Second(Process):
        def make(self, calls, items, deliver):
            first = [call for call in calls if call.reward == 0]
            super().make(tuple(first), items, deliver)
            self._alive = False
            return TIMEOUT

    found = outcomes_by(Second((SINGLE, SINGLE), {}, set()), items(2), planned)
    assert seen(found) == [[0.0, "timeout"], [1.0, "timeout"]]


@pytest.mark.parametrize("form", [SINGLE, GROUPED])
def test_a_crash_is_blamed_on_the_one_that_dies_alone(form: Form):
    process = Process((form,), {"2": CRASH}, {"0"})
    # "0" poisons the process, so the call after it dies once without being blamed.
    found = outcomes_by(process, items(4), planned)
    assert seen(found) == [[0.0], [1.0], ["crash"], [3.0]]


@settings(max_examples=200)
@given(
    forms=st.lists(st.sampled_from([SINGLE, GROUPED]), min_size=1, max_size=3),
    fates=st.lists(st.sampled_from(["fine", "crash", "timeout", "poison"]), max_size=12),
)
def test_failures_never_shift_or_drop_the_results_of_others(forms: list[Form], fates: list[str]):
    deadly = {"crash": CRASH, "timeout": TIMEOUT}
    process = Process(
        tuple(forms),
        {str(i): deadly[fate] for i, fate in enumerate(fates) if fate in deadly},
        {str(i) for i, fate in enumerate(fates) if fate == "poison"},
    )
    found = outcomes_by(process, items(len(fates)), planned)
    expected = [fate if fate in deadly else float(i) for i, fate in enumerate(fates)]
    assert seen(found) == [[fate] * len(forms) for fate in expected]
    assert process.starts <= 1 + 2 * len(fates) * len(forms)

"""Tests for search/ledger.py: promises and spending together never exceed the budget."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.search.ledger import Ledger, Limits


@given(st.integers(1, 200), st.lists(st.tuples(st.integers(1, 60), st.floats(0, 1)), max_size=30))
def test_spent_and_reserved_never_exceed_the_budget(budget: int, jobs: list[tuple[int, float]]):
    ledger = Ledger(budget)
    running: dict[int, int] = {}
    for number, (wanted, share) in enumerate(jobs):
        granted = min(wanted, ledger.free)
        if granted:
            ledger.reserve(number, granted)
            running[number] = int(granted * share)
        assert 0 <= ledger.spent + ledger.reserved <= budget
        if share < 0.5 and running:
            done, used = running.popitem()
            ledger.settle(done, used)
    spent = ledger.spent
    for done, used in running.items():
        ledger.settle(done, used, is_lost=True)
    assert ledger.reserved == 0
    assert ledger.spent == spent + sum(running.values())
    assert ledger.lost == sum(running.values())


def test_what_a_job_did_not_use_is_free_again():
    ledger = Ledger(100)
    ledger.reserve(0, 60)
    assert ledger.free == 40
    ledger.settle(0, 10)
    assert (ledger.free, ledger.spent, ledger.lost) == (90, 10, 0)


def test_more_than_was_promised_is_a_fault_of_the_driver():
    ledger = Ledger(100)
    with pytest.raises(AssertionError, match="101 tokens of 100"):
        ledger.reserve(0, 101)
    ledger.reserve(0, 5)
    with pytest.raises(AssertionError, match="6 tokens of 5"):
        ledger.settle(0, 6)


@pytest.mark.parametrize("field", ["budget_tokens", "max_tokens", "width"])
def test_limits_are_at_least_one(field: str):
    settings = {"budget_tokens": 1, "max_tokens": 1, "width": 1} | {field: 0}
    with pytest.raises(ValueError, match=f"{field} = 0 must be 1 or more"):
        Limits(**settings)

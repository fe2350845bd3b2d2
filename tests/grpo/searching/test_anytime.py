"""Tests for grpo/searching/anytime.py: what a search is worth when it is stopped at a budget."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.config_file import ConfigError
from cotree.grpo.searching.anytime import Anytime, Run, oracle_of, run_of


@dataclass(frozen=True)
class Preferred:
    num_tokens: int
    node: int | None


@dataclass(frozen=True)
class Searched:
    """What is read of a search's record, and no more."""

    problem_id: str
    history: tuple[Preferred, ...]
    question: str = "1 + 1?"
    tokens: Mapping[str, int] = field(
        default_factory=lambda: {
            "budget": 100, "spent": 90, "prompt_tokens": 50, "cached_tokens": 20
        }
    )  # fmt: skip


def searched(problem_id: str, *history: tuple[int, int | None], **changes: object) -> Searched:
    return Searched(problem_id, tuple(Preferred(*choice) for choice in history), **changes)


def node_7_is_right(record: Searched, node: int) -> bool | None:
    return {7: True, 13: None}.get(node, False)


# --- reading a search


def test_a_search_is_as_right_as_its_last_choice_within_the_budget():
    search = Anytime(50, ((10, False), (20, True), (40, False)))
    assert [search.is_right_at(budget) for budget in (19, 20, 39, 40, 99)] == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_before_its_first_choice_a_search_is_wrong():
    assert not Anytime(50, ((10, True),)).is_right_at(9)
    assert not Anytime(50, ()).is_right_at(50)


def test_of_two_choices_at_the_same_tokens_the_later_counts():
    assert not Anytime(50, ((10, True), (10, False))).is_right_at(10)


@pytest.mark.parametrize("choices", [((20, True), (10, False)), ((60, True),), ((-1, True),)])
def test_choices_out_of_order_or_range_are_refused(choices: tuple[tuple[int, bool], ...]):
    with pytest.raises(ConfigError, match="rising order"):
        Anytime(50, choices)


@given(st.lists(st.integers(0, 100)), st.integers(0, 100))
def test_what_is_told_after_the_budget_changes_nothing(tokens: list[int], budget: int):
    choices = [(at, place % 2 == 0) for place, at in enumerate(sorted(tokens))]
    within = tuple(choice for choice in choices if choice[0] <= budget)
    assert Anytime(100, tuple(choices)).is_right_at(budget) == Anytime(100, within).is_right_at(100)


# --- a run


def test_a_run_ends_at_its_budget_or_else_where_the_longest_search_did():
    problems = {"a": [Anytime(40, ()), Anytime(60, ())]}
    assert Run("r", problems).end == 60
    assert Run("r", problems, budget=64).end == 64
    with pytest.raises(ConfigError, match="spent 60 tokens of a budget of 59"):
        Run("r", problems, budget=59)


@pytest.mark.parametrize("problems", [{}, {"a": []}])
def test_a_run_without_a_graded_search_of_each_problem_is_refused(problems: dict):
    with pytest.raises(ConfigError, match=r"a curve needs one for each \(3 could not"):
        Run("r", problems, num_ungraded=3)


def test_searches_of_one_problem_are_averaged_before_problems_are():
    run = Run("r", {"a": [Anytime(10, ()), Anytime(30, ())], "b": [Anytime(100, ())]})
    assert run.mean_spent == 60  # (20 + 100) / 2, and not 140 / 3
    assert run.flops(10) is None
    # 2 * 10 parameters * (60 generated + 40 read)
    assert Run("r", run.problems, prompt_tokens=40.0).flops(10) == 2000


# --- records


def test_records_of_one_problem_are_its_repetitions():
    run = run_of(
        "mcts",
        [
            searched("a", (0, None), (30, 4), (60, 7)),
            searched("b", (20, 7)),
            searched("a", (10, 7)),
        ],
        node_7_is_right,
    )
    assert run.problems == {
        "a": [Anytime(90, ((0, False), (30, False), (60, True))), Anytime(90, ((10, True),))],
        "b": [Anytime(90, ((20, True),))],
    }
    assert (run.name, run.budget, run.num_ungraded) == ("mcts", 100, 0)
    assert run.prompt_tokens == 30  # 50 read, 20 of them from the cache
    assert run.questions == {"a": "1 + 1?", "b": "1 + 1?"}


def test_a_search_that_cannot_be_graded_is_left_out_and_counted():
    records = [searched("a", (10, 7)), searched("a", (10, 7), (20, 13)), searched("b", (10, 13))]
    run = run_of("mcts", records, node_7_is_right)
    assert run.problems == {"a": [Anytime(90, ((10, True),))]}
    assert run.num_ungraded == 2
    with pytest.raises(ConfigError, match="1 could not be graded"):
        run_of("mcts", records[2:], node_7_is_right)


def test_records_of_two_benchmarks_or_two_budgets_are_refused():
    first = searched("a", (10, 7))
    with pytest.raises(ConfigError, match="'1 \\+ 1\\?' in one search and '2 \\+ 2\\?'"):
        run_of("mcts", [first, searched("a", question="2 + 2?")], node_7_is_right)
    longer = searched("b", tokens={**first.tokens, "budget": 200})
    with pytest.raises(ConfigError, match=r"budgets of \[100, 200\] tokens"):
        run_of("mcts", [first, longer], node_7_is_right)


def test_the_oracle_is_right_from_the_first_right_completion_on():
    ends = {"a": [(10, False), (50, True), (30, True)], "b": [(10, False)], "c": None}
    records = [searched(id_) for id_ in ends]
    oracle = oracle_of("mcts", records, lambda record: ends[record.problem_id])
    assert oracle.problems == {"a": [Anytime(90, ((30, True),))], "b": [Anytime(90, ())]}
    assert oracle.num_ungraded == 1

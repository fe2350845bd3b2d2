"""Tests for grpo/evaluation/equal_tokens.py, against a table worked out by hand in a comment."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import CUT, RIGHT, SILENT, UNGRADED, WRONG, record
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from cotree.grpo.config_evaluation import Benchmarks
from cotree.grpo.evaluation.equal_tokens import (
    NUM_ORDERS,
    REPLAYED,
    EqualTokens,
    EqualTokensRow,
    Recorded,
    budget_multiples,
    equal_tokens_json,
    equal_tokens_rows,
    equal_tokens_tables,
    replayed,
    sample_orders,
    to_page_table,
    to_terminal_table,
)
from cotree.grpo.evaluation.job import Job, make_job
from cotree.grpo.evaluation.records import Estimate
from cotree.search.strategies import STRATEGIES, First, Majority, Resample
from cotree.search.strategy import Candidate


def candidate(answer: str, *, tokens: int = 10, refuted: bool = False) -> Candidate:
    return Candidate(f"so {answer}", answer, tokens, is_finished=True, is_refuted=refuted)


def recorded(*answers: str, refuted: str = "", id_: str = "p") -> Recorded:
    """Samples of 10 tokens; the right answer is 1."""
    candidates = [candidate(text, refuted=text in refuted) for text in answers]
    return Recorded(id_, candidates, [text == "1" for text in answers])


def rows(problems: Sequence[Recorded], k: int) -> dict[tuple[str, int], EqualTokensRow]:
    found = equal_tokens_rows(problems, k=k, strategies=REPLAYED, seed=0)
    return {(row.strategy, row.multiple): row for row in found}


# --- one replay ------------------------------------------------------------------------------


def test_the_budget_is_hard_and_only_the_first_sample_may_exceed_it():
    samples = [candidate("1", tokens=n) for n in (30, 20, 60, 1)]
    for budget, num_drawn, spent in ((10, 1, 30), (49, 1, 30), (50, 2, 50), (109, 2, 50)):
        # At 109 the third does not fit, and the fourth, which would, is not drawn in its place:
        # a run does not know that the third is the long one.
        replay = replayed(Majority(5), samples, budget=budget)
        assert (replay.num_drawn, replay.selection.num_tokens) == (num_drawn, spent)
        assert not replay.ran_out


def test_a_replay_that_wants_more_than_there_is_says_so():
    samples = [candidate("2"), candidate("1")]
    replay = replayed(Majority(3), samples, budget=1000)
    assert (replay.num_drawn, replay.ran_out) == (2, True)
    assert not replayed(Majority(2), samples, budget=1000).ran_out
    assert not replayed(First(), samples, budget=1000).ran_out


def test_a_strategy_that_is_content_spends_no_more():
    samples = [candidate("2", refuted=True), candidate("1"), candidate("1")]
    replay = replayed(Resample(9), samples, budget=1000)
    assert replay.selection.candidate is samples[1]
    assert (replay.num_drawn, replay.selection.num_tokens, replay.ran_out) == (2, 20, False)


lengths = st.lists(st.integers(1, 100), min_size=1, max_size=8)


@given(lengths, st.integers(1, 400), st.sampled_from(REPLAYED))
def test_spent_tokens_are_those_of_the_drawn_samples(lengths: list[int], budget: int, name: str):
    samples = [candidate(str(n % 3), tokens=n, refuted=n % 2 == 0) for n in lengths]
    strategy = STRATEGIES[name].build(len(samples) + 1)
    replay = replayed(strategy, samples, budget=budget)
    drawn = samples[: replay.num_drawn]
    assert replay.selection.num_tokens == sum(one.num_tokens for one in drawn)
    assert replay.selection.num_tokens <= max(budget, samples[0].num_tokens)
    assert any(one is replay.selection.candidate for one in drawn)


# --- orders and budgets ----------------------------------------------------------------------


def test_few_samples_are_replayed_in_all_orders():
    assert sorted(sample_orders(4, seed=1)) == sorted(set(sample_orders(4, seed=2)))
    assert len(sample_orders(4, seed=1)) == 24
    assert sample_orders(1, seed=1) == [(0,)]


@pytest.mark.parametrize("count", [5, 8, 49, 50])
def test_every_sample_comes_first_equally_often(count: int):
    orders = sample_orders(count, seed=3)
    assert NUM_ORDERS <= len(orders) < 2 * NUM_ORDERS
    firsts = [order[0] for order in orders]
    assert {firsts.count(index) for index in range(count)} == {len(orders) // count}
    assert all(sorted(order) == list(range(count)) for order in orders)


def test_orders_depend_on_the_seed_alone():
    assert sample_orders(8, seed=1) == sample_orders(8, seed=1)
    assert sample_orders(8, seed=1) != sample_orders(8, seed=2)
    assert len(sample_orders(200, seed=1)) == NUM_ORDERS


def test_budgets_double_up_to_half_the_samples():
    assert budget_multiples(4) == (1, 2)
    assert budget_multiples(7) == (1, 2)
    assert budget_multiples(8) == (1, 2, 4)
    assert budget_multiples(64) == (1, 2, 4, 8, 16, 32)


# --- the table -------------------------------------------------------------------------------


def test_a_table_by_hand():
    # Samples 1, 1, 2 (refuted), 3 of 10 tokens; 1 is right. At 20 tokens two are drawn, and each
    # of the six pairs in both orders is equally likely.
    #   first: 2 of 4.
    #   majority: a pair of two answers is a tie and goes to the first: 1/2 as well.
    #   vetoed: {1,1} right; {1,2} twice, right; {1,3} twice, right in half; {2,3} wrong: 4 of 6.
    #   resample: first 1 (1/2) right; first 3 (1/4) wrong; first 2 (1/4), then 1 of 1, 1, 3: 2/3.
    #     So 1/2 + 1/4 * 2/3 = 2/3, with 10 tokens in 3 of 4 cases, else 20.
    #   oracle: all pairs but {2,3}: 5/6. Of resample: the same 2/3 as it selects.
    found = rows([recorded("1", "1", "2", "3", refuted="2")], k=4)
    for name in REPLAYED:
        assert found[name, 1].budget == 10
        assert found[name, 1].accuracy.value == pytest.approx(1 / 2)
        assert (found[name, 1].mean_tokens, found[name, 1].mean_samples) == (10, 1)
    two = {name: found[name, 2] for name in REPLAYED}
    accuracies = {name: row.accuracy.value for name, row in two.items()}
    assert accuracies == pytest.approx(
        {"first": 1 / 2, "majority": 1 / 2, "vetoed-majority": 2 / 3, "resample": 2 / 3}
    )
    spent = {name: row.mean_tokens for name, row in two.items()}
    assert spent == pytest.approx(
        {"first": 10, "majority": 20, "vetoed-majority": 20, "resample": 12.5}
    )
    oracle = {name: row.oracle for name, row in two.items()}
    assert oracle == pytest.approx(
        {"first": 1 / 2, "majority": 5 / 6, "vetoed-majority": 5 / 6, "resample": 2 / 3}
    )
    assert all(row.ran_out == 0 for row in two.values())


answers = st.lists(st.sampled_from("123"), min_size=8, max_size=8)


@settings(max_examples=25)
@given(st.lists(answers, min_size=1, max_size=3))
def test_the_first_has_avg_at_k_and_nothing_beats_the_oracle(problems: list[list[str]]):
    made = [recorded(*texts, refuted="2", id_=str(n)) for n, texts in enumerate(problems)]
    found = rows(made, k=8)
    right = sum(texts.count("1") for texts in problems)
    for multiple in (1, 2, 4):
        assert found["first", multiple].accuracy.value == pytest.approx(right / (8 * len(problems)))
    for row in found.values():
        assert row.accuracy.value <= row.oracle + 1e-12
        assert row.mean_tokens <= row.budget
        assert row.mean_samples <= row.multiple


def test_a_problem_with_short_samples_runs_out_of_them():
    short, long = (
        Recorded(str(tokens), [candidate("1", tokens=tokens) for _ in range(4)], [True] * 4)
        for tokens in (1, 99)
    )
    found = rows([short, long], 4)
    assert found["majority", 2].budget == 100
    assert found["majority", 2].ran_out == 0.5
    assert found["majority", 2].mean_samples == 2.5
    assert found["resample", 2].ran_out == 0


# --- of an evaluation ------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> Job:
    lines = [json.dumps({"question": f"{n}?", "answer": "#### 42"}) for n in range(3)]
    (tmp_path / "gsm8k.jsonl").write_text("\n".join(lines))
    chosen = Benchmarks(names=("gsm8k",), data=str(tmp_path), samples=4, temperature=1.0)
    return make_job("gsm8k", chosen, has_template=False)


SETTINGS = Benchmarks(names=("gsm8k",), samples=4, temperature=1.0)
REFUTED = replace(WRONG, text="6 x 7 = 17. So 17")
RECORDS = [
    record(0, RIGHT, WRONG, REFUTED, REFUTED),
    record(1, RIGHT, UNGRADED, SILENT, CUT),
    record(2, UNGRADED, UNGRADED, UNGRADED, UNGRADED),
]


def test_recorded_samples_are_judged_and_those_without_a_grade_left_out(job: Job):
    (table,) = equal_tokens_tables([job], {"gsm8k": RECORDS}, SETTINGS)
    assert (table.benchmark, table.num_problems) == ("gsm8k", 2)
    assert (table.step_reward, table.num_judged, table.num_failed) == ("arithmetic_steps", 7, 0)
    assert [row.strategy for row in table.rows] == list(REPLAYED) * 2
    found = {(row.strategy, row.multiple): row for row in table.rows}
    # 42 of 17, 17, 17 and 42 of three: avg@k is the mean of 1/4 and 1/3.
    assert found["first", 1].accuracy.value == pytest.approx((1 / 4 + 1 / 3) / 2)
    assert found["vetoed-majority", 2].accuracy.value > found["majority", 2].accuracy.value


def test_other_references_give_the_same_table(job: Job):
    garbage = [replace(one, reference="garbage") for one in RECORDS]
    tables = [equal_tokens_tables([job], {"gsm8k": r}, SETTINGS) for r in (RECORDS, garbage)]
    assert tables[0] == tables[1]


def test_no_table_for_few_samples_or_for_what_a_strategy_selected(job: Job):
    few = SETTINGS.model_copy(update={"samples": 3})
    selected = SETTINGS.model_copy(update={"strategy": "majority:2"})
    assert equal_tokens_tables([job], {"gsm8k": RECORDS}, few) == []
    assert equal_tokens_tables([job], {"gsm8k": RECORDS}, selected) == []


def test_without_a_step_reward_strategies_that_need_one_are_left_out(job: Job):
    class Unjudged(type(job.benchmark)):
        step_reward = None

    unjudged = replace(job, benchmark=Unjudged())
    (table,) = equal_tokens_tables([unjudged], {"gsm8k": RECORDS}, SETTINGS)
    assert [row.strategy for row in table.rows] == ["first", "majority"] * 2
    assert "No rule judges steps here" in to_page_table(table).note


# --- to read ---------------------------------------------------------------------------------

ROW = EqualTokensRow("majority", 2, 1024, Estimate(0.5, 0.4, 0.6), 987.4, 1.84, 0.75, 0.125)
TABLE = EqualTokens("gsm8k", 200, "arithmetic_steps", 800, 3, (ROW,))


def test_json_has_every_figure_by_name():
    shown = json.loads(json.dumps(equal_tokens_json(TABLE)))
    assert shown == {
        "benchmark": "gsm8k", "num_problems": 200, "step_reward": "arithmetic_steps",
        "num_judged": 800, "num_failed": 3,
        "rows": [
            {
                "strategy": "majority", "multiple": 2, "budget": 1024,
                "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
                "mean_tokens": 987.4, "mean_samples": 1.84, "oracle": 0.75, "ran_out": 0.125,
            }
        ],
    }  # fmt: skip


def test_page_and_terminal_show_the_same_cells():
    page = to_page_table(TABLE)
    assert page.title == "gsm8k: strategies at equal generated tokens"
    expected = ("majority", "1,024 (×2)", "50.0 % (40.0 to 60.0)", "987", "1.8", "75.0 %")
    assert page.rows == [expected]
    assert len(page.header) == len(expected)
    assert "3 of 800 samples could not be judged" in page.note
    assert "In up to 12.5 % of the replays the recorded samples ran out." in page.note
    console = Console(width=100)
    with console.capture() as capture:
        console.print(to_terminal_table(TABLE))
    assert all(cell in capture.get() for cell in expected)

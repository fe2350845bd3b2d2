"""Tests for grpo/arithmetic.py."""

import random
import re
from collections import Counter

import pytest

from cotree.grpo.arithmetic import ALPHABET, Question, questions, split_of, worked_solution
from cotree.grpo.config import ArithmeticTask
from cotree.grpo.config_traces import GeneratedTraces
from cotree.rewards.steps.expression import (
    Expression,
    Operation,
    num_operators,
    parse,
    render,
    value,
)
from cotree.rewards.steps.rewriting import rewriting_steps
from cotree.rewards.types import Problem, Verdict

TASK = ArithmeticTask(type="arithmetic", operands=(2, 6), largest=20)
TRAIN = questions(TASK, "train", count=600)
TEST = questions(TASK, "test", count=200)


def nodes(tree: Expression) -> list[Expression]:
    if isinstance(tree, Operation):
        return [tree, *nodes(tree.left), *nodes(tree.right)]
    return [tree]


def solved(question: str, *, seed: int = 0, **rates: float) -> str:
    traces = GeneratedTraces(type="generated", **rates)
    return worked_solution(question, traces, largest=20, rng=random.Random(seed))


def lines(solution: str) -> list[str]:
    return solution.removeprefix("<think>\n").partition("\n</think>")[0].split("\n")


def box(solution: str) -> str:
    return solution.rpartition("{")[2].removesuffix("}")


def test_every_number_and_intermediate_value_is_in_range():
    for question in [*TRAIN, *TEST]:
        tree = parse(question.text)
        assert all(0 <= value(node) <= 20 for node in nodes(tree)), question
        assert value(tree) == question.value


def test_parentheses_stand_only_where_they_are_needed():
    for question in TRAIN:
        assert render(parse(question.text)) == question.text
        for match in re.finditer(r"\(", question.text):
            # Without any one pair, the text must mean another number or another order of work.
            close = _closing(question.text, match.start())
            without = (
                question.text[: match.start()]
                + question.text[match.start() + 1 : close]
                + question.text[close + 1 :]
            )
            assert parse(without) != parse(question.text), question


def _closing(text: str, opening: int) -> int:
    depth = 0
    for at in range(opening, len(text)):
        depth += (text[at] == "(") - (text[at] == ")")
        if depth == 0:
            return at
    raise AssertionError(text)


def test_the_splits_are_disjoint_and_free_of_duplicates():
    train, test = ({question.text for question in split} for split in (TRAIN, TEST))
    assert len(train) == 600
    assert len(test) == 200
    assert not train & test
    assert {split_of(text) for text in train} == {"train"}
    assert {split_of(text) for text in test} == {"test"}


def test_levels_are_equally_likely():
    levels = Counter(num_operators(parse(question.text)) + 1 for question in TRAIN)
    assert levels == dict.fromkeys(range(2, 7), 120)


def test_a_larger_split_begins_with_the_smaller_one():
    assert questions(TASK, "train", count=50) == TRAIN[:50]


def test_another_task_has_another_test_set():
    other = ArithmeticTask(type="arithmetic", operands=(2, 6), largest=19)
    assert questions(other, "test", count=50) != TEST[:50]


def test_no_constant_answer_is_right_often():
    # Values are uniform over 21 numbers apart from duplicates: about 5 % each.
    (_, most), *_ = Counter(question.value for question in TRAIN).most_common(1)
    assert most / len(TRAIN) < 0.1


def test_all_operators_occur_and_precedence_matters_often():
    text = "".join(question.text for question in TRAIN)
    shares = {operator: text.count(operator) / len(TRAIN) for operator in "+-*"}
    assert min(shares.values()) > 0.5  # of 3 operators per question on average
    assert sum(bool(re.search(r"[+-][0-9]+\*", question.text)) for question in TRAIN) > 60


def test_too_many_questions_are_refused_with_the_way_out():
    tiny = ArithmeticTask(type="arithmetic", operands=(2, 2), largest=2)
    with pytest.raises(ValueError, match=r"num_train = 1000, but after \d+ train questions"):
        questions(tiny, "train", count=1000)


def test_the_alphabet_spells_every_question_and_solution():
    token = re.compile("|".join(re.escape(t) for t in sorted(ALPHABET, key=len, reverse=True)))
    for question in TRAIN[:100]:
        text = question.text + "=\n" + solved(question.text, wrong_order_frac=0.5, slip_frac=0.5)
        assert "".join(token.findall(text)) == text


def test_a_perfect_solution_worked_out_by_hand():
    # Innermost parentheses first, from the left; in them products before sums.
    expected = ["5*(10-2*3)+1", "5*(10-6)+1", "5*4+1", "20+1", "21"]
    solution = solved("(2+3)*(10-2*3)+1")
    assert lines(solution) == expected
    assert solution == "<think>\n" + "\n".join(expected) + "\n</think>\n\\boxed{21}"


def test_every_line_of_a_solution_does_one_operation():
    for question in TRAIN[:200]:
        for rates in ({}, {"wrong_order_frac": 0.5, "slip_frac": 0.5}):
            steps = lines(solved(question.text, **rates))
            left = [num_operators(parse(line)) for line in [question.text, *steps]]
            assert left == list(range(len(steps), -1, -1))


def test_ignored_precedence_takes_the_leftmost_operator():
    assert lines(solved("2+3*4", wrong_order_frac=0.999)) == ["5*4", "20"]
    assert lines(solved("9-2*3", wrong_order_frac=0.999)) == ["7*3", "21"]
    assert lines(solved("2*3+4", wrong_order_frac=0.999)) == ["6+4", "10"]  # nothing to ignore
    # 1-1*0 is 1, but (1-1)*0 would be fine too; 1-2*0 cannot err: 1-2 is negative.
    assert lines(solved("1-2*0", wrong_order_frac=0.999)) == ["1-0", "1"]
    # A mistake that would make a later line negative is not made: 20-(2+3*5) -> 20-25.
    assert lines(solved("20-(2+3*5)", wrong_order_frac=0.999)) == ["20-(2+15)", "20-17", "3"]


def test_a_slip_is_off_by_one_or_two_and_carries_on_to_the_box():
    ends = Counter(box(solved("4+5", seed=seed, slip_frac=0.999)) for seed in range(200))
    assert set(ends) == {"7", "8", "10", "11"}  # 9 +- 1, 9 +- 2
    assert box(solved("1-1", seed=1, slip_frac=0.999)) in {"1", "2"}  # never negative


@pytest.mark.parametrize("rates", [{"slip_frac": 0.3}, {"wrong_order_frac": 0.7}])
def test_mistakes_are_refuted_at_their_line_and_the_box_agrees_with_the_last_line(rates):
    refuted = 0
    for seed, question in enumerate(TRAIN):
        solution = solved(question.text, seed=seed, **rates)
        assert box(solution) == lines(solution)[-1]
        assert all(
            0 <= value(node) <= 400 for line in lines(solution) for node in nodes(parse(line))
        )
        reward = rewriting_steps(solution, _problem(question))
        assert reward.steps[-1].verdict is Verdict.VERIFIED
        refuted += sum(step.verdict is Verdict.REFUTED for step in reward.steps)
    assert refuted > 50


def test_the_share_of_slips_is_the_rate():
    steps = slips = 0
    for seed, question in enumerate(TRAIN):
        reward = rewriting_steps(
            solved(question.text, seed=seed, slip_frac=0.2), _problem(question)
        )
        steps += len(reward.steps) - 1  # without the box
        slips += sum(step.verdict is Verdict.REFUTED for step in reward.steps)
    # 1800 steps: the standard error of a share of 0.2 is 0.0094; 4 of them, and slips that a
    # factor 0 hides lower it a little.
    assert slips / steps == pytest.approx(0.2, abs=0.04)


def test_solutions_are_a_function_of_the_seed():
    rates = {"slip_frac": 0.5, "wrong_order_frac": 0.5}
    first = [solved(question.text, seed=3, **rates) for question in TRAIN[:50]]
    assert first == [solved(question.text, seed=3, **rates) for question in TRAIN[:50]]
    assert first != [solved(question.text, seed=4, **rates) for question in TRAIN[:50]]


def _problem(question: Question) -> Problem:
    return Problem("p", "", str(question.value), "arithmetic", question.text)

"""Tests for grpo/countdown.py."""

import random
import re
from collections import Counter
from itertools import permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cotree.grpo.config import CountdownTask
from cotree.grpo.config_traces import GeneratedTraces
from cotree.grpo.countdown import (
    ALPHABET,
    Game,
    Rules,
    question_text,
    random_game,
    read_question,
    split_of,
    task_games,
    worked_solution,
)
from cotree.rewards.steps.countdown import countdown, countdown_answer, countdown_steps
from cotree.rewards.steps.expression import parse, value
from cotree.rewards.types import Problem, Verdict

TASK = CountdownTask(type="countdown")
TRAIN = task_games(TASK, "train", count=600)
TEST = task_games(TASK, "test", count=200)
LINE = re.compile(r"([0-9]+)([-+*])([0-9]+)=([0-9]+)")


def problem_of(game: Game) -> Problem:
    columns = {"numbers": list(game.numbers), "target": game.target}
    return Problem("p", "", "", "countdown", columns=columns)


def worked(question: str, *, seed: int = 0, largest: int = TASK.largest, **rates: float) -> str:
    traces = GeneratedTraces(type="generated", **rates)
    return worked_solution(question, traces, largest=largest, rng=random.Random(seed))


def solved(game: Game, *, seed: int = 0, **rates: float) -> str:
    return worked(question_text(game.numbers, game.target), seed=seed, **rates)


def lines(solution: str) -> list[str]:
    return solution.removeprefix("<think>\n").partition("\n</think>")[0].split("\n")


def box(solution: str) -> str:
    return solution.rpartition("{")[2].removesuffix("}")


def verdicts(solution: str, game: Game) -> list[Verdict]:
    """Of the lines, and last of the answer."""
    return [step.verdict for step in countdown(solution, problem_of(game)).steps]


def values_on_the_way(numbers: tuple[int, ...], largest: int) -> set[int]:
    """Every target that operations with results in 1..largest make of all the numbers.

    By brute force over orders and shapes, unlike the teacher's: two numbers are joined, then the
    rest is done in the same way.
    """
    if len(numbers) == 1:
        return set(numbers)
    found: set[int] = set()
    for (a, b, *rest), sign in product(permutations(numbers), "+-*"):
        result = {"+": a + b, "-": a - b, "*": a * b}[sign]
        if 1 <= result <= largest:
            found |= values_on_the_way((result, *rest), largest)
    return found


# --- games -----------------------------------------------------------------------------------


def test_games_are_the_same_every_time_and_more_begin_with_fewer():
    assert task_games(TASK, "train", count=100) == TRAIN[:100]
    assert task_games(TASK, "test", count=200) == TEST


def test_every_game_is_won_by_its_solution_with_each_number_once():
    for game in [*TRAIN, *TEST]:
        reward = countdown_answer(rf"\boxed{{{game.solution}}}", problem_of(game), use_all=True)
        assert reward.value == 1.0, game


def test_numbers_and_targets_are_in_range_and_no_game_is_won_from_the_start():
    for game in [*TRAIN, *TEST]:
        assert all(1 <= number <= TASK.largest for number in (*game.numbers, game.target)), game
        assert game.target not in game.numbers


def test_every_game_can_be_won_without_leaving_the_range():
    for game in TRAIN[:60]:
        assert game.target in values_on_the_way(game.numbers, TASK.largest), game


def test_the_splits_are_disjoint_and_free_of_duplicates():
    train, test = (
        {(tuple(sorted(game.numbers)), game.target) for game in split} for split in (TRAIN, TEST)
    )
    assert (len(train), len(test)) == (600, 200)
    assert not train & test
    for games, split in ((TRAIN, "train"), (TEST, "test")):
        assert {split_of(question_text(game.numbers, game.target)) for game in games} == {split}


def test_levels_are_equally_likely():
    assert Counter(len(game.numbers) for game in TRAIN) == {3: 300, 4: 300}


def test_another_task_has_other_games():
    other = CountdownTask(type="countdown", largest=29)
    assert task_games(other, "test", count=50) != TEST[:50]


def test_the_default_task_has_as_many_games_as_it_asks_for():
    assert len(task_games(TASK, "train", count=TASK.num_train)) == TASK.num_train


def test_too_many_games_are_refused_with_the_way_out():
    # 1,1->2 is the only game: 2-1 and 2*1 make a number that is given, 1+2 and 2+2 are too large.
    tiny = CountdownTask(type="countdown", numbers=(2, 2), largest=2)
    with pytest.raises(ValueError, match=r"num_train = 9, but after [01] train games no new one"):
        task_games(tiny, "train", count=9)


def test_a_game_that_leaves_its_bounds_is_dropped():
    rules = Rules(largest_number=9, signs="+-*/", largest_value=12, targets=range(5, 11))
    drawn = [random_game(random.Random(seed), 4, rules) for seed in range(3_000)]
    kept = [game for game in drawn if game is not None]
    assert 0 < len(kept) < len(drawn)
    assert {game.target for game in kept} == set(range(5, 11))
    without_bound = rules._replace(largest_value=None)
    for seed, game in enumerate(drawn):
        free = random_game(random.Random(seed), 4, without_bound)
        assert game is None or game == free


@given(st.lists(st.integers(1, 999), min_size=2, max_size=6), st.integers(1, 999))
def test_a_question_is_read_back(numbers: list[int], target: int):
    assert read_question(question_text(numbers, target)) == (tuple(sorted(numbers)), target)


def test_the_order_of_the_numbers_does_not_change_the_question():
    assert question_text((7, 3, 5), 22) == question_text((5, 7, 3), 22) == "3,5,7->22"


@pytest.mark.parametrize("text", ["", "3->3", "3,5->", "3,5 -> 8", "3,5->8\n", "3,-5->8", "3,٥->8"])
def test_what_is_no_question_is_refused(text: str):
    with pytest.raises(ValueError, match="is no game; write numbers and a target as 3,5,7->22"):
        read_question(text)


# --- the teacher -----------------------------------------------------------------------------


def test_a_perfect_solution_worked_out_by_hand():
    # Without a value above 22, only (5*3)+7 makes 22 of 3, 5 and 7: of the other first
    # operations, 5+3, 7+3, 7+5, 5-3, 7-3, 7-5 and 7*3 leave 8 and 7, 10 and 5, 12 and 3, 2 and 7,
    # 4 and 5, 2 and 3, 21 and 5, none of which makes 22; 7*5 is too large.
    expected = "<think>\n5*3=15\n15+7=22\n</think>\n\\boxed{(5*3)+7}"
    assert {worked("3,5,7->22", seed=seed, largest=22) for seed in range(20)} == {expected}


@pytest.mark.parametrize("seed", [0, 1])
def test_without_mistakes_every_step_is_verified_and_the_game_is_won(seed: int):
    for game in [*TRAIN, *TEST]:
        solution = solved(game, seed=seed)
        reward = countdown(solution, problem_of(game), use_all=True, steps_required=True)
        assert reward.value == 1.0, (solution, reward.reason)
        assert verdicts(solution, game) == [Verdict.VERIFIED] * len(game.numbers)
        assert countdown_steps(solution, problem_of(game)).value == 0.0


def test_the_teacher_knows_several_ways_to_win():
    boxes = {box(worked("2,3,6->12", seed=seed)) for seed in range(50)}
    assert {"6+(3*2)", "(6-2)*3"} <= boxes
    assert {value(parse(text)) for text in boxes} == {12}


@pytest.mark.parametrize(
    "rates", [{}, {"slip_frac": 0.5}, {"wrong_choice_frac": 0.5}], ids=["none", "slips", "choices"]
)
def test_every_line_joins_two_of_the_numbers_left_and_none_is_below_one(rates: dict[str, float]):
    for seed, game in enumerate(TRAIN[:200]):
        left = Counter(game.numbers)
        for line in lines(solved(game, seed=seed, **rates)):
            shown = LINE.fullmatch(line)
            assert shown is not None, line
            a, b, result = int(shown[1]), int(shown[3]), int(shown[4])
            assert Counter((a, b)) <= left, (game, line)
            assert a >= b
            assert result >= 1
            left = left - Counter((a, b)) + Counter((result,))
        assert left.total() == 1


@pytest.mark.parametrize("rate", [0.2, 0.6])
def test_a_slip_is_refuted_at_its_line_and_is_off_by_one_or_two(rate: float):
    num_lines = num_slips = 0
    for seed, game in enumerate(TRAIN):
        solution = solved(game, seed=seed, slip_frac=rate)
        off = [
            int(shown[4]) - value(parse(shown[0].partition("=")[0]))
            for shown in LINE.finditer(solution)
        ]
        assert set(off) <= {-2, -1, 0, 1, 2}
        refuted = [verdict is Verdict.REFUTED for verdict in verdicts(solution, game)[:-1]]
        assert refuted == [error != 0 for error in off], solution
        reward = countdown(solution, problem_of(game))
        assert (reward.value == 1.0) <= (not any(refuted))
        num_lines, num_slips = num_lines + len(off), num_slips + sum(refuted)
    # 1500 lines: the standard error of a share is at most 0.013; 4 of them.
    assert num_slips / num_lines == pytest.approx(rate, abs=0.052)


def test_wrong_choices_are_true_and_lose_the_game():
    num_lost = 0
    for seed, game in enumerate(TRAIN):
        solution = solved(game, seed=seed, wrong_choice_frac=0.3)
        *steps, answer = verdicts(solution, game)
        assert set(steps) == {Verdict.VERIFIED}
        is_lost = answer is Verdict.REFUTED
        assert is_lost == (value(parse(box(solution))) != game.target)
        num_lost += is_lost
    # 300 games of two and 300 of three steps are won when no step is wrong: with probability
    # 0.7^2 = 0.49 and 0.7^3 = 0.343, so 0.58 are lost; standard error 0.02. Where every operation
    # wins, there is no wrong one, which only lowers it a little.
    assert num_lost / len(TRAIN) == pytest.approx(0.58, abs=0.08)


def test_after_a_wrong_choice_the_target_is_out_of_reach():
    for seed, game in enumerate(TRAIN[:100]):
        left = Counter(game.numbers)
        first = LINE.fullmatch(lines(solved(game, seed=seed, wrong_choice_frac=0.999))[0])
        assert first is not None
        left = left - Counter((int(first[1]), int(first[3]))) + Counter((int(first[4]),))
        is_in_reach = game.target in values_on_the_way(tuple(left.elements()), TASK.largest)
        assert not is_in_reach or int(first[4]) > TASK.largest


def test_the_box_holds_the_given_numbers_even_after_a_slip():
    for seed, game in enumerate(TRAIN[:200]):
        text = box(solved(game, seed=seed, slip_frac=0.5, wrong_choice_frac=0.2))
        assert Counter(map(int, re.findall("[0-9]+", text))) == Counter(game.numbers)


@settings(max_examples=50)
@given(st.sampled_from(TRAIN), st.integers(0, 2**32), st.floats(0, 0.9), st.floats(0, 0.9))
def test_the_alphabet_spells_every_question_and_solution(
    game: Game, seed: int, slip: float, wrong: float
):
    token = re.compile("|".join(re.escape(t) for t in sorted(ALPHABET, key=len, reverse=True)))
    text = question_text(game.numbers, game.target) + "\n"
    text += solved(game, seed=seed, slip_frac=slip, wrong_choice_frac=wrong)
    assert "".join(token.findall(text)) == text


def test_solutions_are_a_function_of_the_seed():
    rates = {"slip_frac": 0.5, "wrong_choice_frac": 0.5}
    first = [solved(game, seed=3, **rates) for game in TRAIN[:50]]
    assert first == [solved(game, seed=3, **rates) for game in TRAIN[:50]]
    assert first != [solved(game, seed=4, **rates) for game in TRAIN[:50]]

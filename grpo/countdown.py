"""Countdown: generated games, and a rule-based teacher that can be made to err.

A game gives numbers and a target; an expression of the numbers, each used at most once, must have
the target's value. Everything is a pure function of its arguments. The games depend on the task's
parameters only, not on the run seed, so test sets are equal across runs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations
from typing import NamedTuple, TypeVar

from cotree.grpo.arithmetic import TEST_SHARE, Split
from cotree.grpo.config import CountdownTask
from cotree.grpo.config_traces import GeneratedTraces
from cotree.grpo.seeds import derive
from cotree.rewards.steps.expression import Operator

ALPHABET: tuple[str, ...] = (
    *"0123456789+-*()=,\n",
    "->",
    "<think>",
    "</think>",
    r"\boxed{",
    "}",
)
"""Tokens of the task's character tokenizer: everything questions and `worked_solution` write."""

_MAX_ATTEMPTS = 20_000
"""Draws without a new game after which a level counts as exhausted."""
_Item = TypeVar("_Item")
_QUESTION = re.compile(r"([0-9]+(?:,[0-9]+)+)->([0-9]+)", re.ASCII)


# --- games -----------------------------------------------------------------------------------


class Game(NamedTuple):
    """Numbers, a target, and an expression that uses each number once to reach it."""

    numbers: tuple[int, ...]
    target: int
    solution: str


class Rules(NamedTuple):
    """Which games are made."""

    largest_number: int
    signs: str
    """Operations to draw from, out of `+-*/`."""
    largest_value: int | None
    """Of the values on the way; None: any."""
    targets: range


def random_game(rng: random.Random, size: int, rules: Rules) -> Game | None:
    """A game made backwards, or None for one to draw again.

    Random numbers are joined by random operations until one value is left, the target.

    Args:
        rng: the same state gives the same game.
        size: how many numbers.
        rules: a game is dropped when a value is no positive integer or is out of bounds.
    """
    numbers = tuple(rng.randint(1, rules.largest_number) for _ in range(size))
    left = [(number, str(number)) for number in numbers]
    while len(left) > 1:
        rng.shuffle(left)
        (a, first), (b, second) = left.pop(), left.pop()
        sign = rng.choice(rules.signs)
        value = _joined(sign, a, b)
        if value < 1 or (rules.largest_value is not None and value > rules.largest_value):
            return None
        left.append((value, f"({first} {sign} {second})"))
    ((target, solution),) = left
    return Game(numbers, target, solution[1:-1]) if target in rules.targets else None


def task_games(task: CountdownTask, split: Split, *, count: int) -> list[Game]:
    """The first `count` games of a split, no two alike; levels take turns.

    Whether a game is a test game is decided by a hash of its question, in which the numbers are
    sorted, so the splits cannot overlap. A larger `count` continues the same sequence. No target
    is among the numbers: such a game would be won without an operation.

    Raises:
        ValueError: there are not that many different games.
    """
    low, high = task.numbers
    rng = random.Random(derive("countdown", low, high, task.largest, split))
    rules = Rules(task.largest, "+-*", task.largest, range(1, task.largest + 1))
    levels = range(low, high + 1)
    found: dict[str, Game] = {}
    while len(found) < count:
        size = levels[len(found) % len(levels)]
        for game in _draws(rng, size, rules):
            text = question_text(game.numbers, game.target)
            if text not in found and split_of(text) == split:
                found[text] = game
                break
        else:
            raise ValueError(
                f"task.num_{split} = {count}, but after {len(found)} {split} games no new one with "
                f"{size} numbers in 1..{task.largest} was found. Lower num_{split}, or raise "
                "task.largest or task.numbers."
            )
    return list(found.values())


def question_text(numbers: Sequence[int], target: int) -> str:
    """`3,5,7->22`: the numbers in ascending order and what to reach."""
    return f"{','.join(map(str, sorted(numbers)))}->{target}"


def read_question(text: str) -> tuple[tuple[int, ...], int]:
    """The numbers and the target of a `question_text`.

    Raises:
        ValueError: the text is no such question.
    """
    found = _QUESTION.fullmatch(text)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no game; write numbers and a target as 3,5,7->22.")
    return tuple(map(int, found[1].split(","))), int(found[2])


def split_of(text: str) -> Split:
    """The split that a game belongs to, by its question alone."""
    return "test" if derive("countdown split", text) % TEST_SHARE == 0 else "train"


def _draws(rng: random.Random, size: int, rules: Rules) -> Iterator[Game]:
    for _ in range(_MAX_ATTEMPTS):
        game = random_game(rng, size, rules)
        if game is not None and game.target not in game.numbers:
            yield game


def _joined(sign: str, a: int, b: int) -> int:
    """`a sign b` where that is a positive integer, else a number below 1."""
    if sign == "+":
        return a + b
    if sign == "-":
        return a - b
    if sign == "*":
        return a * b
    return 0 if a % b else a // b


# --- the teacher -----------------------------------------------------------------------------


class _Term(NamedTuple):
    """A number that is left, and how it was made from the given ones."""

    value: int
    made: str


class _Move(NamedTuple):
    """One operation on two of the numbers that are left."""

    operator: Operator
    first: int
    second: int
    """Places of the two numbers; `first` has the larger value."""
    result: int


def worked_solution(
    question: str, traces: GeneratedTraces, *, largest: int, rng: random.Random
) -> str:
    r"""The teacher's completion: one operation a line, then the boxed expression of all of them.

        <think>
        5*3=15
        15+7=22
        </think>
        \boxed{(5*3)+7}

    In the box an operation stands in parentheses wherever its result was used: a tiny model
    learns that sooner than the rules of precedence.

    The teacher knows from which operations the target can still be reached with all values in
    1..largest and takes one of them at random. It makes two kinds of mistakes:

    - a wrong choice (`wrong_choice_frac` of the steps from which the target is in reach): a true
      operation after which it is not;
    - a slip (`slip_frac` of all steps): the result is off by one or two.

    It goes on with what it wrote. Where the target is out of reach it takes any operation, so that
    all numbers are used. No value is below 1, and a true product is at most `largest`.

    Raises:
        ValueError: `question` is no game.
    """
    numbers, target = read_question(question)
    terms = [_Term(number, str(number)) for number in numbers]
    lines: list[str] = []
    while len(terms) > 1:
        is_wrong = rng.random() < traces.wrong_choice_frac
        slip = rng.choice((-2, -1, 1, 2)) if rng.random() < traces.slip_frac else 0
        move = _chosen(terms, target, largest, is_wrong=is_wrong, rng=rng)
        first, second = terms[move.first], terms[move.second]
        # A result of 1 or 2 has no room below it.
        result = move.result + slip if move.result + slip >= 1 else move.result - slip
        lines.append(f"{first.value}{move.operator}{second.value}={result}\n")
        made = f"({first.made}{move.operator}{second.made})"
        terms = [*_others(terms, move), _Term(result, made)]
    return f"<think>\n{''.join(lines)}</think>\n\\boxed{{{terms[0].made[1:-1]}}}"


def _chosen(
    terms: Sequence[_Term], target: int, largest: int, *, is_wrong: bool, rng: random.Random
) -> _Move:
    """The teacher's next operation; a wrong one can only be chosen where there is one."""
    values = [term.value for term in terms]
    moves = _moves(values, largest)
    right = [move for move in moves if _leads_on(values, move, target, largest)]
    wrong = [move for move in moves if move not in right]
    return rng.choice(wrong if not right or (is_wrong and wrong) else right)


def _moves(values: Sequence[int], largest: int) -> list[_Move]:
    """Operations with results in 1..largest, and larger sums, so that there is always one."""
    found: list[_Move] = []
    for i, j in combinations(range(len(values)), 2):
        first, second = (i, j) if values[i] >= values[j] else (j, i)
        a, b = values[first], values[second]
        found.append(_Move("+", first, second, a + b))
        if a > b:
            found.append(_Move("-", first, second, a - b))
        if a * b <= largest:
            found.append(_Move("*", first, second, a * b))
    return found


def _leads_on(values: Sequence[int], move: _Move, target: int, largest: int) -> bool:
    if move.result > largest:
        return False
    left = sorted([*_others(values, move), move.result])
    return _in_reach(tuple(left), target, largest)


@lru_cache(maxsize=1 << 16)
def _in_reach(values: tuple[int, ...], target: int, largest: int) -> bool:
    """Whether operations with results in 1..largest make the target of all the values."""
    if len(values) == 1:
        return values[0] == target
    return any(_leads_on(values, move, target, largest) for move in _moves(values, largest))


def _others(items: Sequence[_Item], move: _Move) -> list[_Item]:
    return [item for at, item in enumerate(items) if at not in (move.first, move.second)]

"""The arithmetic task: generated expressions, and a rule-based teacher that can be made to err.

Everything is a pure function of its arguments. The problems depend on the task's parameters
only, not on the run seed, so test sets are equal across runs.
"""

import random
import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from cotree.grpo.config import ArithmeticTask
from cotree.grpo.config_traces import GeneratedTraces
from cotree.grpo.seeds import derive
from cotree.rewards.steps.expression import (
    Expression,
    Number,
    Operation,
    Operator,
    apply,
    parse,
    render,
    value,
)

Split = Literal["train", "test"]

ALPHABET: tuple[str, ...] = (
    *"0123456789+-*()= \n",
    "<think>",
    "</think>",
    r"\boxed{",
    "}",
)
"""Tokens of the task's character tokenizer: everything `questions` and `worked_solution` write."""

TEST_SHARE = 8
"""One expression in this many belongs to the test split."""
_MAX_ATTEMPTS = 2_000
"""Draws without a new expression after which a level counts as exhausted."""

_INNERMOST = re.compile(r"\(([^()]*)\)")
_TOKEN = re.compile(r"[0-9]+|[-+*]")


class Question(NamedTuple):
    """An expression and its value."""

    text: str
    value: int


def questions(task: ArithmeticTask, split: Split, *, count: int) -> list[Question]:
    """The first `count` questions of a split, without duplicates; levels take turns.

    Whether an expression is a test question is decided by a hash of its text, so the splits
    cannot overlap. A larger `count` continues the same sequence. Numbers and intermediate values
    lie in 0..task.largest. Values are uniform over that range before duplicates are left out, so
    no constant answer is right often.

    Raises:
        ValueError: there are not that many different expressions.
    """
    low, high = task.operands
    rng = random.Random(derive("arithmetic", low, high, task.largest, split))
    levels = range(low, high + 1)
    found: dict[str, int] = {}
    while len(found) < count:
        operands = levels[len(found) % len(levels)]
        for tree in _draws(rng, operands, task.largest):
            text = render(tree)
            if text not in found and split_of(text) == split:
                found[text] = value(tree)
                break
        else:
            raise ValueError(
                f"task.num_{split} = {count}, but after {len(found)} {split} questions no new one "
                f"with {operands} numbers in 0..{task.largest} was found. Lower num_{split}, or "
                "raise task.largest or task.operands."
            )
    return [Question(text, answer) for text, answer in found.items()]


def split_of(text: str) -> Split:
    """The split that an expression belongs to, by its text alone."""
    return "test" if derive("arithmetic split", text) % TEST_SHARE == 0 else "train"


def worked_solution(
    question: str, traces: GeneratedTraces, *, largest: int, rng: random.Random
) -> str:
    """The teacher's completion: one rewriting a line, then the boxed value of the last line.

    Each line does one operation of the line before: in the leftmost innermost parentheses the
    first `*`, or the first operator if there is none. Mistakes carry on to the box:

    - ignored precedence (`wrong_order_frac` of the steps with `a+b*c` or `a-b*c` in front): the
      leftmost operator is taken although a `*` follows, 2+3*4 -> 5*4;
    - a slip (`slip_frac` of all steps): the result is off by one or two.

    A mistake is made only if the rest can be worked out with values in 0..largest^2, so that
    there are no negative numbers and lines stay short.
    """
    most = largest * largest
    lines: list[str] = []
    line = question
    while not line.isdigit():
        line = _next_line(line, traces, most=most, rng=rng)
        lines.append(line)
    return "<think>\n" + "".join(f"{text}\n" for text in lines) + f"</think>\n\\boxed{{{line}}}"


def _draws(rng: random.Random, operands: int, largest: int) -> Iterator[Expression]:
    for _ in range(_MAX_ATTEMPTS):
        tree = _tree(rng, operands, rng.randint(0, largest), largest)
        if tree is not None:
            yield tree


def _tree(rng: random.Random, operands: int, target: int, largest: int) -> Expression | None:
    """A random tree with this value, built from the value down; `None` for one to draw again.

    Built upwards instead, nearly all trees would leave the range.
    """
    if operands == 1:
        return Number(target)
    operator, left_value, right_value = _operation(rng, target, largest)
    split = rng.randint(1, operands - 1)
    left = _tree(rng, split, left_value, largest)
    right = _tree(rng, operands - split, right_value, largest)
    if left is None or right is None:
        return None
    if operator != "-" and _same_rank(operator, right):
        # a+(b-c) needs no parentheses, but without them it is another tree: turn it round.
        if _same_rank(operator, left):
            return None
        left, right = right, left
    elif operator == "+" and _is_product(left) and not _is_product(right):
        # b*c+a means the same whoever ignores precedence; a+b*c does not, so it is the form asked.
        left, right = (left, right) if _is_sum(right) else (right, left)
    return Operation(operator, left, right)


def _operation(rng: random.Random, target: int, largest: int) -> tuple[Operator, int, int]:
    """An operator and two values in 0..largest that it joins to `target`.

    A product comes up three times out of four where there is one without a factor 1, because
    precedence matters only next to a product.
    """
    factors = _factors(target)
    if factors and rng.random() < 0.75:
        factor = rng.choice(factors)
        return "*", factor, target // factor
    if rng.random() < 0.5:
        part = _part(rng, target)
        return "+", target - part, part
    part = _part(rng, largest - target)
    return "-", target + part, part


def _part(rng: random.Random, most: int) -> int:
    """A number in 0..most; half of the time one that can be a product, if there is any."""
    products = [number for number in range(most + 1) if _factors(number)]
    return rng.choice(products) if products and rng.random() < 0.5 else rng.randint(0, most)


def _factors(number: int) -> list[int]:
    """Divisors other than 1 and the number itself."""
    return [a for a in range(2, number) if number % a == 0]


def _same_rank(operator: Operator, tree: Expression) -> bool:
    return _is_product(tree) if operator == "*" else _is_sum(tree)


def _is_product(tree: Expression) -> bool:
    return isinstance(tree, Operation) and tree.operator == "*"


def _is_sum(tree: Expression) -> bool:
    return isinstance(tree, Operation) and tree.operator != "*"


def _next_line(line: str, traces: GeneratedTraces, *, most: int, rng: random.Random) -> str:
    """The line after one operation, with the teacher's mistakes."""
    innermost = _INNERMOST.search(line)
    start, end = innermost.span() if innermost else (0, len(line))
    tokens = _TOKEN.findall(innermost[1] if innermost else line)
    at = tokens.index("*") if "*" in tokens else 1
    # Both numbers are drawn at every step, so that one rate does not change the other's draws.
    wrong_order = rng.random() < traces.wrong_order_frac
    slip = rng.choice((-2, -1, 1, 2)) if rng.random() < traces.slip_frac else 0
    if tokens[1] != "*" and tokens[3:4] == ["*"] and wrong_order:
        wrong = _rewritten(line, start, end, tokens, at=1, slip=0)
        at = 1 if _stays_in_range(wrong, most) else at
    for mistake in (slip, -slip) if slip else ():
        slipped = _rewritten(line, start, end, tokens, at=at, slip=mistake)
        if _stays_in_range(slipped, most):
            return slipped
    return _rewritten(line, start, end, tokens, at=at, slip=0)


def _rewritten(line: str, start: int, end: int, tokens: list[str], *, at: int, slip: int) -> str:
    """The line with the operator `tokens[at]` done in the group of characters [start, end)."""
    operator = tokens[at]
    assert operator in ("+", "-", "*"), tokens
    result = apply(operator, int(tokens[at - 1]), int(tokens[at + 1])) + slip
    rest = [*tokens[: at - 1], str(result), *tokens[at + 2 :]]
    in_parentheses = line[start] == "("
    group = "".join(rest)
    return line[:start] + (f"({group})" if in_parentheses and rest[1:] else group) + line[end:]


def _stays_in_range(line: str, most: int) -> bool:
    """Whether the line has no negative number and works out without leaving 0..most."""
    return all(0 <= number <= most for number in _node_values(parse(line)))


def _node_values(tree: Expression) -> Iterator[int]:
    yield value(tree)
    if isinstance(tree, Operation):
        yield from _node_values(tree.left)
        yield from _node_values(tree.right)

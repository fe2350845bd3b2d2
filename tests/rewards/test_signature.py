"""Tests for rewards/signature.py."""

from functools import partial

import pytest

from cotree.rewards.signature import RewardLookupError, bind, check_columns
from cotree.rewards.types import Problem

PROBLEM = Problem("p7", "Add 1 and 1.", "2", "sums", "1+1", {"tests": ["t"], "level": 3})


def plain(completion, problem): ...
def every_field(completion, problem, prompt, reference, question, task, id): ...  # noqa: A002
def columns(completion, *, tests, level=1, scale=2.0): ...
def options(completion, problem, limit: int, *, scale: float = 1.0): ...
def keywords(completion, reference, **rest): ...
def batch(completions, problems, reference, tests, level=1, scale=2.0): ...
async def asynchronous(completion): ...


class Judge:
    async def __call__(self, completions, reference): ...


def test_fields_and_columns_are_filled_by_name():
    arguments = bind(every_field, {}).arguments(("text", PROBLEM))
    assert arguments == {
        "completion": "text",
        "problem": PROBLEM,
        "prompt": "Add 1 and 1.",
        "reference": "2",
        "question": "1+1",
        "task": "sums",
        "id": "p7",
    }
    assert bind(columns, {"scale": 0.5}).arguments(("text", PROBLEM)) == {
        "completion": "text",
        "tests": ["t"],
        "level": 3,  # the column replaces the default
        "scale": 0.5,
    }


def test_a_default_stays_where_the_row_has_no_such_column():
    bare = Problem("p8", "", "", "", columns={"tests": []})
    assert bind(columns, {}).arguments(("x", bare)) == {"completion": "x", "tests": []}
    both = bind(batch, {}).batch_arguments([("x", bare), ("y", PROBLEM)])
    assert both["level"] == [1, 3]  # the first row has none, so its own value is the default
    assert "scale" not in both


def test_a_batch_gets_lists_under_the_same_names_and_options_as_they_are():
    bound = bind(batch, {"scale": 0.5})
    assert bound.batch_arguments([("x", PROBLEM), ("y", PROBLEM)]) == {
        "completions": ["x", "y"],
        "problems": [PROBLEM, PROBLEM],
        "reference": ["2", "2"],
        "tests": [["t"], ["t"]],
        "level": [3, 3],
        "scale": 0.5,
    }


@pytest.mark.parametrize(
    ("fn", "is_batch", "is_async"),
    [
        (plain, False, False),
        (batch, True, False),
        (asynchronous, False, True),
        (Judge(), True, True),
        (partial(options, limit=3), False, False),
    ],
)
def test_the_form_of_a_function_is_seen(fn, is_batch: bool, is_async: bool):
    bound = bind(fn, {})
    assert (bound.is_batch, bound.is_async) == (is_batch, is_async)


@pytest.mark.parametrize(
    ("fn", "given", "says"),
    [
        (plain, {"limit": 3}, "plain has no option 'limit'; it has none"),
        (options, {"limit": 3, "scal": 1}, "no option 'scal'.*did you mean 'scale'"),
        (options, {"limit": 3, "problem": "x"}, "option 'problem' has the name of a field"),
        (plain, {"completions": "x"}, "option 'completions' has the name of a field"),
        (keywords, {"limit": 3}, "no option 'limit'"),  # it would vanish unread
        (lambda text, problem: 1.0, {}, "must take `completion`"),
        (lambda compleiton: 1.0, {}, r"for a batch\) \(did you mean 'compleiton'\?\)"),
        (lambda completion, /: 1.0, {}, "cannot be given by name"),
        (lambda completion, *rest: 1.0, {}, "cannot be given by name"),
        (lambda completions, problem: [], {}, "takes `problems`, not `problem`"),
        (lambda completion, problems: 1.0, {}, "takes `problem`, not `problems`"),
    ],
)
def test_what_cannot_be_bound_is_refused(fn, given: dict[str, object], says: str):
    with pytest.raises(RewardLookupError, match=says):
        bind(fn, given)


def test_columns_that_are_there_are_accepted():
    bound = [bind(fn, {}) for fn in (plain, every_field, columns, keywords, batch)]
    check_columns(bound, [PROBLEM])
    check_columns([bind(options, {"limit": 3})], [PROBLEM])
    check_columns([bind(plain, {})], [Problem("p", "", "", "")])


def test_a_missing_column_is_named_with_the_function_and_what_there_is():
    lacking = Problem("gsm8k/train/3", "", "", "", columns={"test": 1, "level": 2})
    with pytest.raises(RewardLookupError) as caught:
        check_columns([bind(columns, {}, name="my.py:f")], [PROBLEM, lacking])
    for part in (
        "reward my.py:f needs 'tests'",
        "1 of 2 problems have no such column (the first: gsm8k/train/3)",
        "Columns of the data set: ['level', 'test', 'tests']",
        "set 'tests' under [rewards.options]",
    ):
        assert part in str(caught.value)


def test_generated_tasks_have_no_columns():
    with pytest.raises(RewardLookupError, match="Columns of the data set: none; fields"):
        check_columns([bind(columns, {})], [Problem("arithmetic/train/0", "", "", "arithmetic")])


def test_an_option_that_hides_a_column_is_refused():
    with pytest.raises(RewardLookupError, match="option 'level' hides the data set's column"):
        check_columns([bind(columns, {"level": 9})], [PROBLEM])


def test_a_column_that_vanished_is_told_with_the_problem():
    bare = Problem("p8", "", "", "")
    with pytest.raises(LookupError, match="p8 has no column 'tests'; it has none"):
        bind(columns, {}).arguments(("x", bare))
    with pytest.raises(LookupError, match="p8 has no column 'tests'"):
        bind(batch, {}).batch_arguments([("x", PROBLEM), ("y", bare)])

"""Tests for rewards/registry.py."""

from pathlib import Path

import pytest

from cotree.rewards.answer import answer
from cotree.rewards.registry import RewardLookupError, check_signature, installed, resolve
from cotree.rewards.types import Problem, Reward

PLUGIN = """
from cotree.rewards.types import Reward

LIMIT = 3

def short(completion, problem, *, limit, scale=1.0):
    return Reward(scale * (len(completion) <= limit), "length")
"""


def plain(completion: str, problem: Problem) -> Reward:
    return Reward(1.0, "ok")


def with_options(completion: str, problem: Problem, limit: int, *, scale: float = 1.0) -> Reward:
    return Reward(scale * limit, "ok")


def with_keywords(completion: str, problem: Problem, **options: float) -> Reward:
    return Reward(1.0, "ok")


async def asynchronous(completion: str, problem: Problem) -> Reward:
    return Reward(1.0, "ok")


def wrong_names(text: str, problem: Problem) -> Reward:
    return Reward(1.0, "ok")


def test_every_installed_name_resolves_to_a_function_that_can_be_called():
    assert {"answer", "format", "math", "rewriting_steps"} <= set(installed())
    for name in installed():
        check_signature(resolve(name), {})


def test_the_three_forms_of_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "mine.py").write_text(PLUGIN)
    monkeypatch.chdir(tmp_path)
    assert resolve("answer") is answer
    assert resolve("cotree.rewards.answer:answer") is answer
    short = resolve("mine.py:short")
    assert short("abcd", Problem("p", "", "", ""), limit=3) == Reward(0.0, "length")
    assert resolve(f"{tmp_path}/mine.py:short") is short  # one module, however it is named


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path):
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"def f(completion, problem): return {value}")
    first, second = (resolve(f"{tmp_path}/{folder}/mine.py:f") for folder in "ab")
    assert (first("", None), second("", None)) == (1, 2)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("answerx", r"did you mean 'answer'.*Known: \['answer', 'format'"),
        ("cotree.rewards.answr:answer", "no module named 'cotree.rewards.answr'"),
        ("nonexistent_module:f", "no module named 'nonexistent_module'"),
        ("cotree.rewards.answer:answerx", "has no 'answerx'.*did you mean 'answer'"),
        ("cotree.rewards.answer:MAX_NUMBER_CHARS", "is 200, which is not a function"),
        ("missing.py:f", "no reward file 'missing.py' in the working directory"),
    ],
)
def test_a_wrong_name_is_explained(name: str, says: str):
    with pytest.raises(RewardLookupError, match=says):
        resolve(name)


def test_an_import_that_fails_inside_a_module_keeps_its_own_message(tmp_path: Path):
    (tmp_path / "broken.py").write_text("import not_installed_anywhere")
    for _ in range(2):  # the second time there must be no half-imported module left
        with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
            resolve(f"{tmp_path}/broken.py:f")


def test_options_that_fit_are_accepted():
    check_signature(plain, {})
    check_signature(with_options, {"limit": 3})
    check_signature(with_options, {"limit": 3, "scale": 2.0})
    check_signature(with_keywords, {})


@pytest.mark.parametrize(
    ("fn", "options", "says"),
    [
        (plain, {"limit": 3}, "plain has no option 'limit'; it has none"),
        (with_options, {"limit": 3, "scal": 1}, "no option 'scal'.*did you mean 'scale'"),
        (with_options, {}, r"needs the options \['limit'\]"),
        (with_options, {"limit": 3, "problem": "x"}, "no option 'problem'"),
        (with_keywords, {"limit": 3}, "no option 'limit'"),  # it would vanish unread
        (asynchronous, {}, "is async"),
        (wrong_names, {}, "must take `completion, problem` first"),
        (lambda: 1.0, {}, "must take `completion, problem` first"),
    ],
)
def test_options_that_do_not_fit_are_refused(fn, options: dict[str, object], says: str):
    with pytest.raises(RewardLookupError, match=says):
        check_signature(fn, options)

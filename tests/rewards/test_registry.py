"""Tests for rewards/registry.py."""

import inspect
from importlib.metadata import version
from pathlib import Path

import pytest

from cotree.rewards.answer import answer
from cotree.rewards.registry import (
    Description,
    RewardLookupError,
    Term,
    bound,
    check_signature,
    describe,
    installed,
    located,
    resolve,
)
from cotree.rewards.types import Problem, Reward

PLUGIN = """
from cotree.rewards.types import Reward

LIMIT = 3

def short(completion, problem, *, limit, scale=1.0):
    return Reward(scale * (len(completion) <= limit), "length")
"""


def test_every_installed_name_resolves_to_a_function_that_can_be_called():
    assert {"answer", "format", "math", "rewriting_steps"} <= set(installed())
    for name in installed():
        check_signature(resolve(name), {})
        assert bound(Term(name)).name == name


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
        ("answerx", r"did you mean 'answer'.*Known: \['answer', "),
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


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import sys\nsys.exit(0)", r"raised SystemExit: 0 \(at .*mine.py:2\)"),
        ("def f(completion: return 1", r"raised SyntaxError: .*\(mine.py, line 1\)"),
        ("x = 1\n1 / 0", r"raised ZeroDivisionError: division by zero \(at .*mine.py:2\)"),
        ("import sibling", "imports 'sibling', which lies beside it"),
        ("from folder.inside import f", "imports 'folder', which lies beside it"),
    ],
)
def test_what_an_import_raises_is_a_message_and_never_an_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, says: str
):
    (tmp_path / "sibling.py").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "mine.py").write_text(code)
    for name in (f"{tmp_path}/mine.py:f", "mine:f"):
        with pytest.raises(RewardLookupError, match=says):
            resolve(name)
        if "lies beside" in says:
            return  # as a module of the import path it may import its neighbors
        monkeypatch.syspath_prepend(tmp_path)
        assert "importing it raised" in describe([name])[0].error


def test_options_are_checked_against_the_signature(tmp_path: Path):
    (tmp_path / "mine.py").write_text(PLUGIN)
    name = f"{tmp_path}/mine.py:short"
    assert bound(Term(name, options={"limit": 3})).defaults == {"scale": 1.0}
    with pytest.raises(RewardLookupError, match=r"no option 'limits' .did you mean 'limit'"):
        bound(Term(name, options={"limits": 3}))


def test_a_file_with_one_public_function_needs_no_name(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("from json import dumps\ndef _own(): ...\ndef grade(completion): return 1.0")
    assert resolve(str(path))(completion="") == 1.0
    path.write_text("def a(completion): ...\ndef b(completion): ...")
    with pytest.raises(RewardLookupError, match=r"has 2 public functions \['a', 'b'\]; say which"):
        resolve(str(path))


def test_a_located_term_needs_its_file_no_more(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    term = located(Term("mine.py:short", options={"limit": 3}), tmp_path)
    assert term.name == "mine.py:short"  # what logs and breakdowns are keyed by
    path.write_text("def short(completion, *, limit): return -1.0")
    short = bound(term).fn
    assert short("ab", Problem("p", "", "", ""), limit=3) == Reward(1.0, "length")
    assert located(term, Path("/elsewhere")) is term
    assert located(Term("answer"), tmp_path) == Term("answer")
    with pytest.raises(RewardLookupError, match=r"no reward file .*elsewhere.*of "):
        located(Term("elsewhere.py:f"), tmp_path)


def test_two_states_of_a_file_are_two_modules(tmp_path: Path):
    path = tmp_path / "mine.py"
    found = []
    for value in (1, 2):
        path.write_text(f"def f(completion): return {value}")
        found.append(resolve(f"{path}:f")(""))
    assert found == [1, 2]


def test_a_traceback_and_the_source_of_a_file_are_its_own(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text("def f(completion):\n    raise KeyError(completion)\n")
    with pytest.raises(KeyError) as caught:
        resolve(f"{path}:f")("x")
    assert str(caught.traceback[-1].path) == str(path)
    assert inspect.getsource(resolve(f"{path}:f")).startswith("def f(completion):")


def test_an_error_value_goes_with_on_error_value_and_only_there():
    with pytest.raises(ValueError, match="error_value goes with"):
        Term("answer", on_error="value")
    with pytest.raises(ValueError, match="error_value goes with"):
        Term("answer", error_value=0.0)
    assert Term("answer", on_error="value", error_value=0.0).error_value == 0.0


def test_a_description_has_what_a_user_chooses_by(tmp_path: Path):
    path = tmp_path / "mine.py"
    path.write_text(
        "async def judge(completions, tests, *, limit=3):\n    'Asks a model.\\n\\nSlowly.'\n"
    )
    (found,) = describe([f"{path}:judge"])
    assert found == Description(
        name=f"{path}:judge",
        origin=str(path),
        summary="Asks a model.",
        is_batch=True,
        is_async=True,
        needs=("tests",),
        options={"limit": 3},
    )


def test_installed_rewards_are_described_with_their_package():
    found = {description.name: description for description in describe()}
    assert list(found) == sorted(installed())
    assert found["answer"].origin == f"cotree {version('cotree')}"
    assert all(d.summary and not d.error for d in found.values())


def test_a_reward_that_cannot_be_imported_does_not_hide_the_others(tmp_path: Path):
    (tmp_path / "broken.py").write_text("import not_installed_anywhere")
    broken, good = describe([f"{tmp_path}/broken.py:f", "answer"])
    assert "ModuleNotFoundError: No module named 'not_installed_anywhere'" in broken.error
    assert not good.error

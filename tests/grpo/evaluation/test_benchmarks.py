"""Tests for grpo/evaluation/benchmarks.py: each form of published rows, with rows of our own."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from cotree.grpo.arithmetic import questions, split_of
from cotree.grpo.config import ArithmeticTask, CountdownTask
from cotree.grpo.config_file import ConfigError
from cotree.grpo.countdown import question_text, task_games
from cotree.grpo.evaluation.benchmark import (
    BenchmarkData,
    benchmark_named,
    load_benchmark,
    load_examples,
)
from cotree.grpo.evaluation.benchmarks import TARGETS, games
from cotree.grpo.run_folder import load_pipeline
from cotree.rewards.inline import InlineRewards
from cotree.rewards.signature import Item
from cotree.rewards.types import Problem, Reward

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


def load(name: str, folder: Path, *rows: object) -> BenchmarkData:
    if rows:
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_benchmark(benchmark_named(name), folder, limit=None, subset_seed=0)


def only(name: str, folder: Path, row: object) -> Problem:
    (problem,) = load(name, folder, row).problems
    return problem


def values(name: str, problem: Problem, *completions: str, rule: str | None = None) -> list[float]:
    return graded(name, [(text, problem) for text in completions], rule=rule)


def graded(name: str, items: Sequence[Item], *, rule: str | None = None) -> list[float]:
    term = benchmark_named(name).term(rule)
    assert term is not None
    found: list[float] = []
    for (outcome,) in InlineRewards([term]).outcomes(items):
        assert isinstance(outcome, Reward), outcome
        found.append(outcome.value)
    return found


# --- word problems ---------------------------------------------------------------------------


def test_gsm8k_takes_what_follows_the_last_hashes(tmp_path: Path):
    row = {"question": "2 boxes of 600?", "answer": "2*600=<<2*600=1200>>1200\n#### 1,200"}
    problem = only("gsm8k", tmp_path, row)
    assert problem.reference == "1,200"
    # A number in a sentence without a mark is no answer.
    texts = (r"\boxed{1200}", "#### 1200", "600 + 600\n1200", "She has 1200 pens left to sell")
    assert values("gsm8k", problem, *texts) == [1.0, 1.0, 1.0, 0.0]
    assert values("gsm8k", problem, r"\boxed{1200}", "#### 1200", rule="hashes") == [0.0, 1.0]


def test_gsm8k_without_hashes_is_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="row 1: the answer '5' has no `#### NUMBER`"):
        load("gsm8k", tmp_path, {"question": "?", "answer": "5"})


def test_gsm8k_examples_lose_their_calculator_annotations(tmp_path: Path):
    row = {"question": "2 boxes of 6?", "answer": "2*6=<<2*6=12>>12 pens\n#### 12"}
    (tmp_path / "gsm8k.train.jsonl").write_text(json.dumps(row))
    examples = load_examples(benchmark_named("gsm8k"), tmp_path, 1)
    assert examples == (("2 boxes of 6?", "2*6=12 pens\n#### 12"),)
    assert benchmark_named("gsm8k").example_rule == "hashes"


# --- mathematics -----------------------------------------------------------------------------


def test_math500_reads_the_published_fields(tmp_path: Path):
    row = {
        "problem": "Half of one?",
        "solution": r"It is $\boxed{\frac12}$.",
        "answer": r"\frac{1}{2}",
        "subject": "Algebra",
        "level": 1,
        "unique_id": "test/algebra/0.json",
    }
    problem = only("math500", tmp_path, row)
    assert (problem.id, problem.reference, problem.columns) == ("math500/0", r"\frac{1}{2}", {})
    assert values("math500", problem, r"\boxed{0.5}", "The answer is 1/2.") == [1.0, 1.0]
    assert values("math500", problem, r"\boxed{0.5}", "The answer is 1/2.", rule="boxed") == [1, 0]


def test_rows_of_math_without_answer_are_read_from_the_last_box_of_the_solution(tmp_path: Path):
    row = {"problem": "?", "solution": r"First \boxed{3}, then \boxed{\sqrt{2}}.", "answer": None}
    assert only("math500", tmp_path, row).reference == r"\sqrt{2}"
    with pytest.raises(ConfigError, match=r"row 1: there is no \\boxed{} in the solution 'None'"):
        load("math500", tmp_path, {"problem": "?", "solution": "None"})


def test_math500_examples_are_whole_solutions_with_a_box(tmp_path: Path):
    path = tmp_path / "math500.train.jsonl"
    path.write_text(json.dumps({"problem": "1+1?", "solution": r"So $\boxed{2}$."}))
    math500 = benchmark_named("math500")
    assert load_examples(math500, tmp_path, 1) == (("1+1?", r"So $\boxed{2}$."),)
    assert math500.example_rule == "boxed"
    path.write_text(json.dumps({"problem": "1+1?", "solution": "So 2."}))
    with pytest.raises(ConfigError, match="row 1: there is no"):
        load_examples(math500, tmp_path, 1)


@pytest.mark.parametrize(
    ("row", "reference"),
    [
        ({"question": "Speed?", "answer": "2.5e33"}, "2.5e33"),
        ({"question": "Angle?", "answer": "np.arcsin(3/5)"}, r"\arcsin(3/5)"),
        ({"question": "Power?", "answer": "-1./4"}, "-1./4"),
        ({"problem": "?", "solution": r"\boxed{1} so \boxed{e^{-t}}", "type": "x"}, "e^{-t}"),
    ],
)
def test_minerva_reads_both_of_its_forms(row: Mapping[str, object], reference: str, tmp_path: Path):
    assert only("minerva", tmp_path, row).reference == reference


def test_minerva_answers_in_python_are_equal_to_latex(tmp_path: Path):
    angle = only("minerva", tmp_path, {"question": "?", "answer": "np.arcsin(3/5)"})
    assert values("minerva", angle, r"\boxed{\sin^{-1}(0.6)}", r"\boxed{\arcsin(4/5)}") == [1, 0]
    speed = only("minerva", tmp_path, {"question": "?", "answer": "2.5e33"})
    assert values("minerva", speed, r"\boxed{2.5 \times 10^{33}}", r"\boxed{2.5}") == [1, 0]


# --- olympiads -------------------------------------------------------------------------------

OLYMPIAD = {
    "question": "Which?",
    "context": None,
    "image_1": None,
    "answer_type": "Numerical",
    "unit": None,
    "error": None,
    "is_multiple_answer": False,
}


def test_olympiadbench_splits_several_answers_published_as_one_text(tmp_path: Path):
    row = {**OLYMPIAD, "final_answer": ["$(0,2)$,$(4, 23)$"], "is_multiple_answer": True}
    problem = only("olympiadbench", tmp_path, row)
    assert problem.columns == {"answers": ["(0,2)", "(4, 23)"]}
    assert problem.reference == "(0,2), (4, 23)"
    right = r"\boxed{(4,23) \text{ and } (0,2)}"
    assert values("olympiadbench", problem, right, r"\boxed{(0,2)}") == [1.0, 0.0]


def test_a_point_of_olympiadbench_is_one_answer(tmp_path: Path):
    problem = only("olympiadbench", tmp_path, {**OLYMPIAD, "final_answer": ["$(0,2)$"]})
    assert (problem.reference, problem.columns) == ("$(0,2)$", {})
    assert values("olympiadbench", problem, r"\boxed{(0,2)}", r"\boxed{(2,0)}") == [1.0, 0.0]


def test_olympiadbench_answers_of_a_longer_list_are_taken_as_they_are(tmp_path: Path):
    row = {**OLYMPIAD, "final_answer": ["1", "2"], "is_multiple_answer": True}
    assert only("olympiadbench", tmp_path, row).columns == {"answers": ["1", "2"]}


def test_the_published_error_of_olympiadbench_is_an_absolute_tolerance(tmp_path: Path):
    row = {**OLYMPIAD, "final_answer": ["$18.8^{\\circ}$"], "error": "1e-1"}
    problem = only("olympiadbench", tmp_path, row)
    assert problem.columns == {"tolerance": "1e-1"}
    assert values("olympiadbench", problem, r"\boxed{18.88}", r"\boxed{18.91}") == [1.0, 0.0]


def test_olympiadbench_with_a_tolerance_for_each_answer(tmp_path: Path):
    row = {
        **OLYMPIAD,
        "final_answer": ["$7.5,0.25$"],
        "is_multiple_answer": True,
        "error": "1e-1,1e-3",
    }
    problem = only("olympiadbench", tmp_path, row)
    texts = (r"\boxed{0.2509, 7.41}", r"\boxed{0.26, 7.5}")
    assert values("olympiadbench", problem, *texts) == [1.0, 0.0]


def test_other_copies_of_olympiadbench_have_one_answer_text(tmp_path: Path):
    row = {"problem": "Which?", "answer": "$2n$", "is_multiple_answer": False}
    assert only("olympiadbench", tmp_path, row).reference == "$2n$"


def test_the_context_of_olympiadbench_stands_before_the_question(tmp_path: Path):
    row = {**OLYMPIAD, "context": "Let n = 2.", "final_answer": ["2"]}
    assert only("olympiadbench", tmp_path, row).question == "Let n = 2.\nWhich?"


def test_an_answer_of_olympiadbench_that_is_no_mathematics_is_compared_as_text(tmp_path: Path):
    row = {**OLYMPIAD, "final_answer": [r"$f(x)=ax$, where $a$ is odd with $\mho(a)=0$"]}
    problem = only("olympiadbench", tmp_path, row)
    assert values("olympiadbench", problem, rf"\boxed{{{problem.reference}}}") == [1.0]


@pytest.mark.parametrize("final", [[], [" "]])
def test_olympiadbench_without_answers_is_refused(final: object, tmp_path: Path):
    with pytest.raises(ConfigError, match="row 1: `final_answer` is"):
        load("olympiadbench", tmp_path, {**OLYMPIAD, "final_answer": final})


# --- contests --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        {"id": 60, "problem": "?", "solution": "", "answer": "025", "url": "", "year": "2024"},
        {"ID": "2024-I-1", "Problem": "?", "Solution": "", "Answer": 25},
        {"problem": "?", "solution": r"Hence \boxed{025}."},
        {"question": "?", "answer": "25"},
        {"question": "?", "answer": r"25^\circ"},
        {"question": "?", "answer": r"$25^{\circ}$"},
        {"question": "?", "answer": 25.0},
    ],
)
@pytest.mark.parametrize("name", ["aime24", "aime25"])
def test_aime_answers_of_all_published_forms_are_integers(
    name: str, row: Mapping[str, object], tmp_path: Path
):
    problem = only(name, tmp_path, row)
    assert problem.reference == "25"
    assert values(name, problem, r"\boxed{025}", r"\boxed{25}", r"\boxed{26}") == [1.0, 1.0, 0.0]


def test_aime_answers_may_be_zero(tmp_path: Path):
    assert only("aime24", tmp_path, {"problem": "?", "answer": "000"}).reference == "0"


@pytest.mark.parametrize("answer", ["1000", "-1", "1/2", "2.5", "many"])
def test_other_answers_of_aime_are_refused(answer: str, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"row 1: .* is no integer from 0 to 999"):
        load("aime24", tmp_path, {"problem": "?", "answer": answer})


@pytest.mark.parametrize(
    ("answer", "reference"), [(27.0, "27"), ("27.0", "27"), ("-1.0", "-1"), ("27", "27")]
)
def test_amc23_integers_come_as_floats(answer: object, reference: str, tmp_path: Path):
    row = {"id": 0, "question": "?", "answer": answer, "url": ""}
    assert only("amc23", tmp_path, row).reference == reference


# --- generated -------------------------------------------------------------------------------


def test_arithmetic_asks_test_questions_of_the_quickstart_only(tmp_path: Path):
    data = load("arithmetic", tmp_path)
    train = questions(
        ArithmeticTask(type="arithmetic", operands=(4, 6), largest=12), "train", count=500
    )
    assert (len(data.problems), data.source) == (500, "generated")
    assert all(split_of(problem.question) == "test" for problem in data.problems)
    assert not {p.question for p in data.problems} & {q.text for q in train}
    first = data.problems[0]
    assert values("arithmetic", first, rf"\boxed{{{first.reference}}}") == [1.0]
    # Of another task, other questions: whoever changes the generator raises the version.
    assert data.checksum[:16] == "f3418ef285401ebd"


def test_countdown_games_can_be_solved_with_each_number_used_once(tmp_path: Path):
    found, data = games(500), load("countdown", tmp_path)
    assert (len(data.problems), data.source) == (500, "generated")
    assert {len(game.numbers) for game in found} == {3, 4}
    assert len({(tuple(sorted(game.numbers)), game.target) for game in found}) == 500
    for game, problem in zip(found, data.problems, strict=True):
        assert game.target in TARGETS
        assert problem.columns == {"numbers": list(game.numbers), "target": game.target}
    solutions = [rf"\boxed{{{game.solution}}}" for game in found]
    assert set(graded("countdown", list(zip(solutions, data.problems, strict=True)))) == {1.0}
    assert found[:7] == games(7)
    assert data.checksum[:16] == "54757cbf94a33ca9"


def test_countdown_rows_as_published_are_taken_and_have_the_same_checksum(tmp_path: Path):
    rows = [{"nums": list(game.numbers), "target": game.target} for game in games(500)]
    generated = load_benchmark(benchmark_named("countdown"), None, limit=None, subset_seed=0)
    assert load("countdown", tmp_path, *rows).checksum == generated.checksum


def test_countdown_asks_for_the_expression_and_for_all_numbers(tmp_path: Path):
    problem = only("countdown", tmp_path, {"nums": [25, 5, 3], "target": 60})
    for part in ("the value 60", "25, 5 and 3", "exactly once", "the expression itself"):
        assert part in problem.question
    found = values(
        "countdown",
        problem,
        r"\boxed{(25 - 5) \times 3}",
        r"\boxed{(25-5)*3 = 60}",
        r"\boxed{60}",
        r"\boxed{25 + 5 * 7}",
        "(25-5)*3",
    )
    assert found == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert values("countdown", problem, "(25-5)*3", rule="boxed") == [0.0]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"target": 60}, "row 1: `nums` is None"),
        ({"nums": [3], "target": 3}, r"row 1: `nums` is \[3\]"),
        ({"nums": [25, 5]}, "row 1: there is no field 'target'"),
        ({"nums": [25, "five"], "target": 60}, "row 1 .*'five' is no number"),
    ],
)
def test_countdown_rows_that_are_no_games_are_refused(
    row: Mapping[str, object], says: str, tmp_path: Path
):
    with pytest.raises(ConfigError, match=says):
        load("countdown", tmp_path, row)


TINY = "cotree.grpo.evaluation.benchmarks:TinyCountdown"


def test_tiny_countdown_asks_test_games_of_its_configuration(tmp_path: Path):
    data = load(TINY, tmp_path)
    assert (len(data.problems), data.source) == (500, "generated")
    task = load_pipeline(CONFIGS / "countdown.toml", overrides=[]).task
    assert isinstance(task, CountdownTask)
    trained = {
        question_text(game.numbers, game.target)
        for game in task_games(task, "train", count=task.num_train)
    }
    assert not trained & {problem.question for problem in data.problems}
    held_back = [
        question_text(game.numbers, game.target) for game in task_games(task, "test", count=500)
    ]
    assert [problem.question for problem in data.problems] == held_back
    # Of another task, other games: whoever changes the generator raises the version.
    assert data.checksum[:16] == "bb45c13b020ec558"


def test_tiny_countdown_is_graded_by_the_expression(tmp_path: Path):
    (tmp_path / "countdown-tiny.jsonl").write_text('{"question": "3,5,7->22"}\n')
    (problem,) = load(TINY, tmp_path).problems
    assert (problem.reference, problem.columns) == ("22", {"numbers": [3, 5, 7], "target": 22})
    texts = [r"\boxed{(5*3)+7}", r"\boxed{22}", r"\boxed{5+7}", "(5*3)+7"]
    assert values(TINY, problem, *texts) == [1.0, 0.0, 0.0, 1.0]
    assert values(TINY, problem, *texts, rule="boxed") == [1.0, 0.0, 0.0, 0.0]


def test_a_tiny_countdown_row_that_is_no_game_is_refused(tmp_path: Path):
    (tmp_path / "countdown-tiny.jsonl").write_text('{"question": "3 5 7"}\n')
    with pytest.raises(ConfigError, match="row 1: '3 5 7' is no game"):
        load(TINY, tmp_path)


# --- the published data ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count", "checksum"),
    [
        ("gsm8k", 1319, "237011ab319f7d1862debbf443d5952ae2ead84abe7357fba12743ffc1c8c571"),
        ("math500", 500, "09f1e97165f29dbee1d1d86c5014aa3723b6fa117ac0be0ed1a362243f1eeb83"),
    ],
)
def test_published_rows_are_complete_and_every_reference_is_right_when_boxed(
    name: str, count: int, checksum: str
):
    folder = os.environ.get("COTREE_DATA")
    if not folder:
        pytest.skip("set COTREE_DATA to a folder with gsm8k/test.jsonl and math500/test.jsonl")
    data = load_benchmark(benchmark_named(name), Path(folder), limit=None, subset_seed=0)
    assert (len(data.problems), data.checksum) == (count, checksum)
    for rule in (None, "boxed"):
        items = [(rf"So it is \boxed{{{p.reference}}}.", p) for p in data.problems]
        assert set(graded(name, items, rule=rule)) == {1.0}

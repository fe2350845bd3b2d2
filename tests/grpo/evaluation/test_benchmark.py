"""Tests for grpo/evaluation/benchmark.py and the class in definition.py."""

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.benchmark import (
    Benchmark,
    BenchmarkData,
    Row,
    benchmark_named,
    first_text,
    load_benchmark,
    load_examples,
)
from cotree.rewards.extract import Extraction
from cotree.rewards.registry import Term
from cotree.rewards.types import Problem


class Sums(Benchmark):
    """A benchmark for these tests."""

    name = "sums"

    def problem(self, row: Row, place: str, index: int) -> Problem:
        return self.posed(index, f"{row['question']}", f"{row['answer']}")

    def example(self, row: Row, place: str) -> tuple[str, str]:
        return first_text(row, ["question"], place), first_text(row, ["solution"], place)


def write(path: Path, rows: Iterable[object]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sums(count: int = 10) -> list[dict[str, object]]:
    return [{"question": f"{n} + {n}?", "answer": str(2 * n), "note": None} for n in range(count)]


def load(
    benchmark: Benchmark, data: Path | None, *, limit: int | None = None, subset_seed: int = 0
) -> BenchmarkData:
    return load_benchmark(benchmark, data, limit=limit, subset_seed=subset_seed)


# --- data ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["sums.jsonl", "sums/test.jsonl"])
def test_local_rows_become_problems_in_their_order(place: str, tmp_path: Path):
    path = write(tmp_path / place, sums(3))
    data = load(Sums(), tmp_path)
    assert data.problems[2] == Problem("sums/2", "2 + 2?", "4", "sums", "2 + 2?")
    assert (data.num_total, data.source, data.limit) == (3, str(path), None)


def test_jsonl_and_parquet_have_the_same_checksum(tmp_path: Path):
    from datasets import Dataset

    write(tmp_path / "a" / "sums.jsonl", sums())
    (tmp_path / "b" / "sums").mkdir(parents=True)
    Dataset.from_list(sums()).to_parquet(tmp_path / "b" / "sums" / "test.parquet")
    first, second = load(Sums(), tmp_path / "a"), load(Sums(), tmp_path / "b")
    assert first.problems == second.problems
    assert first.checksum == second.checksum


def test_the_checksum_is_of_what_is_read_and_of_nothing_else(tmp_path: Path):
    found: list[str] = []
    changes: list[dict[str, object]] = [
        {},
        {"note": "fields that the benchmark does not read are left out"},
        {"question": "0 + 0 = ?"},
        {"answer": "1"},
    ]
    for change in changes:
        write(tmp_path / "sums.jsonl", [{**sums()[0], **change}, *sums()[1:]])
        found.append(load(Sums(), tmp_path).checksum)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_columns_are_part_of_the_checksum(tmp_path: Path):
    class WithColumns(Sums):
        def problem(self, row: Row, place: str, index: int) -> Problem:
            return self.posed(index, "?", "1", {"note": row["note"]})

    write(tmp_path / "sums.jsonl", sums(1))
    before = load(WithColumns(), tmp_path).checksum
    write(tmp_path / "sums.jsonl", [{**sums(1)[0], "note": [0.5]}])
    assert load(WithColumns(), tmp_path).checksum != before


@pytest.mark.parametrize("names", [[], ["sums.jsonl", "sums/test.jsonl"]])
def test_there_must_be_one_file(names: list[str], tmp_path: Path):
    for name in names:
        write(tmp_path / name, sums())
    looked_for = r"sums.jsonl \| sums.parquet \| sums/test.jsonl \| sums/test.parquet"
    with pytest.raises(ConfigError, match=f"there must be one of {looked_for}"):
        load(Sums(), tmp_path)


def test_a_folder_that_is_none_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match="is no folder"):
        load(Sums(), tmp_path / "none")


def test_a_benchmark_without_any_source_says_what_to_give():
    with pytest.raises(ConfigError, match=r"generates no rows; give --data DIR with sums.jsonl"):
        load(Sums(), None)


def test_the_hub_out_of_reach_names_the_files_to_give_instead():
    # Tests run with HF_HUB_OFFLINE=1.
    with pytest.raises(ConfigError, match=r"benchmark gsm8k: .*give --data DIR with gsm8k.jsonl"):
        load(benchmark_named("gsm8k"), None)


def test_generated_rows_need_no_file_and_give_way_to_one(tmp_path: Path):
    class Generated(Sums):
        def rows(self) -> Iterable[Row]:
            return sums(4)

    for folder in (None, tmp_path):
        data = load(Generated(), folder)
        assert (data.num_total, data.source) == (4, "generated")
    write(tmp_path / "sums.jsonl", sums(2))
    assert load(Generated(), tmp_path).num_total == 2


# --- subsets ---------------------------------------------------------------------------------


def test_a_subset_is_the_same_each_time_in_the_benchmarks_order(tmp_path: Path):
    write(tmp_path / "sums.jsonl", sums(100))
    whole = load(Sums(), tmp_path)
    data = load(Sums(), tmp_path, limit=20)
    assert data == load(Sums(), tmp_path, limit=20)
    assert [p for p in whole.problems if p in data.problems] == list(data.problems)
    assert len(data.problems) == 20
    assert data.problems != whole.problems[:20]
    assert (data.num_total, data.checksum) == (100, whole.checksum)


def test_another_seed_or_another_benchmark_is_another_subset(tmp_path: Path):
    class Others(Sums):
        name = "others"

    for name in ("sums", "others"):
        write(tmp_path / f"{name}.jsonl", sums(100))
    chosen = [
        load(Sums(), tmp_path, limit=20),
        load(Sums(), tmp_path, limit=20, subset_seed=1),
        load(Others(), tmp_path, limit=20),
    ]
    questions = [tuple(p.question for p in data.problems) for data in chosen]
    assert len(set(questions)) == 3


def test_a_subset_of_all_problems_is_the_benchmark_whatever_the_seed(tmp_path: Path):
    write(tmp_path / "sums.jsonl", sums(10))
    whole = load(Sums(), tmp_path)
    assert load(Sums(), tmp_path, limit=10, subset_seed=7).identity() == whole.identity()
    assert whole.identity() == {"checksum": whole.checksum, "limit": None, "subset_seed": None}
    assert load(Sums(), tmp_path, limit=9, subset_seed=7).identity() == {
        "checksum": whole.checksum,
        "limit": 9,
        "subset_seed": 7,
    }


@pytest.mark.parametrize("limit", [0, 11])
def test_a_limit_that_cannot_be_kept_is_an_error(limit: int, tmp_path: Path):
    write(tmp_path / "sums.jsonl", sums(10))
    with pytest.raises(ConfigError, match=f"limit = {limit}, but sums has 10 problems"):
        load(Sums(), tmp_path, limit=limit)


# --- rows that cannot be used ----------------------------------------------------------------


def test_rows_that_cannot_be_graded_are_named_with_their_references(tmp_path: Path):
    bad = [{"question": "?", "answer": r"\frac{1}{"}] * 7
    write(tmp_path / "sums.jsonl", [*sums(3), *bad])
    with pytest.raises(ConfigError) as caught:
        load(Sums(), tmp_path, limit=1)
    message = str(caught.value)
    assert "7 of 10 rows cannot be graded by the reward 'math'" in message
    assert "sums.jsonl, row 4 (sums/3, reference '\\\\frac{1}{')" in message
    assert "and 2 more" in message


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"question": "?"}, r"sums.jsonl, row 2: reading it raised KeyError: 'answer'"),
        ([1], "row 2: .* is not a JSON object"),
    ],
)
def test_a_row_of_another_form_is_named(row: object, says: str, tmp_path: Path):
    write(tmp_path / "sums.jsonl", [*sums(1), row])
    with pytest.raises(ConfigError, match=says):
        load(Sums(), tmp_path)


def test_a_file_without_rows_is_an_error(tmp_path: Path):
    write(tmp_path / "sums.jsonl", [])
    with pytest.raises(ConfigError, match="has no rows"):
        load(Sums(), tmp_path)


class SameIds(Sums):
    """Its problems cannot be told apart."""

    def problem(self, row: Row, place: str, index: int) -> Problem:
        return self.posed(0, "?", "1")


class NoJson(Sums):
    """Its columns have no canonical form."""

    def problem(self, row: Row, place: str, index: int) -> Problem:
        return self.posed(index, "?", "1", {"when": {1, 2}})


class NeedsColumn(Sums):
    """Its reward asks for what its problems do not have."""

    def term(self, strict_rule: str | None) -> Term | None:
        return Term("cotree.rewards.steps.length:length")


class Ungraded(Sums):
    """It names no reward."""

    def term(self, strict_rule: str | None) -> Term | None:
        return None


@pytest.mark.parametrize(
    ("benchmark", "says"),
    [
        (SameIds(), "2 problems have 1 different ids"),
        (NoJson(), "the columns of sums/0 are no JSON"),
        (NeedsColumn(), "length needs"),
        (Ungraded(), r"term\(None\) gave no reward"),
    ],
)
def test_a_benchmark_that_cannot_be_evaluated_is_refused(
    benchmark: Benchmark, says: str, tmp_path: Path
):
    write(tmp_path / "sums.jsonl", sums(2))
    with pytest.raises(ConfigError, match=says):
        load(benchmark, tmp_path)


# --- worked examples -------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["sums/train.jsonl", "sums.train.jsonl"])
def test_worked_examples_are_always_the_same_and_more_begin_with_the_fewer(
    place: str, tmp_path: Path
):
    write(tmp_path / place, [{"question": f"q{n}", "solution": f"s{n}"} for n in range(50)])
    four, eight = (load_examples(Sums(), tmp_path, count) for count in (4, 8))
    assert eight[:4] == four
    assert len(set(eight)) == 8
    assert all(question[1:] == solution[1:] for question, solution in eight)
    assert eight != tuple((f"q{n}", f"s{n}") for n in range(8))


def test_no_examples_need_no_file(tmp_path: Path):
    assert load_examples(Sums(), tmp_path, 0) == ()


def test_examples_that_cannot_be_had_are_errors(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"names no data set of worked examples; give --data"):
        load_examples(Sums(), None, 4)
    with pytest.raises(ConfigError, match=r"there must be one of sums/train.jsonl"):
        load_examples(Sums(), tmp_path, 4)
    write(tmp_path / "sums.train.jsonl", [{"question": "q"}])
    with pytest.raises(ConfigError, match="has 1 rows; 4 worked examples were asked for"):
        load_examples(Sums(), tmp_path, 4)
    with pytest.raises(ConfigError, match=r"row 1: there is none of the fields \['solution'\]"):
        load_examples(Sums(), tmp_path, 1)
    write(tmp_path / "amc23.train.jsonl", [{"question": "q"}])
    with pytest.raises(ConfigError, match="amc23 has no worked examples"):
        load_examples(benchmark_named("amc23"), tmp_path, 1)


def test_by_default_the_reward_math_grades_and_any_mark_or_bare_number_is_a_vote():
    assert Sums().term(None) == Term("math", options={"extraction": "lenient"})
    assert Sums().term("boxed") == Term("math", options={"extraction": "boxed"})
    assert Sums().answer("so 4") == Extraction(None, "none")
    assert Sums().answer(r"so \boxed{4}") == Extraction("4", "boxed")
    assert Sums().answer("4") == Extraction("4", "bare")

"""Benchmarks: the class to subclass, their names, and their problems, read and checked.

To add one, subclass `Benchmark` and name it `path/file.py:Class` or `module:Class`, or list it
under the entry-point group `cotree.benchmarks` of an installed package. Imports no torch.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.definition import Benchmark, Example, Row, first_text
from cotree.grpo.evaluation.lookup import GROUP, benchmark_named, installed_benchmarks
from cotree.grpo.rows import records
from cotree.grpo.seeds import derive
from cotree.rewards.inline import InlineRewards
from cotree.rewards.plan import outcomes_by, planned_checks
from cotree.rewards.registry import bound, check_columns, located
from cotree.rewards.types import Problem, Ungraded

__all__ = [
    "GENERATED",
    "GROUP",
    "Benchmark",
    "BenchmarkData",
    "Example",
    "Row",
    "benchmark_named",
    "first_text",
    "installed_benchmarks",
    "load_benchmark",
    "load_examples",
]

GENERATED = "generated"
"""Source of rows that a benchmark makes itself."""
TEST_FILES = ("{}.jsonl", "{}.parquet", "{}/test.jsonl", "{}/test.parquet")
"""Where a benchmark's rows may be in a folder of data, by its name."""
TRAIN_FILES = ("{}/train.jsonl", "{}/train.parquet", "{}.train.jsonl", "{}.train.parquet")
SHOWN_ROWS = 5
"""Refused rows that a message shows; it says how many there are in all."""

NumberedRows = list[tuple[int, Row]]


@dataclass(frozen=True, slots=True)
class BenchmarkData:
    """The problems of a benchmark, or of a subset of it, and what identifies them."""

    problems: tuple[Problem, ...]
    """In the order of the benchmark."""
    checksum: str
    """SHA-256 over questions, references and columns of all problems, those left out too. It does
    not depend on the file's format."""
    num_total: int
    """Problems of the benchmark."""
    source: str
    """`hub:…`, a path, or `generated`."""
    limit: int | None
    """Problems of the subset; None: all of them."""
    subset_seed: int
    """Which subset; without effect where `limit` is None."""

    def identity(self) -> dict[str, object]:
        """What two evaluations must have in common to be about the same problems."""
        seed = None if self.limit is None else self.subset_seed
        return {"checksum": self.checksum, "limit": self.limit, "subset_seed": seed}


def load_benchmark(
    benchmark: Benchmark, data: Path | None, *, limit: int | None, subset_seed: int
) -> BenchmarkData:
    """All problems of a benchmark, or a random subset, each checked to be gradable.

    Args:
        benchmark: see `benchmark_named`.
        data: a folder with the published rows, see `TEST_FILES`; None: from the hub. What is
            generated needs neither, and takes a file where there is one.
        limit: problems to keep: the same for everybody, whatever the model.
        subset_seed: which subset.

    Raises:
        ConfigError: there are no rows, or no single file of them; a row cannot be used or graded;
            or `limit` is not between 1 and the number of problems.
    """
    source, rows = _test_rows(benchmark, data)
    places = [f"{source}, row {number}" for number, _ in rows]
    problems: list[Problem] = []
    for index, (place, (_, row)) in enumerate(zip(places, rows, strict=True)):
        with _naming(benchmark, place):
            problems.append(benchmark.problem(row, place, index))
    if not problems:
        raise ConfigError(f"benchmark {benchmark.name}: {source} has no rows.")
    ids = {problem.id for problem in problems}
    if len(ids) != len(problems):
        raise ConfigError(
            f"benchmark {benchmark.name}: {len(problems)} problems have {len(ids)} different ids; "
            "they seed the sampling and must be unique. Make problems with `posed`."
        )
    _refuse_ungradable(benchmark, problems, places)
    checksum, total = _checksum(benchmark, problems), len(problems)
    if limit is not None and not 1 <= limit <= total:
        raise ConfigError(
            f"limit = {limit}, but {benchmark.name} has {total} problems; give 1 to {total}, or "
            "none for all."
        )
    if limit in (None, total):
        return BenchmarkData(tuple(problems), checksum, total, source, None, subset_seed)
    rng = random.Random(derive(subset_seed, "benchmark subset", benchmark.name))
    chosen = sorted(rng.sample(range(total), limit))
    kept = tuple(problems[index] for index in chosen)
    return BenchmarkData(kept, checksum, total, source, limit, subset_seed)


def load_examples(benchmark: Benchmark, data: Path | None, count: int) -> tuple[Example, ...]:
    """Questions with worked solutions for few-shot prompts: always the same ones.

    More of them begin with the fewer.

    Args:
        benchmark: see `benchmark_named`.
        data: a folder with training rows, see `TRAIN_FILES`; None: from the hub.
        count: how many; for none, nothing is read.

    Raises:
        ConfigError: the benchmark has none, there are too few, or a row cannot be used.
    """
    assert count >= 0, count
    if count == 0:
        return ()
    source = benchmark.hub_examples if data is None else str(_file(benchmark, data, TRAIN_FILES))
    if source is None:
        raise ConfigError(
            f"{benchmark.name} names no data set of worked examples; give --data DIR with "
            f"{_listed(benchmark, TRAIN_FILES)}, or another prompt style."
        )
    rows = _read(benchmark, source, TRAIN_FILES)
    if len(rows) < count:
        raise ConfigError(f"{source} has {len(rows)} rows; {count} worked examples were asked for.")
    order = list(range(len(rows)))
    random.Random(derive("worked examples", benchmark.name)).shuffle(order)
    chosen = [rows[index] for index in order[:count]]
    found: list[Example] = []
    for number, row in chosen:
        place = f"{source}, row {number}"
        with _naming(benchmark, place):
            found.append(benchmark.example(row, place))
    return tuple(found)


def _test_rows(benchmark: Benchmark, data: Path | None) -> tuple[str, NumberedRows]:
    """Where the rows come from, and the rows with their numbers."""
    if benchmark.hub is None and (data is None or not _files(benchmark, data, TEST_FILES)):
        rows = list(enumerate(benchmark.rows(), start=1))
        if rows:
            return GENERATED, rows
        if data is None:
            raise ConfigError(
                f"{benchmark.name} names no hub data set and generates no rows; give --data DIR "
                f"with {_listed(benchmark, TEST_FILES)}."
            )
    source = benchmark.hub if data is None else str(_file(benchmark, data, TEST_FILES))
    assert source is not None, benchmark.name
    return source, _read(benchmark, source, TEST_FILES)


def _read(benchmark: Benchmark, source: str, forms: Sequence[str]) -> NumberedRows:
    try:
        return list(records(source))
    except (ValueError, OSError) as error:
        local = (
            f" Without a connection, give --data DIR with {_listed(benchmark, forms)}."
            if source.startswith("hub:")
            else ""
        )
        message = f"benchmark {benchmark.name}: {str(error).rstrip('.')}.{local}"
        raise ConfigError(message) from error


def _files(benchmark: Benchmark, folder: Path, forms: Sequence[str]) -> list[Path]:
    if not folder.is_dir():
        raise ConfigError(f"--data {str(folder)!r} is no folder.")
    paths = [folder / form.format(benchmark.name) for form in forms]
    return [path for path in paths if path.is_file()]


def _file(benchmark: Benchmark, folder: Path, forms: Sequence[str]) -> Path:
    found = _files(benchmark, folder, forms)
    if len(found) == 1:
        return found[0]
    said = f"has {' and '.join(map(str, found))}" if found else "has no such file"
    raise ConfigError(
        f"benchmark {benchmark.name}: {str(folder)!r} {said}; there must be one of "
        f"{_listed(benchmark, forms)}."
    )


def _listed(benchmark: Benchmark, forms: Sequence[str]) -> str:
    return " | ".join(form.format(benchmark.name) for form in forms)


@contextmanager
def _naming(benchmark: Benchmark, place: str) -> Generator[None]:
    """What reading a row raises becomes a message that names the benchmark and the row."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"benchmark {benchmark.name}: {error}") from error
    except (LookupError, TypeError, AttributeError) as error:  # what a row of another form causes
        raise ConfigError(
            f"benchmark {benchmark.name}, {place}: reading it raised "
            f"{type(error).__name__}: {error}"
        ) from error


def _refuse_ungradable(
    benchmark: Benchmark, problems: Sequence[Problem], places: Sequence[str]
) -> None:
    """Runs the reward's own check of each problem. In this process: these checks are bounded."""
    term = benchmark.term(None)
    if term is None:
        raise ConfigError(f"benchmark {benchmark.name}: term(None) gave no reward to grade with.")
    try:
        term = located(term, Path.cwd())
        check_columns([bound(term)], problems)
        inline = InlineRewards([term])
    except (ValueError, TypeError, ImportError, OSError, SyntaxError) as error:
        raise ConfigError(f"benchmark {benchmark.name}: {error}") from error
    outcomes = outcomes_by(inline, [("", problem) for problem in problems], planned_checks)
    inline.close()
    refused = [
        f"  {place} ({problem.id}, reference {problem.reference[:80]!r}): {outcome.reason}"
        for place, problem, (outcome,) in zip(places, problems, outcomes, strict=True)
        if isinstance(outcome, Ungraded)
    ]
    if refused:
        more = len(refused) - SHOWN_ROWS
        rest = f"\n  and {more} more" if more > 0 else ""
        shown = "\n".join(refused[:SHOWN_ROWS])
        raise ConfigError(
            f"benchmark {benchmark.name}: {len(refused)} of {len(problems)} rows cannot be graded "
            f"by the reward {term.name!r}:\n{shown}{rest}\nCorrect them in a file for --data."
        )


def _checksum(benchmark: Benchmark, problems: Sequence[Problem]) -> str:
    digest = sha256()
    for problem in problems:
        used = [problem.question, problem.reference, dict(problem.columns)]
        try:
            line = json.dumps(used, sort_keys=True, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"benchmark {benchmark.name}: the columns of {problem.id} are no JSON ({error}): "
                f"{problem.columns!r:.200}. Keep those that grading uses, as numbers and texts."
            ) from error
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()

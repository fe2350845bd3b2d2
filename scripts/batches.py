"""Graded completions to compare graders on: those of an evaluation, or made of references."""

import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.benchmark import Benchmark, benchmark_named, load_benchmark
from cotree.grpo.evaluation.journal import read_records
from cotree.grpo.evaluation.records import Drawn, ProblemRecord, Sample
from cotree.grpo.evaluation.scoring import Scorer
from cotree.grpo.rows import records
from cotree.rewards.audit import COULD_NOT_GRADE, RIGHT, WRONG
from cotree.rewards.types import Problem

WORKED = {"gsm8k": "answer", "math500": "solution"}
"""The benchmarks that can be compared, and their field with the worked solution."""


@dataclass(frozen=True)
class Row:
    """A completion with our verdicts."""

    problem: Problem
    number: int
    """Of the sample, from 0."""
    sample: Sample

    @property
    def ours(self) -> str:
        """Our lenient verdict, one of `VERDICTS`."""
        if self.sample.correct is None:
            return COULD_NOT_GRADE
        return RIGHT if self.sample.correct else WRONG


@dataclass(frozen=True)
class Batch:
    """Rows that make one table."""

    title: str
    rows: list[Row]
    expected: str | None = None
    """The verdict that all of them ought to have; None: it is not known."""


# --- an evaluation ---------------------------------------------------------------------------


def evaluated(folder: Path) -> dict[str, list[Batch]]:
    """Benchmark -> the samples of an evaluation.

    Raises:
        ConfigError: there is no such folder, it has no samples of these benchmarks, or a line is
            no record.
    """
    if not folder.is_dir():
        raise ConfigError(f"{str(folder)!r} is no folder; give one that `cotree evaluate` wrote.")
    paths = {path.stem.removeprefix("samples_"): path for path in folder.glob("samples_*.jsonl")}
    for name in sorted(paths.keys() - WORKED.keys()):
        print(f"left out: {paths[name]}; only {', '.join(WORKED)} are compared", file=sys.stderr)
    found: dict[str, list[Batch]] = {}
    for name in WORKED:
        problems = finished(paths[name]) if name in paths else []
        rows = [
            Row(_posed(record, name), number, sample)
            for record in problems
            for number, sample in enumerate(record.samples)
        ]
        if rows:
            title = f"{name}: {len(rows):,} completions of {len(problems):,} problems"
            found[name] = [Batch(title, rows)]
    if not found:
        wanted = " or ".join(f"samples_{name}.jsonl" for name in WORKED)
        raise ConfigError(f"{str(folder)!r} has no {wanted} with a finished problem in it.")
    return found


def finished(path: Path) -> list[ProblemRecord]:
    """The records of a file, without a last line that is being written or was cut short.

    Raises:
        ConfigError: another line is no record, or a problem is there twice.
    """
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) == len(content):
        return read_records(path)
    print(f"left out: the last line of {path}, which is not whole", file=sys.stderr)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / path.name
        copy.write_bytes(whole)
        return read_records(copy)


def _posed(record: ProblemRecord, benchmark: str) -> Problem:
    """The problem as a grader sees it."""
    return Problem(record.id, record.prompt, record.reference, benchmark, record.question)


# --- references ------------------------------------------------------------------------------


def golds(
    folder: Path, *, others: int, seed: int, timeout_seconds: float
) -> dict[str, list[Batch]]:
    """Benchmark -> its references as answers: boxed, in worked solutions, under other problems.

    Args:
        folder: has the published rows of both benchmarks.
        others: problems that are given the reference of another one.
        seed: draws these.
        timeout_seconds: limit of one call of our grader.

    Raises:
        ConfigError: the folder does not have both benchmarks, or a row cannot be used.
    """
    found: dict[str, list[Batch]] = {}
    for name, field in WORKED.items():
        benchmark = benchmark_named(name)
        data = load_benchmark(benchmark, folder, limit=None, subset_seed=0)
        solutions = [str(row[field]) for _, row in records(data.source)]
        made = [
            ("in a box", RIGHT, [(one, _boxed(one.reference)) for one in data.problems]),
            ("in worked solutions", RIGHT, list(zip(data.problems, solutions, strict=True))),
            ("under other problems", WRONG, _exchanged(data.problems, others, seed)),
        ]
        found[name] = []
        for where, expected, items in made:
            # GSM8K marks its worked answers otherwise than the prompts do.
            rule = benchmark.example_rule if where == "in worked solutions" else "boxed"
            rows = _scored(benchmark, items, rule, timeout_seconds)
            title = f"{name}: {len(rows):,} references {where}, where {expected} is expected"
            found[name].append(Batch(title, rows, expected))
    return found


def _boxed(text: str) -> str:
    return rf"\boxed{{{text}}}"


def _exchanged(problems: Sequence[Problem], count: int, seed: int) -> list[tuple[Problem, str]]:
    """Problems with the boxed reference of another one, which is not written like theirs."""
    rng = random.Random(seed)
    found: list[tuple[Problem, str]] = []
    while len(found) < count:
        asked, answered = rng.sample(problems, 2)
        if asked.reference != answered.reference:
            found.append((asked, _boxed(answered.reference)))
    return found


def _scored(
    benchmark: Benchmark,
    items: Sequence[tuple[Problem, str]],
    strict_rule: str,
    timeout_seconds: float,
) -> list[Row]:
    """Completions graded as in an evaluation."""
    with Scorer(
        benchmark,
        strict_rule=strict_rule,
        workers=1,
        timeout_seconds=timeout_seconds,
        max_failed_frac=1.0,
    ) as scorer:
        return [
            Row(problem, 0, sample)
            for problem, text in items
            for sample in scorer.score(
                problem, [Drawn(text, 0, "stop")], prompt_opens_thinking=False
            )
        ]

"""A finished run of searches, read back: its settings, its problems with references, its trees."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotree.grpo.config_file import ConfigError, validated
from cotree.grpo.config_search import ModelSearch
from cotree.grpo.evaluation.benchmark import Benchmark, benchmark_named, load_benchmark
from cotree.grpo.evaluation.journal import read_records
from cotree.grpo.evaluation.records import Drawn
from cotree.grpo.evaluation.scoring import START_OF_THINKING, Scorer
from cotree.grpo.searching.exports import graded_leaves
from cotree.grpo.searching.records import read_searches
from cotree.grpo.searching.sampler import SearchFiles
from cotree.rewards.types import Problem
from cotree.search.export import GradedSearch
from cotree.search.tree_json import SearchRecord


@dataclass(frozen=True)
class FinishedRun:
    """The searches of one benchmark. Whoever holds it may see references; strategies never do."""

    root: Path
    model: str
    settings: ModelSearch
    benchmark: Benchmark
    problems: Mapping[str, Problem]
    """By id."""
    records: Sequence[SearchRecord]
    prompt_opens_thinking: bool
    wall_seconds: float | None
    """Of a search, mean; None: it was not all searched in one start."""

    @property
    def name(self) -> str:
        """The strategy as it was asked for."""
        return self.settings.search.strategy

    def scorer(self) -> Scorer:
        """The benchmark's own graders; a context manager."""
        measured = self.settings.benchmarks
        return Scorer(
            self.benchmark,
            strict_rule=None,
            workers=measured.grading_workers,
            timeout_seconds=measured.grading_timeout_seconds,
            max_failed_frac=measured.max_failed_frac,
        )

    def graded(self, scorer: Scorer) -> list[GradedSearch]:
        """Each search with the outcome of every completion in its tree.

        Raises:
            GradingFailedError: too many could not be graded.
        """
        return [
            GradedSearch(
                record,
                graded_leaves(
                    record,
                    self.problems[record.problem_id],
                    scorer,
                    prompt_opens_thinking=self.prompt_opens_thinking,
                ),
            )
            for record in self.records
        ]


def correct_node(run: FinishedRun, search: GradedSearch, node: int, scorer: Scorer) -> bool | None:
    """Whether what ends in a node is right: graded with the leaves, or now for an open one."""
    if node in search.correct:
        return search.correct[node]
    tree = search.record.tree
    drawn = Drawn(tree.text(node), len(tree.token_ids(node)), "length")
    problem = run.problems[search.record.problem_id]
    (sample,) = scorer.score(problem, [drawn], prompt_opens_thinking=run.prompt_opens_thinking)
    return sample.correct


def read_run(root: Path, benchmark: str | None) -> FinishedRun:
    """The searches in a folder.

    Args:
        root: of `cotree search`.
        benchmark: which of several; None: the only one.

    Raises:
        ConfigError: the folder has no finished run, or it has several benchmarks or not this one.
    """
    saved = _read(root / "search.json")
    names = list(saved["benchmarks"])
    if benchmark is None and len(names) > 1:
        raise ConfigError(f"{root} has searches of {', '.join(names)}; choose one with --task.")
    name = benchmark or names[0]
    if name not in names:
        raise ConfigError(f"{root} has searches of {', '.join(names)}, not of {name}.")
    settings = validated(ModelSearch, saved["settings"], [], source=str(root / "search.json"))
    # As it was asked for, which may be `path/file.py:Class`; `names` has the same order.
    found = benchmark_named(settings.benchmarks.names[names.index(name)])
    measured = settings.benchmarks
    data = load_benchmark(
        found,
        None if measured.data is None else Path(measured.data),
        limit=measured.limit,
        subset_seed=measured.subset_seed,
    )
    prompts = {record.prompt for record in read_records(root / f"samples_{name}.jsonl")}
    files = SearchFiles.of(root, name)
    records = read_searches(files.trees)
    speed = _read(files.speed)
    is_whole = speed["engines"]["tokens"] == sum(one.tokens["spent"] for one in records)
    return FinishedRun(
        root=root,
        model=saved["model"],
        settings=settings,
        benchmark=found,
        problems={problem.id: problem for problem in data.problems},
        records=records,
        prompt_opens_thinking=any(one.rstrip().endswith(START_OF_THINKING) for one in prompts),
        wall_seconds=speed["wall_seconds"] / len(records) if is_whole else None,
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise ConfigError(
            f"there is no {path}: {path.parent} holds no finished `cotree search`. Finish it with "
            "--resume."
        )
    return json.loads(path.read_text(encoding="utf-8"))

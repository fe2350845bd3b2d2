"""What a run of searches leaves besides an evaluation's files: counts, and trees to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotree.grpo.config_search import ModelSearch
from cotree.grpo.evaluation.job import Job
from cotree.grpo.evaluation.journal import EvaluationFolder, read_records
from cotree.grpo.evaluation.measure import Prepared
from cotree.grpo.evaluation.records import BenchmarkSummary
from cotree.grpo.evaluation.results import summary_json
from cotree.grpo.evaluation.tables import percent, with_interval
from cotree.grpo.provenance import describe_code
from cotree.grpo.result import write_json
from cotree.grpo.searching.records import read_searches
from cotree.grpo.searching.sampler import SearchFiles
from cotree.grpo.searching.viewer import write_viewer


@dataclass(frozen=True)
class Searched:
    """The searches of one benchmark."""

    summary: BenchmarkSummary
    """Of what they selected."""
    strategy: str
    """As it was asked for."""
    full_strategy: str
    """With all its settings."""
    searches: int
    tokens: Mapping[str, int]
    """Counts of their ledgers, summed."""
    nodes: int
    tokens_per_second: float
    """Generated in the last start that searched, by the wall clock."""
    page: Path

    @property
    def hit_rate(self) -> float:
        """Share of prompt and prefix tokens that the prefix cache had."""
        return self.tokens["cached_tokens"] / max(1, self.tokens["prompt_tokens"])

    def as_json(self) -> dict[str, Any]:
        """Under stable keys: those of `cotree evaluate --json`, and `search`."""
        return summary_json(self.summary) | {
            "search": {
                "strategy": self.full_strategy,
                "searches": self.searches,
                "nodes": self.nodes,
                "tokens": dict(self.tokens),
                "prefix_cache_hit_rate": self.hit_rate,
                "tokens_per_second": self.tokens_per_second,
            }
        }

    def line(self) -> str:
        """For people."""
        return (
            f"{self.summary.benchmark}: {self.strategy}: {with_interval(self.summary.avg)} of "
            f"{self.summary.n:,} problems, {self.tokens['spent'] / self.searches:,.0f} tokens a "
            f"search ({self.tokens['lost']:,} in no tree), prefix cache {percent(self.hit_rate)}, "
            f"{self.tokens_per_second:,.0f} tokens/s"
        )


def finish(
    prepared: Prepared,
    settings: ModelSearch,
    folder: EvaluationFolder,
    summaries: Sequence[BenchmarkSummary],
) -> dict[str, Searched]:
    """Writes `search.json` and a page of trees for each benchmark.

    Args:
        prepared: what was searched.
        settings: how.
        folder: holds the finished evaluation.
        summaries: of it.

    Raises:
        ConfigError: its files of trees are damaged.
    """
    found = {
        job.name: _searched(job, prepared, settings, folder, summary)
        for job, summary in zip(prepared.jobs, summaries, strict=True)
    }
    write_json(
        folder.root / "search.json",
        {
            "model": prepared.model,
            "settings": settings.model_dump(mode="json"),
            "benchmarks": {name: one.as_json() for name, one in found.items()},
        },
    )
    return found


def _searched(
    job: Job,
    prepared: Prepared,
    settings: ModelSearch,
    folder: EvaluationFolder,
    summary: BenchmarkSummary,
) -> Searched:
    files = SearchFiles.of(folder.root, job.name)
    records = read_searches(files.trees)
    page = folder.root / f"trees_{job.name}.html"
    searched = Searched(
        summary=summary,
        strategy=settings.search.strategy,
        full_strategy=records[0].strategy,
        searches=len(records),
        tokens={name: sum(one.tokens[name] for one in records) for name in records[0].tokens},
        nodes=sum(len(one.tree) for one in records),
        tokens_per_second=_speed(files.speed),
        page=page,
    )
    search = settings.search
    marks = correct_searches(folder.samples(job.name))
    write_viewer(
        page,
        records,
        title=f"{job.name}: {searched.strategy}",
        facts={
            "Model": prepared.model,
            "Strategy": searched.full_strategy,
            "Budget": f"{search.budget_tokens:,} generated tokens a search, {search.width} at once",
            "Accuracy": with_interval(summary.avg),
            "Prefix cache": percent(searched.hit_rate),
            "Code": describe_code(),
        },
        correct=lambda record: marks.get(record.search),
    )
    return searched


def correct_searches(samples: Path) -> dict[int, bool | None]:
    """Whether what each search selected is right, by its number; None: it could not be graded."""
    found: dict[int, bool | None] = {}
    for graded in read_records(samples):
        for place, sample in enumerate(graded.samples):
            found[graded.index * len(graded.samples) + place] = sample.correct
    return found


def _speed(path: Path) -> float:
    if not path.exists():
        return 0.0
    speed = json.loads(path.read_text(encoding="utf-8"))
    return speed["engines"]["tokens"] / max(1e-9, speed["wall_seconds"])

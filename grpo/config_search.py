"""Configuration of searches: `cotree search MODEL`."""

from __future__ import annotations

from pydantic import model_validator

from cotree.grpo.config_algorithm import PositiveInt, Strict
from cotree.grpo.config_evaluation import Benchmarks, Engines


class Search(Strict):
    """How completions are searched for, and what that may cost."""

    strategy: str
    """`NAME`, `NAME:N` or `NAME:key=value,…`; see `search.trees.registry`."""
    budget_tokens: PositiveInt
    """Generated tokens of one search, hard: what is discarded counts."""
    width: PositiveInt = 1
    """Jobs under way at once in one search. More keep engines busy when problems are few; then a
    strategy decides with less knowledge."""
    concurrency: PositiveInt | None = None
    """Searches under way at once; left out, as many as fill the engines."""
    steps: str = "line"
    """Where a reasoning step ends: `line`, `paragraph`, `sentence` or `tokens:N`."""
    value: str | None = None
    """A reward function that scores states, whole or partial, from 0 to 1 without the reference (a
    learned process reward model, say): an installed name, `module:function` or
    `path/file.py:function`. Left out, what rules do not refute scores 1."""


class ModelSearch(Strict):
    """`cotree search MODEL`: which problems, how, and where the model runs."""

    benchmarks: Benchmarks
    search: Search
    engines: Engines = Engines()

    @model_validator(mode="after")
    def _samples_differ(self) -> ModelSearch:
        if self.benchmarks.strategy is not None:
            raise ValueError("benchmarks.strategy has no effect in a search; set search.strategy.")
        if self.benchmarks.temperature == 0:
            raise ValueError(
                "temperature 0 draws the same continuation of a state each time, which leaves "
                "nothing to search; set a temperature (of the policy: 1)."
            )
        return self

"""Exports of searched trees as JSONL: a line an item, keys that stay, whole files or none.

Every line says where it comes from: `problem_id`, `search` (its number in its run), `seed`,
`strategy`, `digest` (of the tree), and `policy`, which generated it.

Traces: `id`, `question`, `solution`, `token_ids`, `num_tokens`, `quality`, `node`. A cold start
reads them as they are:

    [sft.traces]
    type = "rows"
    path = "traces.jsonl"

Pairs: `question`, `prefix`, `chosen`, `rejected` (texts), each of these three with its `_ids`;
`chosen_value` and `rejected_value`: objects of `soft`, `hard`, `n`, `standard_error`, or null where
a step was refuted before a completion of it ended; `by`: `outcomes` or `verdict`; the nodes.

Labels: `question`, `steps` (texts), `soft`, `hard`, `n`, `standard_error`, `is_end`, `node`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cotree.grpo.evaluation.records import Drawn
from cotree.grpo.evaluation.scoring import Scorer
from cotree.rewards.types import Problem
from cotree.search.export import (
    GradedSearch,
    Origin,
    PairRule,
    Rank,
    StepLabel,
    StepPair,
    Trace,
    step_labels,
    step_pairs,
    traces,
)
from cotree.search.monte_carlo import StepValue
from cotree.search.tree_json import SearchRecord


@dataclass(frozen=True, slots=True)
class Exported:
    """What a file holds, and what it does not."""

    path: Path
    num_items: int
    left_out: Mapping[str, int]
    """Reason -> how many."""


def graded_leaves(
    record: SearchRecord, problem: Problem, scorer: Scorer, *, prompt_opens_thinking: bool
) -> dict[int, bool | None]:
    """The outcome of every completion of a search, by the node in which it ends.

    Args:
        record: of the search.
        problem: the one that was searched, with its reference.
        scorer: of the problem's benchmark.
        prompt_opens_thinking: the prompt ended in `<think>`.

    Returns:
        None for completions that could not be graded.

    Raises:
        ValueError: the search is of another problem.
        GradingFailedError: too many could not be graded.
    """
    if problem.id != record.problem_id:
        raise ValueError(
            f"search {record.search} is of problem {record.problem_id!r}, not of {problem.id!r}; "
            "grade it with its own problem."
        )
    tree = record.tree
    ends = list(tree.leaves())
    drawn = [
        Drawn(
            tree.text(end.id),
            len(tree.token_ids(end.id)),
            "stop" if end.is_finished else "length",
        )
        for end in ends
    ]
    samples = scorer.score(problem, drawn, prompt_opens_thinking=prompt_opens_thinking)
    return {end.id: sample.correct for end, sample in zip(ends, samples, strict=True)}


def export_traces(
    searches: Sequence[GradedSearch], path: Path, *, policy: str, per_problem: int, rank: Rank
) -> Exported:
    """Writes the best right completions of each problem; see `search.export.traces`.

    Raises:
        ValueError: `per_problem` is below 1.
    """
    found = traces(searches, per_problem=per_problem, rank=rank)
    write_rows(path, (_trace_row(one, policy) for one in found.items))
    return Exported(path, len(found.items), found.left_out)


def export_pairs(
    searches: Sequence[GradedSearch], path: Path, *, policy: str, rule: PairRule
) -> Exported:
    """Writes pairs of steps of which one is better; see `search.export.step_pairs`."""
    found = step_pairs(searches, rule)
    write_rows(path, (_pair_row(one, policy) for one in found.items))
    return Exported(path, len(found.items), found.left_out)


def export_labels(
    searches: Sequence[GradedSearch], path: Path, *, policy: str, min_outcomes: int
) -> Exported:
    """Writes values of prefixes; see `search.export.step_labels`.

    Raises:
        ValueError: `min_outcomes` is below 1, or a search's tree has no unbiased values.
    """
    found = step_labels(searches, min_outcomes=min_outcomes)
    write_rows(path, (_label_row(one, policy) for one in found.items))
    return Exported(path, len(found.items), found.left_out)


def _trace_row(trace: Trace, policy: str) -> dict[str, object]:
    origin = trace.origin
    return {
        "id": f"{origin.problem_id}/{origin.search}/{trace.node}",
        "question": trace.question,
        "solution": trace.text,
        "token_ids": trace.token_ids,
        "num_tokens": len(trace.token_ids),
        "quality": trace.quality,
        "node": trace.node,
        **origin_row(origin, policy),
    }


def _pair_row(pair: StepPair, policy: str) -> dict[str, object]:
    chosen, rejected = pair.chosen.step, pair.rejected.step
    assert chosen is not None, "only the root has no step"
    assert rejected is not None, "only the root has no step"
    return {
        "question": pair.question,
        "prefix": pair.prefix,
        "chosen": chosen.text,
        "rejected": rejected.text,
        "prefix_ids": pair.prefix_ids,
        "chosen_ids": chosen.token_ids,
        "rejected_ids": rejected.token_ids,
        "chosen_value": value_row(pair.chosen_value),
        "rejected_value": pair.rejected_value and value_row(pair.rejected_value),
        "by": pair.by,
        "chosen_node": pair.chosen.id,
        "rejected_node": pair.rejected.id,
        **origin_row(pair.origin, policy),
    }


def _label_row(label: StepLabel, policy: str) -> dict[str, object]:
    return {
        "question": label.question,
        "steps": label.steps,
        **value_row(label.value),
        "is_end": label.is_end,
        "node": label.node,
        **origin_row(label.origin, policy),
    }


def value_row(value: StepValue) -> dict[str, object]:
    """The keys of a value."""
    return {
        "soft": value.soft,
        "hard": value.hard,
        "n": value.n,
        "standard_error": value.standard_error,
    }


def origin_row(origin: Origin, policy: str) -> dict[str, object]:
    """The keys that say where a line comes from."""
    return {**origin._asdict(), "policy": policy}


def write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    """Writes or replaces a JSONL file: a reader sees all of the old one or all of the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.tmp")
    with scratch.open("w", encoding="ascii") as file:
        for row in rows:
            file.write(json.dumps(row, allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())
    scratch.replace(path)

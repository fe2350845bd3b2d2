"""Two evaluations of the same benchmarks, problem by problem; unlike ones are refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.fingerprint import differing_parts
from cotree.grpo.evaluation.journal import EvaluationFolder, read_records
from cotree.grpo.evaluation.paired import PairedDifference, paired_difference
from cotree.grpo.evaluation.records import ProblemRecord
from cotree.grpo.evaluation.summary import accuracy, graded_samples


@dataclass(frozen=True, slots=True)
class Compared:
    """One benchmark in two evaluations, B minus A."""

    benchmark: str
    accuracy_a: float
    """Over the problems that both have a graded sample of."""
    accuracy_b: float
    paired: PairedDifference
    p_adjusted: float
    """Holm's correction for the number of benchmarks that are compared."""
    unlike: tuple[str, ...]
    """Keys of the fingerprint that differ and were allowed to."""


def compare_evaluations(
    first: Path, second: Path, *, benchmarks: Sequence[str], allow: Collection[str]
) -> list[Compared]:
    """Paired comparisons of the benchmarks that two evaluation folders share.

    Args:
        first: folder of evaluation A.
        second: folder of evaluation B.
        benchmarks: which; empty for all that they share.
        allow: keys of the fingerprint that may differ, such as `template` or `prompt.style`; a
            key stands for all inside it.

    Raises:
        ConfigError: a folder holds no finished evaluation, there is nothing to compare, the
            fingerprints differ, or `allow` names what does not differ.
    """
    parts_a, parts_b = _parts(first), _parts(second)
    names = list(benchmarks) or [name for name in parts_a if name in parts_b]
    for name in names:
        for root, parts in ((first, parts_a), (second, parts_b)):
            if name not in parts:
                raise ConfigError(f"{root} has no benchmark {name!r}; it has {', '.join(parts)}.")
    if not names:
        raise ConfigError(
            f"{first} ({', '.join(parts_a)}) and {second} ({', '.join(parts_b)}) share no "
            "benchmark."
        )
    unlike = {name: _unlike(name, parts_a[name], parts_b[name], allow) for name in names}
    unused = [
        key for key in allow if not any(_is_in(k, [key]) for keys in unlike.values() for k in keys)
    ]
    if unused:
        raise ConfigError(f"--allow {', '.join(unused)} has no effect: that does not differ.")
    pairs = [_paired(first, second, name) for name in names]
    adjusted = holm([pair.paired.p_value for pair in pairs])
    return [
        Compared(name, pair.accuracy_a, pair.accuracy_b, pair.paired, p, tuple(unlike[name]))
        for name, pair, p in zip(names, pairs, adjusted, strict=True)
    ]


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number, in the order given.

        p_(i) = max over j <= i of min(1, (m - j + 1) p_(j)),  p_(1) <= … <= p_(m)

    Source: Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


@dataclass(frozen=True, slots=True)
class _Pair:
    accuracy_a: float
    accuracy_b: float
    paired: PairedDifference


def _paired(first: Path, second: Path, name: str) -> _Pair:
    sides = [
        {record.id: record for record in read_records(EvaluationFolder(root).samples(name))}
        for root in (first, second)
    ]
    if sides[0].keys() != sides[1].keys():
        raise ConfigError(
            f"{name}: the samples of {first} and {second} are of other problems though their "
            "fingerprints agree; one of the files was changed. Evaluate again."
        )
    a, b = _accuracies(list(sides[0].values()), [sides[1][id_] for id_ in sides[0]])
    if not a:
        raise ConfigError(f"{name}: no problem has a graded sample on both sides.")
    return _Pair(sum(a) / len(a), sum(b) / len(b), paired_difference(a, b))


def _accuracies(
    first: Sequence[ProblemRecord], second: Sequence[ProblemRecord]
) -> tuple[list[float], list[float]]:
    """Per-problem accuracies of the problems that both sides have a graded sample of."""
    graded = [
        (rows_a, rows_b)
        for a, b in zip(first, second, strict=True)
        if (rows_a := graded_samples(a)) and (rows_b := graded_samples(b))
    ]
    return [accuracy(a) for a, _ in graded], [accuracy(b) for _, b in graded]


def _parts(root: Path) -> Mapping[str, Mapping[str, Any]]:
    folder = EvaluationFolder(root)
    if not folder.results.exists():
        state = "an unfinished evaluation: --resume it first" if folder.plan.exists() else "none"
        raise ConfigError(
            f"{root} should be the folder of a finished evaluation; it holds {state}."
        )
    measured = json.loads(folder.results.read_text(encoding="utf-8"))["cotree"]
    plan = json.loads(folder.plan.read_text(encoding="utf-8"))
    return {name: parts for name, parts in plan["benchmarks"].items() if name in measured}


def _unlike(
    name: str, a: Mapping[str, Any], b: Mapping[str, Any], allow: Collection[str]
) -> list[str]:
    differing = differing_parts(a, b)
    refused = {key: pair for key, pair in differing.items() if not _is_in(key, allow)}
    if refused:
        listed = "\n".join(f"  {key}: {x!r} in A, {y!r} in B" for key, (x, y) in refused.items())
        raise ConfigError(
            f"{name} was not measured alike:\n{listed}\nA difference of the two would be one of "
            "the measurements too. Evaluate both alike, or name each key with --allow."
        )
    return list(differing)


def _is_in(key: str, allowed: Collection[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in allowed)

"""Curves of finished runs: what each search preferred at any time is graded, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cotree.grpo.config_file import ConfigError
from cotree.grpo.provenance import describe_code, machine
from cotree.grpo.searching.anytime import Run, run_of
from cotree.grpo.searching.curves_compared import Comparison, compared
from cotree.grpo.searching.curves_page import write_page
from cotree.grpo.searching.finished import FinishedRun, correct_node
from cotree.search.tree_json import SearchRecord


def compare_runs(
    runs: Sequence[FinishedRun], *, baseline: int, target: Path, seed: int
) -> Comparison:
    """Grades what the runs preferred, compares them on their common problems, writes the page.

    Args:
        runs: of one model and one benchmark, sampled alike.
        baseline: which of them the others are held against.
        target: the page.
        seed: of the bootstrap.

    Raises:
        ConfigError: the runs are of different models or benchmarks, sampled in different ways, or
            share no problem.
        GradingFailedError: too many answers could not be graded.
    """
    _refuse_unlike(runs)
    names = [run.name for run in runs]
    repeated = {name for name in names if names.count(name) > 1}
    curves = [
        _curve(run, f"{run.root.name}: {run.name}" if run.name in repeated else run.name)
        for run in runs
    ]
    comparison = compared(
        curves, baseline=curves[baseline].name, oracles={}, parameters=None, seed=seed
    )
    first, here = runs[0], machine()
    measured = first.settings.benchmarks
    write_page(
        target,
        comparison,
        title=f"{first.benchmark.name}: searches at equal generated tokens",
        facts={
            "Model": first.model,
            "Sampling": f"temperature {measured.temperature:g}, top-p {measured.top_p:g}, at most "
            f"{measured.max_tokens} tokens a completion",
            "Steps": f"{first.settings.search.steps}, judged by {first.benchmark.step_reward}",
            "Code": describe_code(),
            "Machine": f"{here['processor']}, {here['cores']} cores, {here['system']}",
        },
        judge=None,
    )
    return comparison


def _refuse_unlike(runs: Sequence[FinishedRun]) -> None:
    def sampled(run: FinishedRun) -> dict[str, object]:
        measured = run.settings.benchmarks
        return {
            "model": run.model,
            "benchmark": run.benchmark.name,
            "temperature": measured.temperature,
            "top_p": measured.top_p,
            "max_tokens": measured.max_tokens,
            "prompt": measured.prompt,
            "steps": run.settings.search.steps,
        }

    wanted = sampled(runs[0])
    for run in runs[1:]:
        unlike = [key for key, value in sampled(run).items() if value != wanted[key]]
        if unlike:
            raise ConfigError(
                f"{run.root} and {runs[0].root} differ in {', '.join(unlike)}; a comparison of "
                "strategies needs runs that differ in nothing else."
            )


def _curve(run: FinishedRun, name: str) -> Run:
    with run.scorer() as scorer:
        graded = {search.record.search: search for search in run.graded(scorer)}

        def correct(record: SearchRecord, node: int) -> bool | None:
            return correct_node(run, graded[record.search], node, scorer)

        curve = run_of(name, run.records, correct)
    return replace(curve, seconds=run.wall_seconds)

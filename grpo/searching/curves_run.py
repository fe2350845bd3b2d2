"""Curves of finished runs: what each search preferred at any time is graded, and drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.intervals import mean_interval
from cotree.grpo.evaluation.scoring import Scorer
from cotree.grpo.provenance import describe_code, machine
from cotree.grpo.searching.anytime import Run, run_of
from cotree.grpo.searching.curves_compared import Comparison, compared
from cotree.grpo.searching.curves_page import JudgeQuality, write_page
from cotree.grpo.searching.finished import FinishedRun, correct_node
from cotree.search.export import GradedSearch, is_independent
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
    curves: list[Run] = []
    judge: JudgeQuality | None = None
    for run in runs:
        name = f"{run.root.name}: {run.name}" if run.name in repeated else run.name
        with run.scorer() as scorer:
            graded = run.graded(scorer)
            curves.append(_curve(run, name, graded, scorer))
        if judge is None and is_independent(run.records[0].strategy):
            judge = judge_quality(run, graded)
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
        judge=judge,
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


def _curve(run: FinishedRun, name: str, searches: Sequence[GradedSearch], scorer: Scorer) -> Run:
    by_number = {search.record.search: search for search in searches}

    def correct(record: SearchRecord, node: int) -> bool | None:
        return correct_node(run, by_number[record.search], node, scorer)

    return replace(run_of(name, run.records, correct), seconds=run.wall_seconds)


def judge_quality(run: FinishedRun, searches: Sequence[GradedSearch]) -> JudgeQuality | None:
    """How often the benchmark's step rules refute wrong and right completions, problem by problem.

    Args:
        run: whose strategy draws completions independently of their verdicts.
        searches: of the run, graded.

    Returns:
        None where no rule judges steps, or no completion is right, or none is wrong.
    """
    if run.benchmark.step_reward is None:
        return None
    refuted: dict[bool, dict[str, list[bool]]] = {True: {}, False: {}}
    for search in searches:
        tree = search.record.tree
        for leaf in tree.leaves():
            right = search.correct.get(leaf.id)
            if right is not None and leaf.is_finished:
                drawn = refuted[right].setdefault(search.record.problem_id, [])
                drawn += [leaf.is_refuted] * leaf.count
    if not refuted[True] or not refuted[False]:
        return None
    shares = {right: [fmean(drawn) for drawn in refuted[right].values()] for right in refuted}
    counts = {right: sum(map(len, refuted[right].values())) for right in refuted}
    return JudgeQuality(
        name=run.benchmark.step_reward,
        recall=mean_interval(shares[False]),
        false_alarm=mean_interval(shares[True]),
        measured_on=f"{counts[False]:,} wrong and {counts[True]:,} right completions of {run.name}",
    )

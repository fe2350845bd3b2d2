"""Results of an evaluation as a table for the terminal, and as lines for logs that are none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rich.markup import escape
from rich.table import Table

from cotree.grpo.evaluation.records import BenchmarkSummary, Estimate


def percent(share: float) -> str:
    """A share of 1 as `62.5 %`."""
    return f"{100 * share:.1f} %"


def with_interval(estimate: Estimate) -> str:
    """A mean and its 95 % interval as `62.5 % (58.1 to 66.7)`."""
    return f"{percent(estimate.value)} ({100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def at_all(estimates: Mapping[int, Estimate], k: int) -> str:
    """The value of pass@k or maj@k; a dash where no problem has k graded samples."""
    return percent(estimates[k].value) if k in estimates else "–"


def tokens(mean: float) -> str:
    """Mean tokens a sample, as a whole number."""
    return f"{mean:,.0f}"


def problems(summary: BenchmarkSummary) -> str:
    """How many problems were counted, as `200 of 1,319` where that is not all of them."""
    if summary.n == summary.num_total:
        return f"{summary.n:,}"
    return f"{summary.n:,} of {summary.num_total:,}"


def _counted(summary: BenchmarkSummary) -> str:
    whole = summary.n == summary.num_total
    return str(summary.n) if whole else f"{summary.n}/{summary.num_total}"


def at_k(name: str, summaries: Sequence[BenchmarkSummary]) -> str:
    """`pass@8` where all benchmarks with several samples a problem have 8, else `pass@k`."""
    drawn = {summary.k for summary in summaries if summary.k > 1}
    return f"{name}@{drawn.pop() if len(drawn) == 1 else 'k'}"


def summary_table(summaries: Sequence[BenchmarkSummary]) -> Table:
    """One row a benchmark; columns that say nothing for any benchmark are left out.

    Accuracy is avg@k by the lenient rules, with its 95 % interval over problems; tokens are the
    mean of a sample.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = [
        (header, cells)
        for header, cell in _columns(summaries)
        if any(cells := [cell(summary) for summary in summaries])
    ]
    for header, _ in columns:
        # In a narrow terminal the interval moves below its mean, and nothing is cut.
        table.add_column(
            header,
            justify="left" if header == "benchmark" else "right",
            no_wrap=header != "accuracy",
        )
    for row in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*row)
    ungraded = [f"{s.ungraded:,} of {escape(s.benchmark)}" for s in summaries if s.ungraded]
    if ungraded:
        table.caption = f"samples that could not be graded: {', '.join(ungraded)}"
        table.caption_justify = "left"
    return table


def _columns(
    summaries: Sequence[BenchmarkSummary],
) -> list[tuple[str, Callable[[BenchmarkSummary], str]]]:
    return [
        ("benchmark", lambda s: escape(s.benchmark)),
        ("n", _counted),
        ("k", lambda s: str(s.k)),
        ("accuracy", lambda s: with_interval(s.avg)),
        ("strict", lambda s: percent(s.strict.value) if s.strict else ""),
        (at_k("pass", summaries), lambda s: at_all(s.pass_at, s.k) if s.k > 1 else ""),
        (at_k("maj", summaries), lambda s: at_all(s.maj_at, s.k) if s.k > 1 else ""),
        ("no\nanswer", lambda s: percent(s.no_answer)),
        ("trun-\ncated", lambda s: percent(s.truncated)),
        ("tokens", lambda s: tokens(s.mean_tokens)),
    ]


def plain_lines(summaries: Sequence[BenchmarkSummary]) -> list[str]:
    """One line a benchmark, each complete without the others."""
    return [_line(summary) for summary in summaries]


def _line(summary: BenchmarkSummary) -> str:
    several = "" if summary.k == 1 else f" x {summary.k} samples"
    parts = [f"{problems(summary)} problems{several}"]
    if summary.strict:
        parts.append(f"strict {percent(summary.strict.value)}")
    if summary.k > 1:
        parts.append(f"pass@{summary.k} {at_all(summary.pass_at, summary.k)}")
        parts.append(f"maj@{summary.k} {at_all(summary.maj_at, summary.k)}")
    parts.append(f"no answer {percent(summary.no_answer)}")
    parts.append(f"truncated {percent(summary.truncated)}")
    if summary.ungraded:
        parts.append(f"not graded {summary.ungraded:,}")
    parts.append(f"{tokens(summary.mean_tokens)} tokens a sample")
    return f"{summary.benchmark}: accuracy {with_interval(summary.avg)}, {', '.join(parts)}"

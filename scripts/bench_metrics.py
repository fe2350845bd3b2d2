#!/usr/bin/env python
"""Our verdicts on an evaluation's completions beside those of other projects' metrics.

    python scripts/bench_metrics.py EVALUATION_DIR
    pip install --no-deps --target PEERS/lm-eval lm-eval sacrebleu portalocker tabulate colorama \
        lxml antlr4-python3-runtime==4.11.1
    python scripts/bench_metrics.py EVALUATION_DIR --lm-eval PEERS/lm-eval
    python scripts/bench_metrics.py --golds DATA_DIR --lm-eval PEERS/lm-eval

EVALUATION_DIR is a folder of `cotree evaluate`; it may be unfinished. Our verdicts are those in its
samples. The peers grade the same completions in killable child processes, each with its own folder
first on its import path: lm-eval's rules for MATH need an ANTLR runtime with which math-verify
misreads percentages. A grader that is not installed is said to be so, and left out.

Shares are of the completions that the grader could grade; those of agreement, that both could.
After each table come the disagreements with our lenient verdict, sorted by a cause that is guessed
from the texts. "Given our answer" is a peer's equivalence alone: it is given the answer that we
found, so that differences in finding one play no part.

With --golds nothing was sampled: the references in DATA_DIR (a folder as for `cotree evaluate
--data`) are given as answers, boxed and in their worked solutions, which all are right; and boxed
under other problems, drawn with --seed, which are wrong unless two problems share an answer.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from batches import Batch, Row, evaluated, golds
from disagreements import TAIL_CHARS, Figures, Opinion, cause, described, figures, listed
from peers import Grader, first_on_path, installed
from rich.console import Console
from rich.table import Table

from cotree.grpo.cli_rewards_shown import shown
from cotree.grpo.config_file import ConfigError
from cotree.grpo.evaluation.records import Sample
from cotree.rewards.isolation import WorkerStartError
from cotree.rewards.registry import Term
from cotree.rewards.stopwatch import graded_one_by_one
from cotree.rewards.types import Failure, Reward, Ungraded

INLINE = re.compile(r"\$([^$]*)\$")
GRADERS = Path(__file__).resolve().parent / "graders"
LENIENT, STRICT = "cotree, lenient", "cotree, strict"
OURS = "given our answer"
LM_EVAL = {
    "gsm8k": {
        "lm-eval gsm8k, strict-match": "gsm8k_strict_match",
        "lm-eval gsm8k, flexible-extract": "gsm8k_flexible_extract",
    },
    "math500": {
        "lm-eval minerva_math, exact_match": "minerva_exact_match",
        "lm-eval minerva_math, math_verify": "minerva_math_verify",
        f"lm-eval minerva_math, {OURS}": "minerva_is_equiv",
        "lm-eval hendrycks_math, exact_match": "hendrycks_exact_match",
        f"lm-eval hendrycks_math, {OURS}": "hendrycks_is_equiv",
    },
}
"""Benchmark -> label -> function in `graders/lm_eval_metrics.py`."""
HEADINGS = ("right", "agrees\nwith ours", "right,\nours wrong", "wrong,\nours right", "not\ngraded")


@dataclass(frozen=True)
class Peer(Grader):
    """Another project's grader, and what it is given of a sample."""

    text: Callable[[Sample], str] = lambda sample: sample.text

    @property
    def reads_all(self) -> bool:
        """Whether it finds the answer in the completion itself."""
        return OURS not in self.label


@dataclass(frozen=True)
class Column:
    """A grader's opinions on each batch of a benchmark."""

    label: str
    version: str
    """Package and version; empty for our own."""
    opinions: list[list[Opinion]]
    missing: str = ""
    """Why there are none."""


def peers(benchmark: str, lm_eval: Path | None) -> list[Peer]:
    """The graders that take part for one benchmark."""
    boxed = Term(f"{GRADERS / 'math_verify_boxed.py'}:reference_in_box")
    found = [
        Peer("math-verify", "math-verify", boxed),
        Peer(f"math-verify, {OURS}", "math-verify", boxed, text=our_box),
    ]
    for label, function in LM_EVAL[benchmark].items():
        term = Term(f"{GRADERS / 'lm_eval_metrics.py'}:{function}")
        if OURS in label:
            found.append(Peer(label, "lm-eval", term, lm_eval, our_answer))
        else:
            found.append(Peer(label, "lm-eval", term, lm_eval))
    return found


def our_answer(sample: Sample) -> str:
    """The answer without the dollar signs that it may stand in, for peers that keep them."""
    answer = sample.answer or ""
    inline = INLINE.fullmatch(answer)
    return inline[1] if inline else answer


def our_box(sample: Sample) -> str:
    return rf"\boxed{{{our_answer(sample)}}}" if sample.answer else ""


# --- grading ---------------------------------------------------------------------------------


def columns(benchmark: str, batches: Sequence[Batch], args) -> Iterator[Column]:
    """Our verdicts as recorded, then each peer's."""
    yield Column(LENIENT, "", [own_opinions(batch.rows, strict=False) for batch in batches])
    if any(row.sample.strict is not None for batch in batches for row in batch.rows):
        yield Column(STRICT, "", [own_opinions(batch.rows, strict=True) for batch in batches])
    for peer in peers(benchmark, args.lm_eval):
        if args.only and args.only not in peer.label:
            continue
        started = time.perf_counter()
        column = opinions_of(peer, batches, args)
        seconds = time.perf_counter() - started
        print(f"{benchmark}, {peer.label}: {seconds:.0f} s", file=sys.stderr)
        yield column


def own_opinions(rows: Sequence[Row], *, strict: bool) -> list[Opinion]:
    """Our recorded verdicts in the form of a peer's."""
    found: list[Opinion] = []
    for row in rows:
        verdict = row.sample.strict if strict else row.sample.correct
        ungraded = Ungraded(Failure.SKIPPED, "no verdict was recorded")
        result = ungraded if verdict is None else Reward(float(verdict), row.sample.reason)
        found.append(Opinion(row, result, reads_all=True))
    return found


def opinions_of(peer: Peer, batches: Sequence[Batch], args) -> Column:
    """What a peer says about each sample, one child process for all batches."""
    rows = [row for batch in batches for row in batch.rows]
    with first_on_path(peer.folder):
        version = installed(peer.package)
        if version is None:
            place = peer.folder or f"this environment (--{peer.package} names another folder)"
            return Column(peer.label, "", [], f"{peer.package} is not installed in {place}")
        results = graded_one_by_one(
            peer.term,
            [(peer.text(row.sample), row.problem) for row in rows],
            workers=1,
            timeout_seconds=args.timeout,
            memory_bytes=args.memory_bytes,
        )
        try:
            found = [
                Opinion(row, result, peer.reads_all)
                for row, (result, _) in zip(rows, results, strict=True)
            ]
        except WorkerStartError as error:
            return Column(peer.label, version, [], shown(str(error)))
    left = iter(found)
    return Column(peer.label, version, [list(islice(left, len(batch.rows))) for batch in batches])


# --- what is printed -------------------------------------------------------------------------


def show_table(title: str, rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """One line a grader: a table on a terminal, Markdown elsewhere."""
    console = Console()
    print(f"\n{title}\n")
    if not console.is_terminal:
        headings = (heading.replace("\n", " ") for heading in HEADINGS)
        print(f"| grader | {' | '.join(headings)} |\n|{'---|' * (1 + len(HEADINGS))}")
        for label, cells in rows:
            print(f"| {label} | {' | '.join(cells)} |")
        return
    table = Table("grader", box=None, pad_edge=False, header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="right", no_wrap=True)
    for label, cells in rows:
        table.add_row(label, *cells)
    console.print(table)


def cells_of(counts: Figures, *, own: bool) -> list[str]:
    """The cells of one grader's line; ours has no agreement with itself."""
    right = share(counts.right, counts.n - counts.could_not_grade)
    ungraded = f"{counts.could_not_grade:,}"
    if own:
        return [right, "", "", "", ungraded]
    apart = (counts.right_where_wrong, counts.wrong_where_right)
    return [right, share(counts.agree, counts.both), *(f"{count:,}" for count in apart), ungraded]


def share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} % ({count:,})" if total else "-"


def show_batch(index: int, batch: Batch, found: Sequence[Column], most: int) -> None:
    """A batch's table, what we ourselves get wrong in it, and where the peers differ from us."""
    lines: list[tuple[str, Sequence[str]]] = []
    for column in found:
        if column.missing:
            lines.append((f"{column.label}: left out", ["-"] * len(HEADINGS)))
            continue
        number = column.version.rpartition(" ")[2]
        name = f"{column.label} ({number})" if number else column.label
        counts = figures(column.opinions[index])
        lines.append((name, cells_of(counts, own=column.label == LENIENT)))
    show_table(batch.title, lines)
    for column in found:
        if column.missing:
            print(f"\nleft out: {column.label}; {column.missing}")
    if batch.expected is not None:
        errors = [one for one in found[0].opinions[index] if one.verdict != batch.expected]
        print(f"\n{LENIENT}: {len(errors) or 'none'} not {batch.expected}")
        for line in (line for error in errors[:most] for line in described(error)):
            print(line)
        if len(errors) > most:
            print(f"    and {len(errors) - most:,} more; a larger --most shows them")
    for column in found:
        if column.opinions and column.label not in (LENIENT, STRICT):
            print("\n".join(listed(column.label, column.opinions[index], most=most)))


def as_json(index: int, batch: Batch, found: Sequence[Column]) -> dict[str, object]:
    """A batch's figures, and all disagreements however few were printed."""
    present = [column for column in found if not column.missing]
    return {
        "title": batch.title,
        "expected": batch.expected,
        "graders": [
            {"grader": c.label, "version": c.version, **asdict(figures(c.opinions[index]))}
            for c in present
        ],
        "left_out": {column.label: column.missing for column in found if column.missing},
        "disagreements": [
            {"grader": column.label, **disagreement_json(opinion)}
            for column in present
            if column.label not in (LENIENT, STRICT)
            for opinion in column.opinions[index]
            if opinion.disagrees
        ],
    }


def disagreement_json(opinion: Opinion) -> dict[str, object]:
    problem, sample = opinion.row.problem, opinion.row.sample
    return {
        "problem": problem.id,
        "sample": opinion.row.number,
        "cause": cause(opinion),
        "reference": problem.reference,
        "answer": sample.answer,
        "rule": sample.rule,
        "ours": opinion.row.ours,
        "peer": opinion.verdict,
        "peer_reason": opinion.peer.reason,
        "tail": sample.text[-TAIL_CHARS:],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("evaluation", type=Path, nargs="?", metavar="EVALUATION_DIR")
    parser.add_argument("--golds", type=Path, metavar="DATA_DIR", help="compare on references")
    parser.add_argument("--lm-eval", type=Path, help="folder that lm-eval is installed in")
    parser.add_argument("--only", help="run peers with this text in their label only")
    parser.add_argument("--most", type=int, default=20, help="disagreements listed for each peer")
    parser.add_argument("--others", type=int, default=500, help="references under other problems")
    parser.add_argument("--seed", type=int, default=0, help="draws the other problems")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds a completion may take")
    parser.add_argument("--memory-bytes", type=int, default=16 << 30)
    parser.add_argument("--json", type=Path, help="write figures and all disagreements here too")
    args = parser.parse_args()
    if (args.evaluation is None) == (args.golds is None):
        parser.error("give either EVALUATION_DIR or --golds DATA_DIR, not both.")
    try:
        if args.golds is None:
            found = evaluated(args.evaluation)
        else:
            found = golds(
                args.golds, others=args.others, seed=args.seed, timeout_seconds=args.timeout
            )
    except ConfigError as error:
        parser.error(str(error))
    results: list[dict[str, object]] = []
    for benchmark, batches in found.items():
        graded = list(columns(benchmark, batches, args))
        for index, batch in enumerate(batches):
            show_batch(index, batch, graded, args.most)
            results.append(as_json(index, batch, graded))
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

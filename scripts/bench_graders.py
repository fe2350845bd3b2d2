#!/usr/bin/env python
"""Our graders beside others' on one file of labelled cases: how right, how fast, how safe.

    python scripts/bench_graders.py CASES.jsonl
    pip install --no-deps --target PEERS/trl trl
    pip install --no-deps --target PEERS/verl verl tensordict pyvers omegaconf==2.4.0 hydra-core \
        codetiming pylatexenc antlr4-python3-runtime==4.11.1
    python scripts/bench_graders.py CASES.jsonl --trl PEERS/trl --verl PEERS/verl

Every grader runs in the same killable child process with the same limits, one completion at a
time. A peer's folder comes first on that child's import path only: verl's rules need an ANTLR
runtime with which math-verify misreads percentages. `math-verify` gets the reference in a box, the
form it reads best. A grader that is not installed is said to be so, and left out.

Cases that try to execute code write to a folder. Name it with --canary, and files that appear
there are counted; some of the peers do execute what a model wrote.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from peers import Grader, first_on_path, installed

from cotree.rewards.cases import HOSTILE, Case, Judged, read_cases, summarized
from cotree.rewards.registry import Term
from cotree.rewards.stopwatch import graded_one_by_one
from cotree.rewards.types import Failure, Ungraded

HERE = Path(__file__).resolve().parent
LENIENT = {"extraction": "lenient"}


def graders(trl: Path | None, verl: Path | None) -> list[Grader]:
    """Ours first, then the peers."""
    folder = HERE / "graders"
    trl_file, verl_file = folder / "trl_accuracy.py", folder / "verl_rules.py"
    boxed = f"{folder / 'math_verify_boxed.py'}:reference_in_box"
    return [
        Grader("cotree math", "cotree", Term("math", options=LENIENT)),
        Grader("cotree math, anchored", "cotree", Term("math")),
        Grader("cotree answer", "cotree", Term("answer")),
        Grader("math-verify, reference in a box", "math-verify", Term(boxed)),
        Grader("the same, our extraction", "math-verify", Term("math_verify", options=LENIENT)),
        Grader("TRL accuracy_reward, as documented", "trl", Term(f"{trl_file}:as_documented"), trl),
        Grader("TRL, reference in $", "trl", Term(f"{trl_file}:reference_in_dollars"), trl),
        Grader("verl MATH default", "verl", Term(f"{verl_file}:math_default"), verl),
        Grader("verl prime_math", "verl", Term(f"{verl_file}:prime"), verl),
    ]


def measured(grader: Grader, cases: Sequence[Case], canary: Path | None, args) -> dict[str, object]:
    """One grader's figures over all cases, and over those that are not hostile."""
    with first_on_path(grader.folder):
        found = installed(grader.package)
        if found is None:
            return {"grader": grader.label, "version": None}
        before = files_in(canary)
        results = graded_one_by_one(
            grader.term,
            [(case.completion, case.problem) for case in cases],
            workers=1,
            timeout_seconds=args.timeout,
            memory_bytes=args.memory_bytes,
        )
        judged = [Judged(case, *result) for case, result in zip(cases, results, strict=True)]
        tame = [row for row in judged if not row.case.tags & HOSTILE]
        return {
            "grader": grader.label,
            "version": found,
            "all": asdict(summarized(judged)),
            "not_hostile": asdict(summarized(tame)),
            "killed": sum(was_killed(row) for row in judged),
            "executed": None if canary is None else len(files_in(canary) - before),
        }


def was_killed(row: Judged) -> bool:
    return isinstance(row.result, Ungraded) and row.result.failure is Failure.TIMEOUT


def files_in(folder: Path | None) -> frozenset[str]:
    return frozenset(path.name for path in folder.iterdir()) if folder else frozenset()


def show(rows: Sequence[dict[str, object]], num_cases: int) -> None:
    print(
        f"| grader, {num_cases} undisputed cases | right | false + | false - | no verdict (killed) "
        "| executed | median ms | p99 ms |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        if row["version"] is None:
            print(f"| {row['grader']} | not installed | | | | | | |")
            continue
        every, tame = row["all"], row["not_hostile"]
        assert isinstance(every, dict)
        assert isinstance(tame, dict)
        rates = (every["accuracy"], every["false_positive_rate"], every["false_negative_rate"])
        cells = [
            f"{row['grader']} ({row['version']})",
            *("-" if rate is None else f"{100 * rate:.1f} %" for rate in rates),
            f"{every['could_not_grade']} ({row['killed']})",
            "not counted" if row["executed"] is None else str(row["executed"]),
            *(milliseconds(tame[key]) for key in ("median_ms", "p99_ms")),
        ]
        print(f"| {' | '.join(cells)} |")
    print("\nTimes are those of the rows that are not hostile, within the child process.")


def milliseconds(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("cases", type=Path)
    parser.add_argument("--trl", type=Path, help="folder that TRL is installed in")
    parser.add_argument("--verl", type=Path, help="folder that verl is installed in")
    parser.add_argument("--only", help="run graders with this text in their label only")
    parser.add_argument("--timeout", type=float, default=2.0, help="seconds a completion may take")
    parser.add_argument("--memory-bytes", type=int, default=16 << 30)
    parser.add_argument("--canary", type=Path, help="folder that injected code writes to")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    cases = [case for case in read_cases(args.cases) if not case.disputed]
    if args.canary is not None:
        args.canary.mkdir(parents=True, exist_ok=True)
        if files_in(args.canary):
            parser.error(f"{args.canary} is not empty; what is in it could not be told apart.")
    rows: list[dict[str, object]] = []
    for grader in graders(args.trl, args.verl):
        if args.only and args.only not in grader.label:
            continue
        started = time.perf_counter()
        rows.append(measured(grader, cases, args.canary, args))
        print(f"{grader.label}: {time.perf_counter() - started:.0f} s", file=sys.stderr)
        for path in args.canary.iterdir() if args.canary else ():
            path.unlink()  # the next grader may create the same file
    show(rows, len(cases))
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()

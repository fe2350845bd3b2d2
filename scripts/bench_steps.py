#!/usr/bin/env python3
"""How well `arithmetic_steps` finds mistakes, and how often it is wrong: a table, and JSON.

Generated traces have one known mistake each. Solutions by people (GSM8K train, MATH-500) count as
clean, so the few mistakes their authors made count as false alarms. They are read from the folder
in COTREE_DATA, and left out when it is not set.

Usage: scripts/bench_steps.py [--traces 3000] [--json FILE] [--show 5]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from cotree.rewards.steps.arithmetic import arithmetic_steps
from cotree.rewards.steps.traces import generated_trace, mistaken
from cotree.rewards.types import Problem, StepScore, Verdict

# Per data set: F1 of the first wrong step, recall on wrong steps, false alarm per clean step, in %.
# A comparable checker (numeric equalities, rounding-aware), measured once on these public sets,
# which this script does not download. None: not defined there.
PUBLISHED = {
    "ProcessBench gsm8k": (10.1, 5.8, 0.44),
    "ProcessBench math": (10.2, 5.9, 0.29),
    "ProcessBench olympiadbench": (5.0, 2.6, 0.14),
    "ProcessBench omnimath": (5.9, 3.2, 0.20),
    "PRMBench": (None, 0.93, 0.16),
}

# GSM8K's calculator annotations, and one directly before the integer it computed.
_ANNOTATION = re.compile(r"<<[^<>]*>>")
_RESULT = re.compile(r"<<[^<>]*>>([0-9]{1,9})(?![0-9.,/])")


@dataclass(frozen=True)
class Share:
    """A proportion with its 95 % Wilson interval."""

    value: float
    low: float
    high: float
    n: int


def share(hits: int, n: int) -> Share:
    """Wilson's score interval, which is right for shares near 0 and 1 too."""
    if n == 0:
        return Share(math.nan, math.nan, math.nan, 0)
    z, p = 1.959964, hits / n
    center = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Share(p, max(0.0, center - half), min(1.0, center + half), n)


def steps_of(text: str, question: str, *, algebra: bool) -> tuple[StepScore, ...]:
    problem = Problem("bench", "", "", "bench", question)
    return arithmetic_steps(text, problem, algebra=algebra).steps


def generated(num_traces: int, *, algebra: bool) -> dict[str, object]:
    """Recall on the false lines and false alarms per clean line, of all and by kind."""
    wrong, caught = Counter[str](), Counter[str]()
    clean = alarms = 0
    for seed in range(num_traces):
        trace = generated_trace(seed, num_lines=6, wrong=True)
        steps = steps_of(trace.text, "", algebra=algebra)
        starts = [step.span[0] for step in steps if step.verdict is Verdict.REFUTED]
        for line in trace.lines:
            hit = any(line.span[0] <= start < line.span[1] for start in starts)
            if line.wrong:
                wrong[line.kind] += 1
                caught[line.kind] += hit
            else:
                clean += 1
                alarms += hit
    return {
        "recall": asdict(share(caught.total(), wrong.total())),
        "false_alarm": asdict(share(alarms, clean)),
        "recall_by_kind": {
            kind: asdict(share(caught[kind], wrong[kind])) for kind in sorted(wrong)
        },
    }


def written(
    path: Path, question: str, field: str, *, algebra: bool, show: int
) -> dict[str, object]:
    """False alarms per line (a step) of solutions by people, and how much could be checked."""
    lines = checkable = flagged = 0
    shown: list[str] = []
    start = time.perf_counter()
    for row in map(json.loads, path.read_text().splitlines()):
        text = row[field]
        steps = steps_of(text, row[question], algebra=algebra)
        begin = 0
        for line in text.split("\n"):
            end = begin + len(line) + 1
            verdicts = [s.verdict for s in steps if begin <= s.span[0] < end]
            lines += bool(line.strip())
            checkable += any(verdict is not Verdict.UNCHECKED for verdict in verdicts)
            flagged += Verdict.REFUTED in verdicts
            begin = end
        shown += [step.reason for step in steps if step.verdict is Verdict.REFUTED]
    seconds = time.perf_counter() - start
    return {
        "false_alarm": asdict(share(flagged, lines)),
        "checkable": asdict(share(checkable, lines)),
        "characters_per_second": round(path.stat().st_size / seconds),
        "refuted": shown[:show],
    }


def injected(path: Path, *, algebra: bool) -> dict[str, object]:
    """Recall on solutions by people with a mistake put in: the result of one annotated line.

    The annotations are taken out, and the number after one of them is changed.
    """
    rng = random.Random(0)
    wrong = caught = 0
    for row in map(json.loads, path.read_text().splitlines()):
        places = list(_RESULT.finditer(row["answer"]))
        if not places:
            continue
        place = rng.choice(places)
        false = str(mistaken(rng, int(place[1])))
        before = _ANNOTATION.sub("", row["answer"][: place.start()])
        after = _ANNOTATION.sub("", row["answer"][place.end() :])
        steps = steps_of(before + false + after, row["question"], algebra=algebra)
        refuted = [step.span for step in steps if step.verdict is Verdict.REFUTED]
        wrong += 1
        caught += any(
            start <= len(before) + len(false) and len(before) < end for start, end in refuted
        )
    return {"recall": asdict(share(caught, wrong))}


def percent(found: dict[str, float]) -> str:
    return (
        f"{100 * found['value']:6.2f} % [{100 * found['low']:.2f}, {100 * found['high']:.2f}] "
        f"of {found['n']}"
    )


def measured(args: argparse.Namespace) -> dict[str, object]:
    result: dict[str, object] = {}
    folder = os.environ.get("COTREE_DATA")
    for name, algebra in (("equalities and variables", False), ("with algebra", True)):
        found: dict[str, object] = {"generated": generated(args.traces, algebra=algebra)}
        if folder:
            options = {"algebra": algebra, "show": args.show}
            gsm8k, math500 = Path(folder, "gsm8k/train.jsonl"), Path(folder, "math500/test.jsonl")
            found["gsm8k_train"] = written(gsm8k, "question", "answer", **options)
            found["gsm8k_injected"] = injected(gsm8k, algebra=algebra)
            found["math500"] = written(math500, "problem", "solution", **options)
        result[name] = found
    return result


def show_table(result: dict[str, object]) -> None:
    for name, found in result.items():
        print(f"\n{name}")
        made = found["generated"]
        print(f"  generated traces  recall                {percent(made['recall'])}")
        print(f"                    false alarm per line  {percent(made['false_alarm'])}")
        kinds = ", ".join(f"{k} {v['value']:.0%}" for k, v in made["recall_by_kind"].items())
        print(f"                    recall by kind: {kinds}")
        if "gsm8k_injected" in found:
            recall = percent(found["gsm8k_injected"]["recall"])
            print(f"  gsm8k, one result changed, recall       {recall}")
        for data in ("gsm8k_train", "math500"):
            if data not in found:
                print(f"  {data:17} left out: set COTREE_DATA")
                continue
            print(f"  {data:17} false alarm per line  {percent(found[data]['false_alarm'])}")
            print(f"  {'':17} lines with a verdict  {percent(found[data]['checkable'])}")
            for reason in found[data]["refuted"]:
                print(f"  {'':17}   {reason}")
    print("\nOn free-form text by language models recall is low, whatever the rule: their mistakes")
    print(
        "are not slips of arithmetic. Figures of a comparable checker, quoted, not measured here:"
    )
    for data, (f1, recall, alarm) in PUBLISHED.items():
        shown = "   -  " if f1 is None else f"{f1:5.1f} "
        print(f"  {data:27} F1 {shown} recall {recall:5.2f} %  false alarm {alarm:.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--traces", type=int, default=3000, help="generated traces")
    parser.add_argument("--show", type=int, default=5, help="refuted steps of people to print")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    result = measured(args)
    show_table(result)
    if args.json:
        quoted = {
            name: {"f1": f1, "recall_percent": recall, "false_alarm_percent": alarm}
            for name, (f1, recall, alarm) in PUBLISHED.items()
        }
        args.json.write_text(json.dumps({**result, "quoted": quoted}, indent=1) + "\n")


if __name__ == "__main__":
    main()

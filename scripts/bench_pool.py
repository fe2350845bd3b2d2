#!/usr/bin/env python
"""Throughput of the grading pool: items a second, by reward, form and number of workers.

    python scripts/bench_pool.py [--items 4000] [--seconds 2] [--workers 1 2] [--json FILE]

Completions are worked solutions of a few hundred characters, as in a run. Each figure is the best
of as many passes as fit in the time, after a pass that warms the children up.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from cotree.rewards.isolation import IsolatedPool
from cotree.rewards.registry import Term
from cotree.rewards.types import Problem

PLUGIN = """
import asyncio
from cotree.rewards.answer import answer

def single(completion, problem): return answer(completion, problem)
def batch(completions, problems): return [answer(c, p) for c, p in zip(completions, problems)]
async def concurrent(completion, problem): return answer(completion, problem)
async def waiting(completion, problem):
    await asyncio.sleep(0.01)  # a server's answer, say
    return answer(completion, problem)
"""


def items(count: int) -> list[tuple[str, Problem]]:
    """Half of them right, with the kinds of answers that data sets have."""
    golds = ["42", r"\frac{3}{4}", "1,250", r"(2, \sqrt{3})", r"x^2 + 2x + 1", "0.125"]
    found: list[tuple[str, Problem]] = []
    for index in range(count):
        gold = golds[index % len(golds)]
        answer = gold if index % 2 else "17"
        thought = "First add the two sides, then divide by three. " * 6
        text = f"<think>\n{thought}\n</think>\nThe answer is \\boxed{{{answer}}}."
        found.append((text, Problem(f"p{index}", "?", gold, "bench")))
    return found


def items_per_second(
    terms: list[Term], work: list[tuple[str, Problem]], *, workers: int, seconds: float
) -> float:
    with IsolatedPool(terms, workers=workers, timeout_seconds=30, memory_bytes=2 << 30) as pool:
        pool.grade_many(work[: 64 * workers])
        best, deadline = float("inf"), time.perf_counter() + seconds
        while time.perf_counter() < deadline:
            started = time.perf_counter()
            pool.grade_many(work)
            best = min(best, time.perf_counter() - started)
    return len(work) / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=4000, help="completions in one pass")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each figure")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    work = items(arguments.items)
    figures: dict[str, dict[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "forms.py"
        file.write_text(PLUGIN)
        rows = {
            "answer": [Term("answer")],
            "math": [Term("math")],
            "answer + format": [Term("answer"), Term("format")],
            **{f"plugin, {form}": [Term(f"{file}:{form}")] for form in ("single", "batch")},
            "plugin, async": [Term(f"{file}:concurrent")],
            "plugin, async, 10 ms wait": [Term(f"{file}:waiting")],
        }
        print(f"{os.cpu_count()} cores, {len(work)} completions")
        print("  ".join([f"{'reward':26}", *(f"{n} worker(s)" for n in arguments.workers)]))
        for name, terms in rows.items():
            figures[name] = {
                workers: items_per_second(terms, work, workers=workers, seconds=arguments.seconds)
                for workers in arguments.workers
            }
            shown = (f"{rate:9,.0f}/s" for rate in figures[name].values())
            print("  ".join([f"{name:26}", *shown]), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

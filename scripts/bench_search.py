"""What the driver of searches costs: the same engine, generating plainly and under searches.

    python scripts/bench_search.py MODEL TASK [--problems 200] [--budget 512] [--json FILE]

Plain: all completions of all problems are in the engine at once, nobody looks at them. Searches ask
one by one, are judged and logged, and stop at their budget. Arms take turns; medians are printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from cotree.grpo.config_evaluation import Benchmarks, Engines
from cotree.grpo.config_search import ModelSearch, Search
from cotree.grpo.evaluation.engine_sampler import EngineSampler, PromptEncoder, longest_prompt
from cotree.grpo.evaluation.engine_setup import generator_settings, running_engines
from cotree.grpo.evaluation.job import make_jobs
from cotree.grpo.evaluation.records import Ask
from cotree.grpo.generator import GeneratorGroup, Sampling
from cotree.grpo.provenance import machine
from cotree.grpo.searching.records import read_searches
from cotree.grpo.searching.sampler import SearchFiles
from cotree.grpo.searching.setup import search_sampler, session_with
from cotree.grpo.seeds import derive
from cotree.grpo.tokens import load_tokenizer

ARMS = ("majority", "puct", "puct:stops_when_refuted=true", "dfs:votes=none", "beam:8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("task")
    parser.add_argument("--problems", type=int, default=200)
    parser.add_argument("--budget", type=int, default=512, help="tokens a problem")
    parser.add_argument("--max-tokens", type=int, default=110)
    parser.add_argument("--data")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", default=",,".join(ARMS), help="separated by two commas")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    arms = options.arms.split(",,")
    measured = Benchmarks(
        names=(options.task,),
        data=options.data,
        limit=options.problems,
        temperature=1.0,
        max_tokens=options.max_tokens,
    )
    encoder = PromptEncoder(load_tokenizer(options.model, revision=None))
    (job,) = make_jobs(measured, has_template=encoder.template is not None)
    generator = generator_settings(
        options.model,
        Engines(),
        prompt_tokens=longest_prompt([job], encoder),
        max_tokens=options.max_tokens,
        tokens_beside=256 * options.budget,
    )
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ("plain", *arms)}
    with running_engines(options.model, generator, revision=None, seed=0) as group:
        for round_ in range(options.rounds + 1):  # the first one warms up
            for arm in found:
                asks = [
                    Ask(ask.index, ask.id, ask.prompt, (derive(round_, ask.id),))
                    for ask in job.asks
                ]
                one = (
                    plain(group, encoder, asks, options)
                    if arm == "plain"
                    else searched(group, encoder, asks, options, arm, measured, job)
                )
                print(round_, arm, one, file=sys.stderr, flush=True)
                if round_:
                    found[arm].append(one)
    medians = {
        arm: {key: median(one[key] for one in rows) for key in rows[0]}
        for arm, rows in found.items()
    }
    for arm, one in medians.items():
        relative = one["tokens_per_second"] / medians["plain"]["tokens_per_second"]
        print(
            f"{arm:32} {one['tokens_per_second']:8,.0f} tokens/s ({relative:5.1%} of plain), "
            f"engine busy {one['engine_share']:5.1%}, cache {one['hit_rate']:5.1%}"
        )
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "rounds": found}, indent=2))


def plain(
    group: GeneratorGroup, encoder: PromptEncoder, asks: list[Ask], options: argparse.Namespace
) -> dict[str, float]:
    """As many whole completions as the budget holds, about, drawn as an evaluation draws them."""
    count = max(1, round(options.budget / mean_tokens(group, encoder, asks[:50], options)))
    many = [
        Ask(ask.index, ask.id, ask.prompt, tuple(derive(ask.seeds[0], n) for n in range(count)))
        for ask in asks
    ]
    sampler = EngineSampler(group, encoder, Sampling(options.max_tokens, 1.0), dtype="bfloat16")
    before, started = group.stats(), time.perf_counter()
    for _ in sampler.sample(many):
        pass
    return speed(before, group.stats(), time.perf_counter() - started)


def mean_tokens(
    group: GeneratorGroup, encoder: PromptEncoder, asks: list[Ask], options: argparse.Namespace
) -> float:
    sampler = EngineSampler(group, encoder, Sampling(options.max_tokens, 1.0), dtype="bfloat16")
    drawn = [one for _, several in sampler.sample(asks) for one in several]
    return sum(one.num_tokens for one in drawn) / len(drawn)


def searched(group, encoder, asks, options, arm, measured, job) -> dict[str, float]:
    """The same problems under a search; the files go to a folder that is removed."""
    settings = ModelSearch(
        benchmarks=measured, search=Search(strategy=arm, budget_tokens=options.budget)
    )
    with tempfile.TemporaryDirectory() as folder:
        files = SearchFiles.of(Path(folder), job.name)
        sampler = search_sampler(
            job,
            settings,
            files,
            encoder=encoder,
            open_session=lambda: session_with(group, measured),
        )
        before, started = group.stats(), time.perf_counter()
        for _ in sampler.sample(asks):
            pass
        seconds = time.perf_counter() - started
        records = read_searches(files.trees)
    assert all(one.tokens["spent"] <= options.budget for one in records)
    return speed(before, group.stats(), seconds)


def speed(before: list[dict[str, float]], after: list[dict[str, float]], seconds: float):
    change = {
        key: sum(b[key] - a[key] for a, b in zip(before, after, strict=True)) for key in before[0]
    }
    return {
        "tokens": change["tokens"],
        "seconds": seconds,
        "tokens_per_second": change["tokens"] / seconds,
        "engine_share": change["seconds"] / seconds,
        "hit_rate": change["cached_tokens"] / max(1.0, change["prompt_tokens"]),
    }


if __name__ == "__main__":
    main()

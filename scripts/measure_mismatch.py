#!/usr/bin/env python
"""How far an engine's log-probabilities are from a reference model's, of tokens it samples itself.

    cotree export runs/quickstart/model int8 --format int8
    python scripts/measure_mismatch.py int8 runs/quickstart/model --config configs/quickstart.toml
    python scripts/measure_mismatch.py runs/quickstart/model runs/quickstart/model --dtype float32

ENGINE samples completions of a pipeline's test problems at temperature 1, as a rollout does, and
REFERENCE, a float model in transformers, says in float32 how likely it finds their tokens:

    mean, p99, max   of |log p_engine - log p_reference| over the tokens, in nats
    k3               an estimate of KL(engine || reference) for a token, in nats
    ratio            mean over the completions of |p_reference / p_engine - 1|, whole completions

Intervals are a bootstrap over problems, 95 %: completions of a problem are not independent.
The engine is the project's, in this process; run it twice to compare two.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cotree.grpo.config import Generator as Settings
from cotree.grpo.engine import Generator, Sampling
from cotree.grpo.kl import k3
from cotree.grpo.problems import load_problems, render_prompt
from cotree.grpo.run_folder import load_pipeline
from cotree.grpo.tokens import load_tokenizer, prompt_encoder
from cotree.grpo.types import Completion, SampleRequest

RESAMPLES = 2000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", type=Path, help="folder of the checkpoint that vLLM runs")
    parser.add_argument("reference", type=Path, help="folder of the float checkpoint")
    parser.add_argument("--config", type=Path, default=Path("configs/quickstart.toml"))
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--problems", type=int, default=16)
    parser.add_argument("--completions", type=int, default=4, help="of each problem")
    parser.add_argument("--tokens", type=int, default=96, help="of a completion, at most")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    requests = prompts(arguments)
    settings = Settings(
        dtype=arguments.dtype,
        max_model_len=max(len(r.prompt_ids) for r in requests) + arguments.tokens,
        max_num_seqs=64,
        kv_cache_bytes=256 << 20,
    )
    engine = Generator(str(arguments.engine), generator=settings, seed=arguments.seed)
    sampling = Sampling(max_tokens=arguments.tokens, temperature=1.0)
    groups = engine.sample(requests, sampling, min_version=0)
    gaps = reference_gaps(arguments.reference, requests, groups)
    rate = engine.stats()["tokens"] / engine.stats()["seconds"]
    found = {"engine": str(arguments.engine), "dtype": arguments.dtype, "tokens_per_second": rate}
    print(json.dumps(found | summary(gaps, seed=arguments.seed), indent=1))


def prompts(arguments: argparse.Namespace) -> list[SampleRequest]:
    """The first test problems of the pipeline, as the reference's tokenizer writes them."""
    pipeline = load_pipeline(arguments.config, [])
    tokenizer = load_tokenizer(str(arguments.reference), revision=None)
    encode = prompt_encoder(tokenizer, chat=pipeline.prompt.chat)
    problems = load_problems(
        pipeline, "test", lambda question: render_prompt(pipeline.prompt, question, tokenizer)
    )
    first, number = arguments.seed * arguments.problems, arguments.completions
    seeds = range(1000 * arguments.seed, 1000 * arguments.seed + number)
    chosen = problems[first : first + arguments.problems]
    return [SampleRequest(one, encode(one.prompt), tuple(seeds)) for one in chosen]


def reference_gaps(
    reference: Path, requests: list[SampleRequest], groups: list[tuple[Completion, ...]]
) -> list[list[Tensor]]:
    """For each problem and completion [T]: log p_engine - log p_reference of its tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(reference, dtype=torch.float32)
    found: list[list[Tensor]] = []
    for request, completions in zip(requests, groups, strict=True):
        found.append([])
        for completion in completions:
            ids = torch.tensor([[*request.prompt_ids, *completion.token_ids]])
            with torch.no_grad():
                table = model(ids).logits[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
            theirs = table.gather(1, torch.tensor(completion.token_ids)[:, None]).squeeze(1)
            found[-1].append(torch.tensor(completion.logprobs) - theirs)
    return found


def summary(gaps: list[list[Tensor]], *, seed: int) -> dict[str, object]:
    """The figures, each with its interval."""
    measures: dict[str, Callable[[list[Tensor]], float]] = {
        "mean": lambda g: float(torch.cat(g).abs().mean()),
        "p99": lambda g: float(torch.cat(g).abs().quantile(0.99)),
        "max": lambda g: float(torch.cat(g).abs().max()),
        "k3": lambda g: float(k3(torch.cat(g), torch.zeros(len(torch.cat(g)))).mean()),
        "ratio": lambda g: float(torch.stack([(-one.sum()).exp() - 1 for one in g]).abs().mean()),
    }
    random = np.random.default_rng(seed)
    draws = random.integers(len(gaps), size=(RESAMPLES, len(gaps)))
    figures: dict[str, object] = {
        "problems": len(gaps),
        "completions": sum(map(len, gaps)),
        "tokens": sum(len(one) for group in gaps for one in group),
    }
    for name, measure in measures.items():
        value = measure([one for group in gaps for one in group])
        resampled = [measure([one for i in draw for one in gaps[i]]) for draw in draws]
        low, high = np.quantile(resampled, [0.025, 0.975])
        figures[name] = {"value": value, "low": float(low), "high": float(high)}
    return figures


if __name__ == "__main__":
    main()

"""A real vLLM engine in a process of its own, for tests, and requests for it."""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayTaskError

from cotree.grpo import config
from cotree.grpo.engine import Generator, Sampling
from cotree.grpo.engine_options import engine_environment
from cotree.grpo.types import Completion, Problem, SampleRequest

SETTINGS = config.Generator(
    dtype="float32", max_model_len=256, kv_cache_bytes=32 << 20, sync_tolerance_nats=1e-3
)
AT_ONE = Sampling(max_tokens=24, temperature=1.0)


class Host:
    """An actor's handle: runs functions on the one engine in it."""

    def __init__(self, engine: type[Generator] = Generator) -> None:
        class Process:
            def start(self, path: str, settings: config.Generator) -> None:
                # vLLM keeps one set of globals: the last engine must go before the next comes.
                self.engine = None
                gc.collect()
                self.engine = engine(path, generator=settings, seed=0)

            def run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
                return function(self.engine, *args)

        environment = engine_environment(threads=1, cuda=False)
        self._actor = ray.remote(num_cpus=1, runtime_env={"env_vars": environment})(
            Process
        ).remote()
        self.pristine = False

    def start(self, path: Path, settings: config.Generator) -> None:
        self.pristine = False
        ray.get(self._actor.start.remote(str(path), settings))

    def __call__(self, function: Callable[..., Any], *args: object) -> Any:
        try:
            return ray.get(self._actor.run.remote(function, args))
        except RayTaskError as error:
            raise error.cause from None

    def sample(self, requests: list[SampleRequest], sampling: Sampling = AT_ONE, version: int = 0):
        return self(lambda g, *a: g.sample(*a, min_version=version), requests, sampling)


def request(number: int, *, length: int = 20, seeds: tuple[int, ...] = (7,)) -> SampleRequest:
    problem = Problem(id=f"problem/{number}", prompt="", reference="", task="test")
    prompt = tuple(4 + (number * 31 + i * i) % 90 for i in range(length))
    return SampleRequest(problem, prompt, seeds)


def worst_gap(model: Any, request: SampleRequest, completion: Completion, temperature: float = 1.0):
    ids = request.prompt_ids + completion.token_ids
    with torch.no_grad():
        table = (model(torch.tensor([ids])).logits[0] / temperature).log_softmax(-1)
    start = len(request.prompt_ids)
    expected = [table[start - 1 + i, t].item() for i, t in enumerate(completion.token_ids)]
    return max(abs(a - b) for a, b in zip(completion.logprobs, expected, strict=True))

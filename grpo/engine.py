"""One vLLM engine that holds one proven policy version.

`Generator` is a plain class around the engine; `grpo.generator` makes Ray actors of it. It owns
its process: vLLM turns `torch.set_num_threads` into a no-op and starts torch.distributed, so a
learner must never share it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias

import torch

from cotree.grpo import config
from cotree.grpo.types import Completion, SampleRequest
from cotree.grpo.weights import Canary, SyncProof, WeightSyncError, WeightUpdate, prove
from cotree.search.segments import token_ends

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"

VllmObject: TypeAlias = Any
"""vLLM and the tokenizers it returns are untyped."""

_LOWEST_TEMPERATURE = 0.01
"""vLLM silently raises smaller positive temperatures to this one."""


class StaleGeneratorError(RuntimeError):
    """The generator holds older weights than the caller is willing to sample from."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn."""

    max_tokens: int
    """Completion length limit, in tokens."""
    temperature: float
    """Logits are divided by it; 0 is greedy."""
    top_p: float = 1.0
    """Probability mass of the most likely tokens that may be drawn."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, which contains them: tokens are the truth, text is derived."""

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"max_tokens = {self.max_tokens} must be 1 or more.")
        if not (self.temperature == 0 or _LOWEST_TEMPERATURE <= self.temperature < math.inf):
            raise ValueError(
                f"temperature = {self.temperature} must be 0 (greedy) or at least "
                f"{_LOWEST_TEMPERATURE}; the engine would change smaller ones silently."
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p = {self.top_p} must lie in (0, 1].")
        if not all(self.stop):
            raise ValueError(f"stop = {self.stop!r} has an empty text, which every completion has.")


def engine_environment(*, threads: int, cuda: bool) -> dict[str, str]:
    """Environment variables that must be set in the engine's process before vLLM is imported."""
    environment = {
        # The engine core in this process: tensors reach the worker without being pickled, and a
        # killed actor leaves no orphan.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": os.environ.get("VLLM_LOGGING_LEVEL", "ERROR"),
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        # vLLM and torch warn about themselves at each start; none of it concerns the run.
        "PYTHONWARNINGS": "ignore::FutureWarning",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    if not cuda:
        # The first request with log-probabilities compiles a helper for 8-18 s, to no benefit.
        environment["TORCHDYNAMO_DISABLE"] = "1"
    if "HF_HUB_OFFLINE" in os.environ:
        environment["HF_HUB_OFFLINE"] = os.environ["HF_HUB_OFFLINE"]
    return environment


def engine_options(generator: config.Generator, *, cuda: bool) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`, besides the model."""
    options: dict[str, Any] = {
        "dtype": generator.dtype,
        "max_model_len": generator.max_model_len,
        "max_num_seqs": generator.max_num_seqs,
        "kv_cache_memory_bytes": generator.kv_cache_bytes,
        "enable_prefix_caching": True,
        "trust_remote_code": False,
        # A checkpoint's generation_config.json would change temperature, top-p and top-k silently.
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        "use_tqdm_on_load": False,
        "worker_extension_cls": "cotree.grpo.engine_worker.EngineWorker",
    }
    if cuda:
        # Only checked against free memory at start-up once kv_cache_memory_bytes is given; a
        # learner may hold most of the device.
        return options | {"gpu_memory_utilization": 0.05}
    return options | {
        "enforce_eager": True,
        # A chunked prompt with a per-request seed kills vLLM's CPU sampler ("CPU Generator does
        # not use offset"); without chunks a step must have room for a whole prompt.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(generator.max_model_len, 8192),
        # vLLM's default of 128 would keep shorter prompts out of the prefix cache; 16 is refused.
        "block_size": 32,
    }


class Generator:
    """One engine. Starts at policy version 0, the weights at `model_path`."""

    def __init__(
        self,
        model_path: str,
        *,
        generator: config.Generator,
        seed: int,
        revision: str | None = None,
    ) -> None:
        """Starts the engine (15 s on a CPU, most of it imports)."""
        cuda = torch.cuda.is_available()
        os.environ.update(engine_environment(threads=generator.threads, cuda=cuda))
        if not cuda:
            torch.set_num_threads(generator.threads)
        from vllm import LLM

        self._generator = generator
        self._llm: VllmObject = LLM(
            model_path,
            revision=revision,
            tokenizer_revision=revision,
            seed=seed,
            **engine_options(generator, cuda=cuda),
        )
        self._tokenizer: VllmObject = self._llm.get_tokenizer()
        self._pieces: dict[int, str] = {}
        self._stop_ids = _stop_ids(model_path, self._tokenizer, revision)
        self._version: int | None = 0
        self._newest = 0
        self._stats = {"tokens": 0.0, "seconds": 0.0, "prompt_tokens": 0.0, "cached_tokens": 0.0}

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, min_version: int
    ) -> list[tuple[Completion, ...]]:
        """Samples one completion per seed of each request, in the order given.

        A completion depends on the weights, its prompt, `sampling` and its seed alone: with one
        OpenMP thread it is the same bit for bit whatever else is in the batch or the cache.

        Raises:
            StaleGeneratorError: the weights are older than `min_version`, or unproven.
            ValueError: a prompt is empty or leaves no room for `max_tokens`; a seed is negative.
        """
        self._check(requests, sampling, min_version)
        started = time.perf_counter()
        prompts = [{"prompt_token_ids": list(r.prompt_ids)} for r in requests for _ in r.seeds]
        params = [self._params(sampling, seed) for r in requests for seed in r.seeds]
        outputs = self._llm.generate(prompts, params, use_tqdm=False) if prompts else []
        completions = iter([self._completion(output) for output in outputs])
        groups = [tuple(islice(completions, len(request.seeds))) for request in requests]
        assert sum(map(len, groups)) == len(outputs), "the engine answered another number"
        self._stats["seconds"] += time.perf_counter() - started
        return groups

    def stream(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, min_version: int
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """As `sample`, but yields (index of a request, its completions) as requests finish.

        All requests are in the engine at once, so a long completion keeps no other one waiting.
        Leaving the iterator early takes those that are under way out of the engine.

        Raises:
            StaleGeneratorError, ValueError: as `sample`, before anything is sampled.
        """
        self._check(requests, sampling, min_version)
        started, engine = time.perf_counter(), self._llm.llm_engine
        waiting: dict[str, tuple[int, int]] = {}  # request id -> (request, sample)
        done: list[dict[int, Completion]] = [{} for _ in requests]
        try:
            for index, request in enumerate(requests):
                prompt = {"prompt_token_ids": list(request.prompt_ids)}
                for sample, seed in enumerate(request.seeds):
                    params = self._params(sampling, seed)
                    engine.add_request(f"{index}/{sample}", prompt, params)
                    waiting[f"{index}/{sample}"] = (index, sample)
            while waiting:
                for output in engine.step():
                    if not output.finished:
                        continue
                    index, sample = waiting.pop(output.request_id)
                    done[index][sample] = self._completion(output)
                    if len(done[index]) == len(requests[index].seeds):
                        yield index, tuple(done[index][i] for i in range(len(done[index])))
                        done[index] = {}
        finally:
            engine.abort_request(list(waiting))
            self._stats["seconds"] += time.perf_counter() - started

    def load_weights(self, update: WeightUpdate, canary: Canary) -> SyncProof:
        """Replaces the weights and proves that the engine computes with them.

        Until the proof is complete, and after one that failed, `sample` refuses to work.

        Raises:
            ValueError: `update` is older than what was loaded before.
            WeightSyncError: a weight differs, the prefix cache could not be dropped, or the
                canary's log-probabilities are further apart, on average, than
                `sync_tolerance_nats`.
        """
        if update.version < self._newest:
            raise ValueError(
                f"refusing to replace policy v{self._newest} by the older v{update.version}."
            )
        started = time.perf_counter()
        self._newest, self._version = update.version, None
        self._on_worker("load", update.tensors)
        expected = dict(update.digests)
        if self._on_worker("has_tied_head") and _EMBEDDING in expected:
            expected.setdefault(_HEAD, expected[_EMBEDDING])
        prove(expected, self._on_worker("live_digests"))
        if not self._llm.reset_prefix_cache():
            raise WeightSyncError(
                "the engine refused to drop its prefix cache, which holds keys and values of the "
                "previous weights: requests are still running. Finish sampling before a sync."
            )
        gaps = self._canary_gaps(canary)
        mean_gap = sum(gaps) / len(gaps)
        if not mean_gap <= self._generator.sync_tolerance_nats:
            raise WeightSyncError(
                f"policy v{update.version}: all {len(expected)} weights arrived, but the canary's "
                f"log-probabilities differ by {mean_gap:.4g} nats a token from the learner's; "
                f"generator.sync_tolerance_nats = {self._generator.sync_tolerance_nats:g}. Learner "
                "and engine compute different functions of the same weights (another architecture "
                "setting or dtype?); raise the tolerance only if the dtype explains the gap."
            )
        self._version = update.version
        return SyncProof(
            version=update.version,
            tensors=len(expected),
            canary_mean_gap_nats=mean_gap,
            canary_max_gap_nats=max(gaps),
            seconds=time.perf_counter() - started,
        )

    def policy_version(self) -> int:
        """The version that `sample` would use; -1 while its weights are unproven."""
        return -1 if self._version is None else self._version

    def stats(self) -> dict[str, float]:
        """Totals since the start: tokens, seconds of sampling, prompt tokens, cached ones."""
        return dict(self._stats)

    def _check(
        self, requests: Sequence[SampleRequest], sampling: Sampling, min_version: int
    ) -> None:
        if self._version is None or self._version < min_version:
            held = "weights whose proof failed" if self._version is None else f"v{self._version}"
            raise StaleGeneratorError(
                f"the generator holds {held}, the caller needs policy v{min_version}. Call "
                "load_weights() with that version first; a restarted replica starts at v0."
            )
        for request in requests:
            self._check_room(request, sampling)

    def _check_room(self, request: SampleRequest, sampling: Sampling) -> None:
        length, limit = len(request.prompt_ids), self._generator.max_model_len
        if not length:
            raise ValueError(f"problem {request.problem.id!r} has an empty prompt.")
        if length + sampling.max_tokens > limit:
            raise ValueError(
                f"problem {request.problem.id!r}: its prompt of {length} tokens and max_tokens = "
                f"{sampling.max_tokens} exceed generator.max_model_len = {limit}. Raise "
                "max_model_len, lower max_tokens or drop the problem."
            )
        if any(seed < 0 for seed in request.seeds):
            # vLLM reads -1 as "no seed".
            raise ValueError(f"problem {request.problem.id!r}: seeds must be 0 or more.")

    def _params(self, sampling: Sampling, seed: int) -> VllmObject:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        return SamplingParams(
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=seed,
            stop_token_ids=self._stop_ids,
            stop=list(sampling.stop),
            logprobs=0,  # the sampled token's alone
            flat_logprobs=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            detokenize=bool(sampling.stop),  # vLLM looks for stop texts in its own text
        )

    def _completion(self, output: VllmObject) -> Completion:
        (answer,) = output.outputs
        token_ids = tuple(answer.token_ids)
        logprobs = tuple(float(value) for value in answer.logprobs.logprobs)
        if answer.finish_reason not in ("stop", "length"):
            raise RuntimeError(
                f"the engine ended a completion with {answer.finish_reason!r}; expected 'stop' or "
                "'length'. The request was aborted inside vLLM."
            )
        if tuple(answer.logprobs.token_ids) != token_ids or not all(map(math.isfinite, logprobs)):
            raise RuntimeError(
                "the engine returned log-probabilities that are not one finite number for each "
                f"sampled token: {len(token_ids)} tokens, {len(logprobs)} values."
            )
        self._stats["tokens"] += len(token_ids)
        self._stats["prompt_tokens"] += len(output.prompt_token_ids)
        self._stats["cached_tokens"] += output.num_cached_tokens or 0
        ends = token_ends(token_ids, self._decode)
        assert self._version is not None
        return Completion(
            token_ids=token_ids,
            logprobs=logprobs,
            text=self._decode(list(token_ids)),
            token_ends=ends,
            stop_reason=answer.finish_reason,
            policy_version=self._version,
        )

    def _decode(self, token_ids: list[int]) -> str:
        if len(token_ids) == 1 and token_ids[0] in self._pieces:
            return self._pieces[token_ids[0]]
        text: str = self._tokenizer.decode(
            token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        if len(token_ids) == 1:
            self._pieces[token_ids[0]] = text
        return text

    def _canary_gaps(self, canary: Canary) -> list[float]:
        """|engine - learner| of each of the canary's log-probabilities, in nats."""
        from vllm import SamplingParams

        # prompt_logprobs are of the raw logits and never read the prefix cache.
        params = SamplingParams(
            max_tokens=1, temperature=0.0, prompt_logprobs=0, flat_logprobs=True, detokenize=False
        )
        prompt = {"prompt_token_ids": list(canary.token_ids)}
        (output,) = self._llm.generate([prompt], params, use_tqdm=False)
        scores = output.prompt_logprobs
        live = [scores[i][t].logprob for i, t in enumerate(canary.token_ids) if i > 0]
        return [abs(a - b) for a, b in zip(live, canary.logprobs, strict=True)]

    def _on_worker(self, method: str, *args: object) -> VllmObject:
        (answer,) = self._llm.collective_rpc(method, args=args)
        return answer


def _stop_ids(model_path: str, tokenizer: VllmObject, revision: str | None) -> list[int]:
    """End-of-sequence tokens of the tokenizer and of the checkpoint's generation_config.json."""
    from vllm.transformers_utils.config import try_get_generation_config

    found = {tokenizer.eos_token_id}
    generation = try_get_generation_config(model_path, trust_remote_code=False, revision=revision)
    if generation is not None:
        eos: int | list[int] | None = generation.eos_token_id
        found.update(eos if isinstance(eos, list) else [eos])
    found.discard(None)
    if not found:
        raise ValueError(
            f"{model_path} names no end-of-sequence token, so no completion could end. Set "
            "eos_token in its tokenizer_config.json."
        )
    return sorted(found)

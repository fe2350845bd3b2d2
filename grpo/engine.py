"""One vLLM engine that holds one proven policy version.

`Generator` is a plain class around the engine; `grpo.generator` makes Ray actors of it. It owns
its process: vLLM turns `torch.set_num_threads` into a no-op and starts torch.distributed, so a
learner must never share it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import torch

from cotree.grpo import config
from cotree.grpo.engine_options import engine_environment, engine_options, has_latent_attention
from cotree.grpo.engine_routes import RouteRecorder, route_recorder
from cotree.grpo.engine_sampling import (
    ENTROPY_TOKENS,
    Sampling,
    VllmObject,
    drawn,
    sampling_params,
    stop_ids,
)
from cotree.grpo.engine_speculation import (
    check_preemptions,
    mend_cpu_sampler,
    speculation_stats,
    speculative_options,
)
from cotree.grpo.engine_trees import Drawn, Piece, RequestSamples
from cotree.grpo.types import Completion, SampleRequest
from cotree.grpo.weights import Canary, SyncProof, WeightSyncError, WeightUpdate, prove
from cotree.search.segments import token_ends

_EMBEDDING = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"

__all__ = ["Generator", "Sampling", "StaleGeneratorError"]


class StaleGeneratorError(RuntimeError):
    """The generator holds older weights than the caller is willing to sample from."""


class Generator:
    """One engine. Starts at policy version 0, the weights at `model_path`."""

    def __init__(
        self,
        model_path: str,
        *,
        generator: config.Generator,
        seed: int,
        revision: str | None = None,
        record_routes: bool = False,
    ) -> None:
        """Starts the engine (15 s on a CPU, most of it imports).

        Args:
            model_path: local folder or hub name.
            generator: engine settings.
            seed: the engine's own; every sample has one of its own all the same.
            revision: hub commit or tag.
            record_routes: completions say which experts their tokens went to.

        Raises:
            ValueError: `record_routes` for a model without experts, or on a GPU.
        """
        cuda = torch.cuda.is_available()
        os.environ.update(engine_environment(threads=generator.threads, cuda=cuda))
        if not cuda:
            torch.set_num_threads(generator.threads)
            if generator.speculation is not None:
                mend_cpu_sampler()
        from vllm import LLM

        self._generator = generator
        self._llm: VllmObject = LLM(
            model_path,
            revision=revision,
            tokenizer_revision=revision,
            seed=seed,
            **engine_options(
                generator,
                cuda=cuda,
                latent_attention=has_latent_attention(model_path, revision=revision),
                record_routes=record_routes,
            ),
            **speculative_options(generator.speculation, revision=revision),
        )
        self._recorder: RouteRecorder | None = (
            self._on_worker(route_recorder) if record_routes else None
        )
        self._tokenizer: VllmObject = self._llm.get_tokenizer()
        self._pieces: dict[int, str] = {}
        self._stop_ids = stop_ids(model_path, self._tokenizer, revision)
        vocab_size: int = self._llm.llm_engine.model_config.get_vocab_size()
        self._num_entropy_tokens = min(ENTROPY_TOKENS, vocab_size)
        self._version: int | None = 0
        self._newest = 0
        self._stats = {"tokens": 0.0, "seconds": 0.0, "prompt_tokens": 0.0, "cached_tokens": 0.0}

    def sample(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, min_version: int
    ) -> list[tuple[Completion, ...]]:
        """Samples one completion per seed of each request, in the order given.

        A completion depends on the weights, its prompt, `sampling` and its seed alone, that of a
        tree also on its plan and the seed of its chain: with one OpenMP thread it is the same bit
        for bit whatever else is in the batch or the cache.

        Raises:
            StaleGeneratorError: the weights are older than `min_version`, or unproven.
            ValueError: a prompt is empty or leaves no room for `max_tokens`; a seed is negative;
                a tree has another number of seeds than leaves, or cannot be sampled like this.
        """
        if self._recorder is not None or any(request.tree for request in requests):
            found = dict(self.stream(requests, sampling, min_version=min_version))
            return [found[index] for index in range(len(requests))]
        self._check(requests, sampling, min_version)
        preemptions = self._preemptions()
        started = time.perf_counter()
        prompts = [{"prompt_token_ids": list(r.prompt_ids)} for r in requests for _ in r.seeds]
        params = [self._params(sampling, seed) for r in requests for seed in r.seeds]
        outputs = self._llm.generate(prompts, params, use_tqdm=False) if prompts else []
        completions = iter([self._completion(self._drawn(output)) for output in outputs])
        groups = [tuple(islice(completions, len(request.seeds))) for request in requests]
        assert sum(map(len, groups)) == len(outputs), "the engine answered another number"
        self._stats["seconds"] += time.perf_counter() - started
        if preemptions is not None:
            check_preemptions(self._llm, before=preemptions)
        return groups

    def stream(
        self, requests: Sequence[SampleRequest], sampling: Sampling, *, min_version: int
    ) -> Iterator[tuple[int, tuple[Completion, ...]]]:
        """As `sample`, but yields (index of a request, its completions) as requests finish.

        All requests are in the engine at once, so a long completion keeps no other one waiting;
        a fork joins them as soon as its chain is there. Leaving the iterator early takes those
        that are under way out of the engine.

        Raises:
            StaleGeneratorError, ValueError: as `sample`, before anything is sampled.
        """
        self._check(requests, sampling, min_version)
        preemptions = self._preemptions()
        started, engine = time.perf_counter(), self._llm.llm_engine
        waiting: dict[str, tuple[int, Piece, str]] = {}  # by name: request, piece, vLLM's own name
        samples = {
            index: RequestSamples(
                request, max_tokens=sampling.max_tokens, complete=self._completion
            )
            for index, request in enumerate(requests)
        }

        def add(index: int, pieces: Sequence[Piece]) -> None:
            for piece in pieces:
                name = f"{index}/{piece.leaf}"
                prompt = {"prompt_token_ids": list(piece.prompt_ids)}
                shorter = replace(sampling, max_tokens=piece.max_tokens)
                params = self._params(shorter, piece.seed, with_entropies=piece.with_entropies)
                waiting[name] = (index, piece, engine.add_request(name, prompt, params))
                if self._recorder is not None:
                    self._recorder.follow(waiting[name][2])

        try:
            for index in samples:
                add(index, samples[index].first())
            while waiting:
                for output in engine.step():
                    if not output.finished:
                        continue
                    index, piece, own_name = waiting.pop(output.request_id)
                    found = self._drawn(output, with_entropies=piece.with_entropies)
                    if self._recorder is not None:
                        tokens = len(piece.prompt_ids) + len(found.token_ids) - 1
                        routes = self._recorder.take(own_name, tokens=tokens)
                        found = replace(found, routes=routes)
                    add(index, samples[index].take(piece.leaf, found))
                    if samples[index].is_whole:
                        if preemptions is not None:
                            check_preemptions(self._llm, before=preemptions)
                        yield index, samples.pop(index).leaves
        finally:
            engine.abort_request(list(waiting))
            if self._recorder is not None:
                self._recorder.forget(own_name for _, _, own_name in waiting.values())
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
        if self._generator.speculation is None:
            return dict(self._stats)
        return self._stats | speculation_stats(self._llm)

    def _preemptions(self) -> float | None:
        if self._generator.speculation is None:
            return None
        return speculation_stats(self._llm)["preemptions"]

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
        spare = self._generator.spare_tokens
        if length + sampling.max_tokens + spare > limit:
            raise ValueError(
                f"problem {request.problem.id!r}: its prompt of {length} tokens and max_tokens = "
                f"{sampling.max_tokens}, and {spare} for drafts, exceed generator.max_model_len = "
                f"{limit}. Raise max_model_len, lower max_tokens or drop the problem."
            )
        if any(seed < 0 for seed in request.seeds):
            # vLLM reads -1 as "no seed".
            raise ValueError(f"problem {request.problem.id!r}: seeds must be 0 or more.")
        if request.tree is None:
            return
        if len(request.seeds) != request.tree.num_leaves:
            raise ValueError(
                f"problem {request.problem.id!r}: its tree has {request.tree.num_leaves} leaves, "
                f"but {len(request.seeds)} seeds are given. Give one for each leaf."
            )
        if sampling.temperature == 0 or sampling.stop:
            raise ValueError(
                "a tree needs temperature > 0 (greedy forks are all the same) and no stop texts "
                "(one that begins before a fork would not be seen); sample alone instead."
            )

    def _params(self, sampling: Sampling, seed: int, *, with_entropies: bool = False) -> VllmObject:
        return sampling_params(
            sampling,
            seed,
            stop_token_ids=self._stop_ids,
            num_entropy_tokens=self._num_entropy_tokens if with_entropies else 0,
        )

    def _drawn(self, output: VllmObject, *, with_entropies: bool = False) -> Drawn:
        found = drawn(output, with_entropies=with_entropies)
        self._stats["tokens"] += len(found.token_ids)
        self._stats["prompt_tokens"] += len(output.prompt_token_ids)
        self._stats["cached_tokens"] += output.num_cached_tokens or 0
        return found

    def _completion(self, drawn: Drawn) -> Completion:
        assert self._version is not None
        return Completion(
            token_ids=drawn.token_ids,
            logprobs=drawn.logprobs,
            text=self._decode(list(drawn.token_ids)),
            token_ends=token_ends(drawn.token_ids, self._decode),
            stop_reason=drawn.stop_reason,
            policy_version=self._version,
            routes=drawn.routes,
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

    def _on_worker(
        self, method: str | Callable[[VllmObject], VllmObject], *args: object
    ) -> VllmObject:
        (answer,) = self._llm.collective_rpc(method, args=args)
        return answer

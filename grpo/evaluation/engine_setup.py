"""A checkpoint and benchmarks, ready for our engines: what is wrong is found before they start."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager

import psutil
from transformers import AutoConfig, PretrainedConfig

from cotree.grpo import config
from cotree.grpo.cluster import cluster
from cotree.grpo.config_evaluation import Benchmarks, Engines
from cotree.grpo.evaluation.engine_sampler import (
    EngineSampler,
    PromptEncoder,
    engine_description,
    longest_prompt,
    room_for,
    sampling,
)
from cotree.grpo.evaluation.fingerprint import model_identity
from cotree.grpo.evaluation.job import Job, all_parts, make_jobs
from cotree.grpo.evaluation.measure import Prepared
from cotree.grpo.evaluation.records import Sampler
from cotree.grpo.footprint import cache_bytes_per_token
from cotree.grpo.generator import GeneratorGroup
from cotree.grpo.models import cannot_load
from cotree.grpo.provenance import usable_cores
from cotree.grpo.tokens import load_tokenizer

_MEMORY_SHARE = 0.4
"""Of the free memory, for the key-value caches of all replicas on a CPU; the rest is for weights,
and for whatever else runs there."""
_MOST_CACHE_BYTES = 16 << 30
"""Of one replica, unless asked for."""


def prepare_engines(model: str, *, settings: Benchmarks, engines: Engines) -> Prepared:
    """Reads the tokenizer, the benchmarks and the model's sizes; starts nothing.

    Args:
        model: folder or hub name.
        settings: what to measure.
        engines: on how many engines of which kind.

    Raises:
        ConfigError: a benchmark cannot be used with this model, or there is no room for it.
        FileNotFoundError: there is no such model.
    """
    revision = engines.revision
    encoder = PromptEncoder(load_tokenizer(model, revision=revision))
    jobs = make_jobs(settings, has_template=encoder.template is not None)
    generator = generator_settings(
        model,
        engines,
        prompt_tokens=longest_prompt(jobs, encoder),
        max_tokens=settings.max_tokens,
    )

    @contextmanager
    def open_sampler() -> Generator[Callable[[Job], Sampler]]:
        with running_engines(model, generator, revision=revision, seed=settings.seed) as group:
            yield lambda job: EngineSampler(
                group, encoder, sampling(job, settings), dtype=engines.dtype
            )

    return Prepared(
        model=model,
        identity=model_identity(model, revision),
        jobs=jobs,
        parts={
            job.name: all_parts(
                job, engine=engine_description(engines.dtype), template=encoder.template
            )
            for job in jobs
        },
        open_sampler=open_sampler,
    )


@contextmanager
def running_engines(
    model: str, generator: config.Generator, *, revision: str | None, seed: int
) -> Generator[GeneratorGroup]:
    """The engines, in a cluster of their own or in that of the Ray job.

    Args:
        model: folder or hub name.
        generator: their settings.
        revision: hub commit or tag.
        seed: the engines' own.
    """
    many = f"{generator.replicas} engines" if generator.replicas > 1 else "the engine"
    sys.stderr.write(f"starting {many} with {model}\n")
    none = config.Learner()
    with cluster(generator, none, generators=generator.replicas, learners=0) as placement:
        group = GeneratorGroup.start(
            model,
            generator=generator,
            seed=seed,
            num_gpus=placement.gpu_share,
            revision=revision,
        )
        try:
            yield group
        finally:
            group.stop()


def generator_settings(
    model: str,
    engines: Engines,
    *,
    prompt_tokens: int,
    max_tokens: int,
    tokens_beside: int = 0,
) -> config.Generator:
    """The engines' settings: long enough for every prompt, and with the memory that needs.

    Args:
        model: folder or hub name.
        engines: as asked for.
        prompt_tokens: of the longest prompt.
        max_tokens: of a completion.
        tokens_beside: that should stay in the cache of one replica besides its running requests.

    Raises:
        ConfigError: the model is too short for prompt and completion.
        FileNotFoundError: there is no such model.
    """
    model_config = _read_config(model, engines.revision)
    max_model_len = room_for(
        prompt_tokens,
        max_tokens=max_tokens,
        max_positions=getattr(model_config, "max_position_embeddings", None),
    )
    return config.Generator(
        replicas=engines.replicas,
        dtype=engines.dtype,
        max_model_len=max_model_len,
        max_num_seqs=engines.max_num_seqs,
        kv_cache_bytes=engines.kv_cache_bytes
        or _cache_bytes(
            model_config, engines, max_model_len=max_model_len, tokens_beside=tokens_beside
        ),
        # One core is left free: OpenMP threads wait for each other by spinning, and one of them
        # that shares its core with another process makes all of them several times slower.
        threads=engines.threads or max(1, (usable_cores() - 1) // engines.replicas),
    )


def _read_config(model: str, revision: str | None) -> PretrainedConfig:
    try:
        found = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise cannot_load(model, error) from error
    return found.get_text_config()


def _cache_bytes(
    model_config: PretrainedConfig, engines: Engines, *, max_model_len: int, tokens_beside: int
) -> int:
    """Enough for all sequences at full length, within a share of the free memory."""
    per_token = cache_bytes_per_token(model_config.to_dict(), dtype=engines.dtype)
    free = int(psutil.virtual_memory().available * _MEMORY_SHARE) // engines.replicas
    one = (max_model_len + 32) * per_token  # vLLM refuses a cache that cannot hold one sequence
    wanted = one * engines.max_num_seqs + tokens_beside * per_token
    return max(one, min(wanted, free, _MOST_CACHE_BYTES))

"""How a vLLM engine is started: variables of its process and arguments, by device and model.

Loads no vLLM: the driver sets the variables before the engine's process imports it.
"""

from __future__ import annotations

import os
from typing import Any

from cotree.grpo import config

__all__ = ["engine_environment", "engine_options", "has_latent_attention"]


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


def engine_options(
    generator: config.Generator,
    *,
    cuda: bool,
    latent_attention: bool,
    record_routes: bool = False,
) -> dict[str, Any]:
    """Keyword arguments of `vllm.LLM`, besides the model.

    Args:
        generator: engine settings.
        cuda: the engine runs on a GPU.
        latent_attention: of the model, as `has_latent_attention` says.
        record_routes: the experts of every token are wanted, so none may come from the prefix
            cache, which holds keys and values but not the choices behind them: the completions of
            a group compute its prompt once each, and a fork its whole stem.

    Raises:
        ValueError: `record_routes` on a GPU, where vLLM does not ask the routers of most kernels.
    """
    if record_routes and cuda:
        raise ValueError(
            "train.rollout.replay_routes records experts of an engine on a CPU alone; set it to "
            "false on a GPU."
        )
    options: dict[str, Any] = {
        "dtype": generator.dtype,
        "max_model_len": generator.max_model_len,
        "max_num_seqs": generator.max_num_seqs,
        "kv_cache_memory_bytes": generator.kv_cache_bytes,
        "enable_prefix_caching": not record_routes,
        "trust_remote_code": False,
        # A checkpoint's generation_config.json would change temperature, top-p and top-k silently.
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",
        # As many as the vocabulary holds, for a teacher's scores; vLLM refuses more than 20 else.
        "max_logprobs": -1,
        "use_tqdm_on_load": False,
        "worker_extension_cls": "cotree.grpo.engine_worker.EngineWorker",
    }
    if cuda:
        # Only checked against free memory at start-up once kv_cache_memory_bytes is given; a
        # learner may hold most of the device.
        return options | {"gpu_memory_utilization": 0.05}
    return options | _on_a_cpu(generator, latent_attention=latent_attention)


def _on_a_cpu(generator: config.Generator, *, latent_attention: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "enforce_eager": True,
        # A chunked prompt with a per-request seed kills vLLM's CPU sampler ("CPU Generator does
        # not use offset"); without chunks a step must have room for a whole prompt.
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(generator.max_model_len, 8192),
        # vLLM's default of 128 would keep shorter prompts out of the prefix cache; 16 is refused.
        "block_size": 32,
    }
    if latent_attention:
        # vLLM 0.32's C++ rotary embedding misreads the three-dimensional query of latent attention
        # and is silently wrong from the second position on (by over 1 nat for a random model).
        # Blocks of 16 and no prefix cache, its CPU kernel's terms, vLLM sets by itself.
        options["compilation_config"] = {"custom_ops": ["none"]}
        # Chosen by name: a processor with AMX would get a kernel that packs kv_b_proj away, and a
        # weight that cannot be read back cannot be proven.
        options["attention_backend"] = "CPU_MLA"
    return options


def has_latent_attention(model_path: str, *, revision: str | None) -> bool:
    """Whether a checkpoint's attention keeps one compressed latent, as DeepSeek-V2 and later do.

    Args:
        model_path: local folder or hub name.
        revision: hub commit or tag.

    Source: DeepSeek-AI 2024, arXiv:2405.04434, sec. 2.1 (multi-head latent attention).
    """
    from transformers import PretrainedConfig  # noqa: PLC0415 - inside the engine's process only

    found, _ = PretrainedConfig.get_config_dict(model_path, revision=revision)
    return (found.get("text_config") or found).get("kv_lora_rank") is not None

"""How large a model is and how much memory a run of it takes, estimated without loading it."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from cotree.grpo.config import Pipeline
from cotree.grpo.config_algorithm import Dtype
from cotree.grpo.config_model import NewDeepseekModel, NewModel, NewNetwork

_LEARNER_PROCESS_BYTES = 800 << 20
"""Measured: a learner actor with transformers and torch loaded and a model of a few megabytes."""
_ENGINE_PROCESS_BYTES = 1 << 30
"""Measured: an actor with a vLLM engine in it, without weights or cache."""
_RAY_BYTES = (460 << 20) + (512 << 20)
"""Measured: Ray's own processes; and the object store's limit."""
_ALPHABET = 32
"""Embedding rows of a new model; its character vocabulary is padded to 32."""
_LATENT_CACHES = ("deepseek_v2", "deepseek_v3", "kimi_k2", "glm4_moe_lite", "axk1")
"""Kinds of model for which vLLM caches latents, and nothing else: of the list in
`ModelArchConfigConvertorBase.is_deepseek_mla`, those with one kind of cache."""


@dataclass(frozen=True, slots=True)
class ModelSize:
    """Number of parameters, or None where nothing local tells it."""

    parameters: int | None
    fault: str = ""
    """Why a file that is there does not tell it; empty when all is well."""

    def __str__(self) -> str:
        if self.parameters is None:
            return "size unknown before it is downloaded"
        for unit, scale in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
            if self.parameters >= scale:
                return f"{self.parameters / scale:.3g} {unit} parameters"
        return f"{self.parameters} parameters"


def model_size(pipeline: Pipeline) -> ModelSize:
    """From the configuration of a new model, or the tensor shapes in a local checkpoint."""
    if isinstance(pipeline.model, NewNetwork):
        return ModelSize(new_model_parameters(pipeline.model))
    files = sorted(Path(pipeline.model.path).glob("*.safetensors"))
    try:
        return ModelSize(sum(map(safetensors_parameters, files)) if files else None)
    except ValueError as error:
        return ModelSize(None, fault=str(error))


def new_model_parameters(model: NewModel | NewDeepseekModel) -> int:
    """Parameters of a model that is made on the spot, embeddings and head included."""
    if isinstance(model, NewDeepseekModel):
        return _deepseek_parameters(model, experts=model.experts)
    return _qwen3_parameters(model)


def new_model_active_parameters(model: NewDeepseekModel) -> int:
    """Those that one token is computed with: all but the routed experts it is not sent to."""
    return _deepseek_parameters(model, experts=model.experts_per_token)


def _qwen3_parameters(model: NewModel) -> int:
    """Parameters of a Qwen3 decoder with tied embeddings.

    Each layer: queries and the output projection (width x heads x head_dim each), keys and values
    (width x kv_heads x head_dim each), three MLP matrices, two norms of the width and one norm of
    head_dim each for queries and keys.
    """
    attention = 2 * model.width * model.head_dim * (model.heads + model.kv_heads)
    mlp = 3 * model.width * model.mlp_width
    norms = 2 * model.width + 2 * model.head_dim
    return model.layers * (attention + mlp + norms) + _ALPHABET * model.width + model.width


def _deepseek_parameters(model: NewDeepseekModel, *, experts: int) -> int:
    """Parameters of a DeepSeek-V3 decoder with its own head, `experts` routed ones in a layer.

    The attention of a layer: queries (straight, or down to query_rank, a norm, and up), latent
    keys and values with the shared key (width x (kv_rank + rope_dim)), a norm of kv_rank, keys
    and values of each head from it, the output projection; and two norms of the width. The
    balancing biases are no parameters.
    """
    query = model.heads * (model.nope_dim + model.rope_dim)
    if model.query_rank is None:
        queries = model.width * query
    else:
        queries = model.query_rank * (model.width + 1 + query)
    latent = model.width * (model.kv_rank + model.rope_dim) + model.kv_rank
    expanded = model.kv_rank * model.heads * (model.nope_dim + model.value_dim)
    output = model.heads * model.value_dim * model.width
    attention = queries + latent + expanded + output + 2 * model.width
    dense = 3 * model.width * model.mlp_width
    router = model.width * model.experts
    mixture = router + 3 * model.width * model.expert_width * (experts + model.shared_experts)
    blocks = model.dense_layers * dense + (model.layers - model.dense_layers) * mixture
    return model.layers * attention + blocks + (2 * _ALPHABET + 1) * model.width


def safetensors_parameters(path: Path) -> int:
    """Elements of all tensors in one safetensors file, from its header alone.

    Source: the safetensors format: 8 bytes of little-endian header length, then JSON.

    Raises:
        ValueError: the file is something else, such as a Git LFS pointer or half a download.
    """
    with path.open("rb") as file:
        prefix = file.read(8)
        (length,) = struct.unpack("<Q", prefix) if len(prefix) == 8 else (0,)
        # The largest header a reader accepts; text read as a length is far above it.
        header_bytes = file.read(length) if length <= 100_000_000 else b""
    try:
        header = json.loads(header_bytes)
        return sum(prod(entry["shape"]) for k, entry in header.items() if k != "__metadata__")
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ValueError(
            f"{path} is not a safetensors file (a Git LFS pointer or half a download?)"
        ) from None


def cache_bytes_per_token(model_config: Mapping[str, Any], *, dtype: Dtype) -> int:
    """Bytes of keys and values of one token in all layers.

        2 * layers * kv_heads * head_dim * bytes of an element

    or, with multi-head latent attention, of the latents that an engine stores instead:

        layers * (kv_lora_rank + qk_rope_head_dim) * bytes of an element

    Args:
        model_config: of a checkpoint's config.json, its text part.
        dtype: of the cache.
    """
    layers: int = model_config["num_hidden_layers"]
    element = 2 if dtype == "bfloat16" else 4
    if model_config.get("model_type") in _LATENT_CACHES and model_config.get("kv_lora_rank"):
        width = model_config["kv_lora_rank"] + model_config["qk_rope_head_dim"]
        return layers * width * element
    heads: int = model_config["num_attention_heads"]
    kv_heads = model_config.get("num_key_value_heads") or heads
    head_dim = model_config.get("head_dim") or model_config["hidden_size"] // heads
    return 2 * layers * kv_heads * head_dim * element


def run_bytes(pipeline: Pipeline, size: ModelSize) -> int | None:
    """Memory of a train stage on a CPU, in bytes; activations are not counted.

        learner = 16 B a parameter: float32 weights, gradients and two AdamW moments
                  (full on each process under ddp, divided under fsdp2);
                  + 4 B for the frozen reference where train.kl is set
        engine  = weights in its dtype + the key-value cache, for each replica

    With LoRA only the weights (4 B) are counted: gradients and moments are for small adapters.
    """
    if size.parameters is None:
        return None
    per_parameter = 4 if pipeline.learner.lora else 16
    if pipeline.train and pipeline.train.kl and not pipeline.learner.lora:
        per_parameter += 4
    copies = 1 if pipeline.learner.sharding == "fsdp2" else pipeline.learner.processes
    learners = size.parameters * per_parameter * copies
    learners += pipeline.learner.processes * _LEARNER_PROCESS_BYTES
    element = 2 if pipeline.generator.dtype == "bfloat16" else 4
    engine = _ENGINE_PROCESS_BYTES + pipeline.generator.kv_cache_bytes + element * size.parameters
    return learners + pipeline.generator.replicas * engine + _RAY_BYTES

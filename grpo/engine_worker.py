"""What runs inside a vLLM worker: taking new weights, and reading back the live ones.

vLLM mixes `EngineWorker` into its worker class (`worker_extension_cls`), so `self` is the worker
and its attributes are vLLM's. Tensor parallelism is always 1 in this project.

On a CPU, vLLM packs the weight of a linear layer into a handle and throws the parameter away.
Reading a parameter would then prove nothing. `live_digests` asks the layer itself: applied to the
rows of an identity matrix it returns its weight, exactly, because 1 * w + 0 + ... + 0 has no
rounding in any dtype.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from cotree.grpo.engine_experts import is_experts, live_experts, repack_experts
from cotree.grpo.engine_latent import is_latent_attention, live_copies
from cotree.grpo.engine_speculation import drafter_digests, load_drafter, mtp_drafter
from cotree.grpo.weights import carried_dtype, digest

Layer: TypeAlias = Any
"""A vLLM module; their attributes are untyped."""

_ROWS = 1024
"""Rows of the identity matrix at a time, which bounds the memory of a read-back."""

HEAD = "lm_head.weight"
"""Name of the output layer's weight, read back also when it is tied and checkpoints omit it."""


class UnsupportedLayerError(NotImplementedError):
    """The engine holds a layer whose live weight cannot be read back, so no sync can be proven."""


class EngineWorker:
    """Methods that `collective_rpc` calls by name on the vLLM worker."""

    model_runner: Any
    reload_weights: Any

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Replaces the live weights by `tensors` (Hugging Face names), in place."""
        self.reload_weights(weights_iterator=iter(tensors.items()))
        if mtp_drafter(self.model_runner) is not None:
            load_drafter(self.model_runner, tensors)
        self.repack()

    def repack(self) -> None:
        """Packs again what vLLM 0.32's reload leaves stale on a CPU.

        A tied `lm_head` shares its parameter with the embedding but has its own packed copy, which
        the reload does not refresh: log-probabilities are then wrong by nats without an error.
        Experts are packed at the first load only, so a reload leaves them unpacked under a kernel
        that expects the packed layout.
        """
        model: nn.Module = self.model_runner.model
        drafter = mtp_drafter(self.model_runner)
        models = [model] if drafter is None else [model, drafter]
        for module in (module for model in models for module in model.modules()):
            if is_experts(module):
                repack_experts(module)
        head = _tied_head(model)
        if head is not None and hasattr(head, "cpu_linear"):
            dispatch_cpu_unquantized_gemm(head, remove_weight=False)

    @torch.inference_mode()
    def live_digests(self) -> dict[str, str]:
        """`weights.digest` of every weight that the live engine computes with, by checkpoint name.

        A tied output layer is listed as well, as `lm_head.weight`: its packed copy can go stale.
        A further copy of a weight is listed only where it differs from the first, as
        `NAME as PLACE`, a name that no checkpoint has.

        Raises:
            UnsupportedLayerError: a layer's weight cannot be read back.
        """
        model: nn.Module = self.model_runner.model
        dtype: torch.dtype = self.model_runner.model_config.dtype
        # A drafter has no mapping of its own; its layers are fused as the policy's are.
        packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
        digests = _digests(model, dtype, packed)
        drafter = mtp_drafter(self.model_runner)
        if drafter is not None:
            digests |= drafter_digests(_digests(drafter, dtype, packed))
        return digests

    def has_tied_head(self) -> bool:
        """Whether the output layer shares the embedding's weight."""
        return _tied_head(self.model_runner.model) is not None


def _digests(model: nn.Module, dtype: torch.dtype, packed: dict[str, list[str]]) -> dict[str, str]:
    digests: dict[str, str] = {}
    for name, tensor in _live_weights(model, dtype, packed):
        if name in digests:
            raise UnsupportedLayerError(f"two live layers answer to the name {name!r}.")
        digests[name] = digest(tensor.to(carried_dtype(name, dtype)))
    for name, place, tensor in live_copies(model, tuple(digests)):
        found = digest(tensor.to(carried_dtype(name, dtype)))
        if found != digests.get(name):
            digests[f"{name} as {place}"] = found
    return digests


def _tied_head(model: Layer) -> Layer | None:
    head = getattr(model, "lm_head", None)
    if head is None or not isinstance(head, VocabParallelEmbedding):
        return None
    embeddings = [m for m in model.modules() if type(m) is VocabParallelEmbedding]
    return head if any(head.weight is embedding.weight for embedding in embeddings) else None


def _live_weights(
    model: Layer, dtype: torch.dtype, packed: dict[str, list[str]]
) -> Iterator[tuple[str, Tensor]]:
    for prefix, module in model.named_modules():
        if isinstance(module, LinearBase):
            yield from _live_linear(prefix, module, packed, dtype)
        elif is_experts(module):
            yield from live_experts(prefix, module)
        elif isinstance(module, VocabParallelEmbedding):
            _refuse_quantized(prefix, module, UnquantizedEmbeddingMethod)
            if not isinstance(module, ParallelLMHead):
                # Tokens are looked up in the parameter. vLLM pads the vocabulary; checkpoints
                # do not have those rows.
                embedding: Layer = module
                yield f"{prefix}.weight", embedding.weight[: embedding.org_vocab_size]
        elif not is_latent_attention(module):
            # Norms: the parameter is what the kernel reads.
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{prefix}.{name}", parameter
    # The output layer multiplies by its own packed copy, also when it is tied.
    head: Layer = model.lm_head
    yield HEAD, _applied_weight(head, dtype)[: head.org_vocab_size]
    if getattr(head, "bias", None) is not None:
        yield "lm_head.bias", head.bias[: head.org_vocab_size]


def _refuse_quantized(prefix: str, layer: Layer, expected: type) -> None:
    if type(layer.quant_method) is not expected:
        raise UnsupportedLayerError(
            f"{prefix} is quantized ({type(layer.quant_method).__name__}); its weight cannot be "
            "proven after a sync. Use an unquantized checkpoint."
        )


def _live_linear(
    prefix: str, layer: Layer, packed: dict[str, list[str]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    _refuse_quantized(prefix, layer, UnquantizedLinearMethod)
    parent, _, own = prefix.rpartition(".")
    names = packed.get(own, [own])
    sizes: list[int] = list(layer.output_partition_sizes)
    if len(sizes) != len(names):
        raise UnsupportedLayerError(
            f"{prefix} holds {len(sizes)} fused weights but the model names {names}."
        )
    weights = _applied_weight(layer, dtype).split(sizes)
    biases = [None] * len(sizes) if layer.bias is None else layer.bias.split(sizes)
    for name, weight, bias in zip(names, weights, biases, strict=True):
        path = f"{parent}.{name}" if parent else name
        yield f"{path}.weight", weight
        if bias is not None:
            yield f"{path}.bias", bias
    # A router has the bias on its choice as well.
    for name, parameter in layer.named_parameters(recurse=False):
        if name not in ("weight", "bias"):
            yield f"{prefix}.{name}", parameter


def _applied_weight(layer: Layer, dtype: torch.dtype) -> Tensor:
    """[out, in] the matrix that `layer` multiplies by."""
    if not hasattr(layer, "cpu_linear"):
        return layer.weight
    num_in = layer.input_size if isinstance(layer, LinearBase) else layer.embedding_dim
    rows: list[Tensor] = []
    for start in range(0, num_in, _ROWS):
        stop = min(start + _ROWS, num_in)
        identity = torch.zeros(stop - start, num_in, dtype=dtype)
        identity[:, start:stop].fill_diagonal_(1.0)
        rows.append(layer.quant_method.apply(layer, identity, None))
    return torch.cat(rows).t()

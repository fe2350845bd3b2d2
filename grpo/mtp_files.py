"""A multi-token prediction module on the disk: `model.layers.{L}.*`, behind the model's own layers.

transformers drops these tensors when it loads a model and has none to save. Here they are loaded
with it, or carried from checkpoint to checkpoint as they are.

A checkpoint also holds copies of the embedding and the head under the module's name. They are
written, as engines look for them, and never read: the module's are the policy's own, in training
and in vLLM alike.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from cotree.grpo.models import cannot_load
from cotree.grpo.mtp import COPIES, EMBEDDING, turn_last_layer_into_mtp
from cotree.grpo.stored_tensors import StoredTensors, tensors_of

_LOG = logging.getLogger(__name__)

_OWN = ("enorm.weight", "hnorm.weight", "eh_proj.weight", "shared_head.norm.weight")
"""What the module has besides a decoder layer."""


def load_model_with_mtp(
    path: str, *, dtype: torch.dtype | str, revision: str | None = None
) -> PreTrainedModel:
    """As `grpo.models.load_model`, with the checkpoint's multi-token prediction module.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: it has no module, more than one, or one of an unknown architecture.
    """
    try:
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        stored = tensors_of(path, revision=revision)
    except OSError as error:
        raise cannot_load(path, error) from error
    prefix = f"model.layers.{config.num_hidden_layers}."
    depth = getattr(config, "num_mtp_layers", 0)
    missing = [prefix + name for name in _OWN if prefix + name not in stored]
    if depth != 1 or missing:
        raise ValueError(
            f"{path!r} has num_nextn_predict_layers = {depth} and lacks {missing or 'nothing'}: "
            "learner.mtp needs a checkpoint with one multi-token prediction module (a new model "
            "gets one from mtp_layers = 1). Drop learner.mtp or use another checkpoint."
        )
    # transformers loads one decoder layer more, with its own conversions of names and experts.
    config.num_hidden_layers += 1
    with _without_load_report():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            path,
            config=config,
            dtype=dtype,
            revision=revision,
            trust_remote_code=False,
            output_loading_info=True,
        )
    network, report = loaded
    if report["missing_keys"]:
        raise ValueError(f"{path!r} has no weights for {sorted(report['missing_keys'])}.")
    module = turn_last_layer_into_mtp(cast(PreTrainedModel, network))
    with torch.no_grad():
        for name in _OWN:
            module.get_parameter(name).copy_(stored.tensor(prefix + name))
    _warn_of_other_copies(stored, prefix)
    return cast(PreTrainedModel, network)


def stored_mtp(path: str, *, revision: str | None = None) -> dict[str, Tensor]:
    """A checkpoint's multi-token prediction tensors, by name and as stored; empty without any.

    The copies of embedding and head are left out; `with_copies` makes them anew.

    Raises:
        ValueError: they are quantized, so that a checkpoint of plain weights cannot hold them.
    """
    config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
    layers = getattr(config, "num_hidden_layers", None)
    depth = getattr(config, "num_mtp_layers", 0) or getattr(config, "num_nextn_predict_layers", 0)
    if layers is None or not depth:
        return {}
    prefixes = tuple(f"model.layers.{layers + k}." for k in range(depth))
    stored = tensors_of(path, revision=revision)
    names = [n for n in stored.names() if n.startswith(prefixes) and not n.endswith(tuple(COPIES))]
    tensors = {name: stored.tensor(name) for name in names}
    quantized = [name for name, tensor in tensors.items() if tensor.element_size() < 2]
    if quantized:
        raise ValueError(
            f"{path!r} holds {len(quantized)} quantized multi-token prediction tensors, the first "
            f"is {quantized[0]!r}, which cannot be saved beside trained weights as they are. "
            "Start from an unquantized checkpoint."
        )
    return tensors


def _warn_of_other_copies(stored: StoredTensors, prefix: str) -> None:
    for name, source in COPIES.items():
        copy, original = prefix + name, source if source in stored else EMBEDDING
        if copy not in stored:
            continue
        if not torch.equal(stored.tensor(copy), stored.tensor(original)):
            _LOG.warning(
                "%s differs from %s; the module uses the latter, as vLLM does.", copy, original
            )


@contextmanager
def _without_load_report() -> Generator[None]:
    """Keeps transformers from listing the module's tensors as unexpected ones."""
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)

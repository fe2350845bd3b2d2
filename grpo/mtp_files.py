"""A multi-token prediction module on the disk: `model.layers.{L}.*`, behind the model's own layers.

transformers drops these tensors when it loads a model and has none to save. Here they are loaded
with it, or carried from checkpoint to checkpoint as they are.

A checkpoint also holds copies of the embedding and the head under the module's name. They are
written, as engines look for them, and never read: the module's are the policy's own, in training
and in vLLM alike.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from cotree.grpo.models import cannot_load
from cotree.grpo.mtp import COPIES, EMBEDDING, turn_last_layer_into_mtp

_LOG = logging.getLogger(__name__)

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
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
        stored = _Checkpoint(path, revision)
    except OSError as error:
        raise cannot_load(path, error) from error
    prefix = f"model.layers.{config.num_hidden_layers}."
    depth = getattr(config, "num_mtp_layers", 0)
    missing = [prefix + name for name in _OWN if prefix + name not in stored.files]
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
    for name, value in stored.read([prefix + name for name in _OWN]).items():
        with torch.no_grad():
            module.get_parameter(name.removeprefix(prefix)).copy_(value)
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
    stored = _Checkpoint(path, revision)
    names = [n for n in stored.files if n.startswith(prefixes) and not n.endswith(tuple(COPIES))]
    tensors = stored.read(names)
    quantized = [name for name, tensor in tensors.items() if tensor.element_size() < 2]
    if quantized:
        raise ValueError(
            f"{path!r} holds {len(quantized)} quantized multi-token prediction tensors, the first "
            f"is {quantized[0]!r}, which cannot be saved beside trained weights as they are. "
            "Start from an unquantized checkpoint."
        )
    return tensors


class _Checkpoint:
    """The safetensors of a local folder or of the hub's cache, by tensor."""

    def __init__(self, path: str, revision: str | None) -> None:
        """Reads the index; raises OSError where there is no such checkpoint."""

        def local(name: str, *, required: bool) -> Path | None:
            found = cached_file(
                path, name, revision=revision, _raise_exceptions_for_missing_entries=required
            )
            return None if found is None else Path(found)

        index = local(_INDEX, required=False)
        if index is None:
            single = cast(Path, local(_SINGLE, required=True))
            with safe_open(single, framework="pt") as file:
                self.files = dict.fromkeys(file.keys(), single)
            return
        names: dict[str, str] = json.loads(index.read_text())["weight_map"]
        shards = {shard: cast(Path, local(shard, required=True)) for shard in set(names.values())}
        self.files = {name: shards[shard] for name, shard in names.items()}
        """Where each tensor is."""

    def read(self, names: list[str]) -> dict[str, Tensor]:
        """Tensors on the CPU, as stored, in the order of `names`."""
        found: dict[str, Tensor] = {}
        for path in sorted({self.files[name] for name in names}):
            with safe_open(path, framework="pt") as file:
                found |= {name: file.get_tensor(name) for name in names if self.files[name] == path}
        return {name: found[name] for name in names}


def _warn_of_other_copies(stored: _Checkpoint, prefix: str) -> None:
    for name, source in COPIES.items():
        copy, original = prefix + name, source if source in stored.files else EMBEDDING
        if copy not in stored.files:
            continue
        tensors = stored.read([copy, original])
        if not torch.equal(tensors[copy], tensors[original]):
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

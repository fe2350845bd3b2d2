"""A trained model's weights under the names a checkpoint gives them, adapters merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

ADAPTER = "default"
"""PEFT's name of the one adapter we train."""


def checkpoint_weights(network: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `save_pretrained` would write: Hugging Face names, tied tensors once.

    Args:
        network: the transformers model (inside a PEFT model, the base model).
        state: its full `state_dict`, whole tensors.

    Returns:
        Tensors by checkpoint name. LoRA adapters are merged: W + scaling * B @ A, in float32.
    """
    merged = _merge_adapters(network, state)
    tied = set(network.all_tied_weights_keys) if _is_tied(network) else set[str]()
    kept = {name: tensor for name, tensor in merged.items() if name not in tied}
    return cast(dict[str, Tensor], revert_weight_conversion(network, kept))


def _is_tied(network: PreTrainedModel) -> bool:
    head, embeddings = network.get_output_embeddings(), network.get_input_embeddings()
    return head is not None and head.weight is embeddings.weight


def _merge_adapters(network: PreTrainedModel, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    merged = dict(state)
    for name, module in network.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        base = module.get_base_layer()
        if not isinstance(base, torch.nn.Linear):
            raise TypeError(
                f"LoRA on {name}, a {type(base).__name__}, cannot be merged; set "
                "learner.lora.targets to names of linear layers."
            )
        down = merged.pop(f"{name}.lora_A.{ADAPTER}.weight")
        up = merged.pop(f"{name}.lora_B.{ADAPTER}.weight")
        weight = merged.pop(f"{name}.base_layer.weight")
        merged[f"{name}.weight"] = weight + module.scaling[ADAPTER] * (up @ down)
        if f"{name}.base_layer.bias" in merged:
            merged[f"{name}.bias"] = merged.pop(f"{name}.base_layer.bias")
    return merged

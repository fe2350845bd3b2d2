"""What a learner leaves on the disk, and takes up again: weights, adapters, optimizer, counters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import save_torch_state_dict
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotree.grpo.models import copy_tokenizer, load_model
from cotree.grpo.mtp import is_mtp_weight, with_copies
from cotree.grpo.mtp_files import load_model_with_mtp, stored_mtp
from cotree.grpo.sharding import assign, like, whole
from cotree.grpo.trainable import LearnerSpec
from cotree.grpo.weight_names import ADAPTER, checkpoint_weights

_TRAINING_STATE = "training_state.pt"
_ADAPTER_FILE = "adapter_model.safetensors"


class LearnerFiles:
    """Saves and restores a learner's tensors. Collective: every process calls each method alike."""

    def __init__(
        self,
        spec: LearnerSpec,
        model: PreTrainedModel | PeftModel,
        parameters: Mapping[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        *,
        rank: int,
    ) -> None:
        self._spec, self._model, self._rank = spec, model, rank
        self._parameters, self._optimizer = parameters, optimizer

    def save(self, folder: Path, counters: Mapping[str, Any]) -> None:
        """Writes everything `load` needs, and `folder/model`, a checkpoint that engines load.

        `model` holds full float32 weights, adapters merged, and the tokenizer; `adapter` (LoRA)
        the adapters and the name of the base model; `training_state.pt` the optimizer's state.

        Args:
            folder: of the checkpoint.
            counters: numbers that `load` returns.
        """
        self.save_model(folder / "model")
        optimizer = {
            name: {
                key: whole(value).cpu()
                for key, value in self._optimizer.state.get(parameter, {}).items()
            }
            for name, parameter in self._parameters.items()
        }
        full = self._whole_state() if isinstance(self._model, PeftModel) else None
        if self._rank != 0:
            return
        if isinstance(self._model, PeftModel):
            adapter = get_peft_model_state_dict(
                self._model, state_dict=full, save_embedding_layers=False
            )
            (folder / "adapter").mkdir(parents=True, exist_ok=True)
            save_file(adapter, folder / "adapter" / _ADAPTER_FILE)
            self._model.peft_config[ADAPTER].save_pretrained(str(folder / "adapter"))
        torch.save({"optimizer": optimizer, **counters}, folder / _TRAINING_STATE)

    def save_model(self, folder: Path) -> None:
        """Writes the policy alone as a Hugging Face checkpoint: float32, adapters merged."""
        named = self.checkpoint_weights()
        if self._rank != 0:
            return
        folder.mkdir(parents=True, exist_ok=True)
        network = self._network()
        layers = self._num_layers()
        if self._spec.learner.mtp is None:
            named |= stored_mtp(self._spec.model_path, revision=self._spec.revision)
        has_mtp = any(is_mtp_weight(name, layers=layers) for name in named)
        if not has_mtp and getattr(network.config, "num_mtp_layers", 0):
            network.config.num_mtp_layers = 0  # or engines would look for a module
        named = with_copies(named, layers=layers)
        # Copies: each expert is a slice of its layer's stack, which safetensors refuses to write.
        save_torch_state_dict(
            {n: t.clone(memory_format=torch.contiguous_format) for n, t in named.items()}, folder
        )
        network.config.save_pretrained(folder)
        network.generation_config.save_pretrained(folder)
        copy_tokenizer(self._spec.model_path, folder, revision=self._spec.revision)

    def load(self, folder: Path) -> dict[str, Any]:
        """Restores what `save` wrote, bit for bit, and returns its counters.

        Raises:
            FileNotFoundError: the folder is not a learner's checkpoint.
            ValueError: it belongs to another model.
        """
        if not (folder / _TRAINING_STATE).is_file():
            raise FileNotFoundError(f"{folder} has no {_TRAINING_STATE}; it is not a checkpoint.")
        saved = torch.load(folder / _TRAINING_STATE, weights_only=True, map_location="cpu")
        states: dict[str, dict[str, Tensor]] = saved.pop("optimizer")
        if states.keys() != self._parameters.keys():
            odd = sorted(states.keys() ^ self._parameters.keys())
            raise ValueError(
                f"{folder} was saved by another model or LoRA setting: {len(odd)} parameters "
                f"differ, the first is {odd[0]!r}. Resume with the configuration that saved it."
            )
        values = self._saved_values(folder)
        state = self._model.state_dict()
        for name, target in state.items():
            if name in values and values[name].shape != target.shape:
                raise ValueError(
                    f"{folder} was saved by another model: {name!r} is "
                    f"{tuple(values[name].shape)} there and {tuple(target.shape)} here. Resume "
                    "with the configuration that saved it."
                )
        for name, target in state.items():
            if name in values:
                assign(target, values[name])
        for name, parameter in self._parameters.items():
            self._optimizer.state[parameter] = {
                key: like(parameter, value)
                if value.shape == parameter.shape
                else value.to(parameter.device)
                for key, value in states[name].items()
            }
            if not states[name]:
                del self._optimizer.state[parameter]
        return saved

    def checkpoint_weights(self) -> dict[str, Tensor]:
        """The policy's whole tensors on the CPU, by the names of a checkpoint."""
        network = self._network()
        state = {name: whole(value) for name, value in network.state_dict().items()}
        return {name: value.cpu() for name, value in checkpoint_weights(network, state).items()}

    def engine_weights(self) -> dict[str, Tensor]:
        """As `checkpoint_weights`, with a prediction module exactly where engines draft with it."""
        named = self.checkpoint_weights()
        module = {name for name in named if is_mtp_weight(name, layers=self._num_layers())}
        if not self._spec.drafts:
            return {name: value for name, value in named.items() if name not in module}
        if not module:
            named |= stored_mtp(self._spec.model_path, revision=self._spec.revision)
        return named

    def mtp_names(self) -> set[str]:
        """The parameters of the model's prediction module, by the model's own names."""
        layers = self._num_layers()
        return {name for name in self._parameters if is_mtp_weight(name, layers=layers)}

    def _num_layers(self) -> int:
        return self._network().config.get_text_config().num_hidden_layers

    def _saved_values(self, folder: Path) -> dict[str, Tensor]:
        """Trained weights of a checkpoint by the model's own names."""
        if isinstance(self._model, PeftModel):
            adapter = load_file(folder / "adapter" / _ADAPTER_FILE)
            return {
                f"{name.removesuffix('.weight')}.{ADAPTER}.weight": value
                for name, value in adapter.items()
            }
        load = load_model if self._spec.learner.mtp is None else load_model_with_mtp
        return dict(load(str(folder / "model"), dtype=torch.float32).state_dict())

    def _network(self) -> PreTrainedModel:
        model = self._model
        return cast(
            PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model
        )

    def _whole_state(self) -> dict[str, Tensor]:
        return {name: whole(value).cpu() for name, value in self._model.state_dict().items()}

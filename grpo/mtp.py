"""A multi-token prediction module beside a policy, which engines draft with.

From where the policy predicts token i + 1, the module predicts token i + 2:

    h'_i = block(eh_proj([enorm(emb(t_{i+1})) ; hnorm(h_i)]))
    logits of t_{i+2} = head(shared_head.norm(h'_i))

h_i is the policy's last hidden state, after its final norm; embedding and head are the policy's
own. The two halves are in the order of the checkpoints, the opposite of the paper's.

The module is one more decoder layer, behind those that the model runs: transformers stops at
`num_hidden_layers`. So its weights have a checkpoint's names, and DDP, FSDP2, the optimizer,
gradient checkpointing and the count of experts treat it as they treat the others.

Source: DeepSeek-AI 2024, arXiv:2412.19437, sec. 2.2 (depth D = 1).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from cotree.kernels.chunked_head import chunked_head

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_TYPES = ("deepseek_v3",)
"""Architectures whose modules are known to be laid out as above."""

EMBEDDING = "model.embed_tokens.weight"
COPIES = {"embed_tokens.weight": EMBEDDING, "shared_head.head.weight": "lm_head.weight"}
"""What a checkpoint holds once more under the module's name, and the policy's tensor it copies."""


class _Predicts(nn.Module):
    """Turns the decoder layer that it is mixed into, into a multi-token prediction module."""

    enorm: nn.Module
    hnorm: nn.Module
    eh_proj: nn.Linear
    shared_head: nn.ModuleDict

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - nn.Module's is untyped
        self, hidden: Tensor, embeddings: Tensor, **layer_inputs: object
    ) -> Tensor:
        """[R, L, D] states that the head turns to logits of the tokens two positions on.

        Args:
            hidden: [R, L, D] the policy's last hidden states.
            embeddings: [R, L, D] of the tokens one position on.
            layer_inputs: what the policy's own layers get besides the states.
        """
        joined = torch.cat([self.enorm(embeddings), self.hnorm(hidden)], dim=-1)
        states = super().forward(self.eh_proj(joined), **layer_inputs)
        return self.shared_head["norm"](states)


def turn_last_layer_into_mtp(network: PreTrainedModel) -> nn.Module:
    """Makes a model's last decoder layer its multi-token prediction module, and returns it.

    The model is one layer shorter afterwards. What the module has besides a layer starts as norms
    of ones and a projection of zeros; load it or call `init_projection`.

    Raises:
        ValueError: an architecture whose module is not known.
    """
    config = network.config
    if config.model_type not in _TYPES:
        raise ValueError(
            f"the multi-token prediction module of {config.model_type!r} is not known, only that "
            f"of {', '.join(_TYPES)}; drop learner.mtp."
        )
    layers = _layers(network)
    layer = layers[-1]
    norm_class: Any = type(layer.get_submodule("input_layernorm"))
    norms = [norm_class(config.hidden_size, eps=config.rms_norm_eps) for _ in range(3)]
    layer.enorm, layer.hnorm, layer.shared_head = *norms[:2], nn.ModuleDict({"norm": norms[2]})
    layer.eh_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
    nn.init.zeros_(layer.eh_proj.weight)
    layer.to(network.device, network.dtype)
    # The class alone changes: a copy would need the layer's weights twice.
    layer.__class__ = type(f"Mtp{type(layer).__name__}", (_Predicts, type(layer)), {})
    config.num_hidden_layers = len(layers) - 1
    config.num_mtp_layers = 1
    return layer


def init_projection(module: nn.Module, *, std: float, seed: int) -> None:
    """Draws the projection of a new module from a normal distribution."""
    weight = cast(nn.Linear, module.get_submodule("eh_proj")).weight
    nn.init.normal_(weight, std=std, generator=torch.Generator().manual_seed(seed % 2**63))


def mtp_module(network: PreTrainedModel) -> nn.Module | None:
    """A model's multi-token prediction module, where `turn_last_layer_into_mtp` made one."""
    layers = getattr(network.get_decoder(), "layers", None)
    if isinstance(layers, nn.ModuleList) and len(layers) and isinstance(layers[-1], _Predicts):
        return layers[-1]
    return None


def mtp_modules(model: nn.Module) -> set[nn.Module]:
    """The parts of a multi-token prediction module, wherever it is in `model`; else none."""
    found = [module for module in model.modules() if isinstance(module, _Predicts)]
    return {part for module in found for part in module.modules()}


def _layers(network: PreTrainedModel) -> nn.ModuleList:
    return cast(nn.ModuleList, cast(nn.Module, network.get_decoder()).get_submodule("layers"))


@contextmanager
def layer_inputs(network: PreTrainedModel) -> Generator[dict[str, Any]]:
    """Yields what the model's last own layer gets besides its states, once the model has run.

    Masks and rotary embeddings depend on the layout and on transformers' version; this way the
    module gets those that the policy itself was computed with.
    """
    found: dict[str, Any] = {}

    def keep(_layer: nn.Module, _states: object, inputs: dict[str, Any]) -> None:
        found.update(inputs)

    last = _layers(network)[int(network.config.num_hidden_layers) - 1]
    handle = last.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


def mtp_hidden(
    network: PreTrainedModel,
    hidden: Tensor,
    token_ids: Tensor,
    inputs: dict[str, Any],
    *,
    detached: bool,
) -> Tensor:
    """[R, L, D] states before the head, from one forward of the policy.

    At the last token of a row there is no next one to embed: what stands behind it is taken, be it
    padding or, where rows are packed, another row's token. Nothing that is read depends on that
    place, as attention looks back only and never across rows.

    Args:
        network: a model with a module.
        hidden: [R, L, D] its last hidden states, in the layout in which it ran.
        token_ids: [R, L] int64 in the same layout.
        inputs: what `layer_inputs` found in that run.
        detached: no gradient leaves the module, neither into `hidden` nor into the embedding.
    """
    module = mtp_module(network)
    assert module is not None, "the caller attached one"
    embeddings: Tensor = network.get_input_embeddings()(token_ids.roll(-1, 1))
    if detached:
        hidden, embeddings = hidden.detach(), embeddings.detach()
    # vLLM's drafter has no embedding at a text's first position; training must not have one either.
    is_first = inputs["position_ids"] == 0
    embeddings = embeddings.masked_fill(is_first.expand(token_ids.shape)[..., None], 0.0)
    return module(hidden, embeddings, **inputs)


@dataclass(frozen=True, slots=True)
class DraftingStates:
    """What predicts, two positions on, those N trained tokens of a batch that have two before."""

    hidden: Tensor
    """[N, D]."""
    rows: Tensor
    """[N] int64, of the tokens in the batch."""
    columns: Tensor
    """[N] int64, 2 or more."""

    def scores(
        self,
        head: nn.Linear,
        token_ids: Tensor,
        *,
        detached: bool,
        chunk_tokens: int,
        logit_scale: float,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each token at temperature 1, and whether it is the likeliest one.

        Args:
            head: the policy's own.
            token_ids: [B, S] of the batch.
            detached: the head gets no gradient.
            chunk_tokens: tokens whose logits exist at once.
            logit_scale: constant that some architectures multiply their logits by.

        Returns:
            [B, S] log-probabilities in nats, and [B, S] 1.0 or 0.0; zero elsewhere.
        """
        targets = token_ids[self.rows, self.columns]

        def score(logits: Tensor, chunk: slice) -> tuple[Tensor, Tensor]:
            logprobs = torch.log_softmax(logits, dim=-1)
            chosen = logprobs.gather(-1, targets[chunk, None])[:, 0]
            return chosen, (logits.argmax(-1) == targets[chunk]).to(logits.dtype)

        weight, bias = head.weight, cast("Tensor | None", head.bias)
        if detached:
            weight, bias = weight.detach(), None if bias is None else bias.detach()
        found = chunked_head(
            self.hidden,
            weight,
            bias=bias,
            score=score,
            chunk_tokens=chunk_tokens,
            logit_scale=logit_scale,
        )
        logprobs, hits = (self._placed(values, token_ids) for values in found)
        return logprobs, hits

    def _placed(self, values_N: Tensor, token_ids: Tensor) -> Tensor:
        empty = torch.zeros(token_ids.shape, dtype=values_N.dtype, device=values_N.device)
        return empty.index_put((self.rows, self.columns), values_N)


def mtp_loss(mtp_logprobs: Tensor, weights: Tensor, *, weight: float) -> Tensor:
    """Cross-entropy of the module's predictions, to be added to the policy's loss.

        loss = weight * -sum(mtp_logprobs * weights)

    Args:
        mtp_logprobs: [B, S] as `grpo.policy.Scores` has them; carries the gradient.
        weights: [B, S] of the tokens in the step's loss, `Batch.weights`.
        weight: lambda of the paper, > 0.

    Returns:
        A scalar. Micro-batches and processes add up to the whole step's.
    """
    return -weight * (mtp_logprobs * weights).sum()


def with_copies(named: Mapping[str, Tensor], *, layers: int) -> dict[str, Tensor]:
    """The tensors of a checkpoint, with the copies of embedding and head that belong to a module.

    Args:
        named: tensors by checkpoint name.
        layers: the model's own, L; without a tensor `model.layers.{L}.*` nothing is added.
    """
    found = dict(named)
    depths = {int(name.split(".")[2]) for name in named if name.startswith("model.layers.")}
    for depth in sorted(depth for depth in depths if depth >= layers):
        for name, source in COPIES.items():
            found[f"model.layers.{depth}.{name}"] = named.get(source, named[EMBEDDING]).clone()
    return found


def is_mtp_weight(name: str, *, layers: int) -> bool:
    """Whether `name` is a tensor of a multi-token prediction module behind `layers` layers."""
    parts = name.split(".")
    return name.startswith("model.layers.") and int(parts[2]) >= layers

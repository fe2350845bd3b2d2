"""Log-probabilities and entropy of given tokens under a causal language model.

The trunk's last hidden state is scored at the trained positions only, chunk by chunk: no
[B, S, V] tensor exists at any time.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel

from cotree.grpo.collate import tensors_of
from cotree.grpo.config_learner import Mtp
from cotree.grpo.mtp import DraftingStates, layer_inputs, mtp_hidden
from cotree.grpo.tree_packing import TreeBatch, pack_trees
from cotree.grpo.types import Batch
from cotree.kernels.token_logprobs import token_logprobs

CHUNK_LOGITS = 1 << 25
"""Logits in one chunk of the kernel, which holds one such tensor in the hidden states' dtype:
128 MiB in float32. At a vocabulary of 151,936 that is 220 tokens at a time."""
AGREEMENT_NATS = 1e-3
"""Largest gap between our log-probabilities and the model's own, both in float32."""


BALANCE = 3.0
"""Tokens, per unit of a model's width, at which attention under a dense mask costs as much as the
rest of a layer. Measured on a CPU for widths 192 and 384: 1 to 5."""


def attention_balance(model: PreTrainedModel | PeftModel) -> float:
    """The length of a row, in tokens, whose attention costs as much as its other layers."""
    return BALANCE * int(_network(model).config.get_text_config().hidden_size)


def policy_logprobs(
    model: PreTrainedModel | PeftModel, batch: Batch, *, temperature: float, packing: bool
) -> tuple[Tensor, Tensor]:
    """Log-probability of every trained token given those before it, and the entropy there.

        logprobs[b, t] = log_softmax(logits(token_ids[b, :t]) / temperature)[token_ids[b, t]]

    Rows are right-padded, so causal attention alone keeps padding out of every trained token and
    no attention mask is passed. With `packing` the rows' real tokens are laid end to end in one
    row whose position ids restart; transformers derives the block-diagonal mask from them.
    That mask is dense, so attention costs the square of the packed row: measured on a CPU, with
    rows of 84 tokens in micro-batches of 8192, a step takes 8 times as long as with padding. It
    pays where lengths differ much and micro-batches are small.
    In a `TreeBatch` a token is predicted by the one before it in the tree and sees its ancestors
    only, at positions counted along its own branch. Each tree has a dense mask of its own.

    Args:
        model: on the batch's device. Carries the gradient.
        batch: B rows of at most S tokens. `mask` must be False at position 0, which nothing
            predicts.
        temperature: divides the logits, as the engine did when it sampled.
        packing: the layout; the result is the same.

    Returns:
        [B, S] log-probabilities and [B, S] entropy, both in nats and zero outside `mask`; float32,
        or float64 of a float64 model.
    """
    states = predicting_states(model, batch, packing=packing)
    return states.logprobs(batch, temperature=temperature)


@dataclass(frozen=True, slots=True)
class PredictingStates:
    """What predicts each of the N trained tokens of a batch, and the head that turns it to logits.

    logits = head(hidden) * logit_scale
    """

    hidden: Tensor
    """[N, D]."""
    head: nn.Linear
    logit_scale: float
    rows: Tensor
    """[N] int64, of the tokens in the batch."""
    columns: Tensor
    """[N] int64."""
    drafting: DraftingStates | None = None
    """What a multi-token prediction module predicts the same tokens from, where it was asked."""

    @property
    def chunk_tokens(self) -> int:
        """How many tokens' logits may exist at once."""
        return max(1, CHUNK_LOGITS // self.head.weight.shape[0])

    def placed(self, values_N: Tensor, batch: Batch) -> Tensor:
        """[B, S]: each token's value at its place, zero elsewhere."""
        empty = torch.zeros(batch.mask.shape, dtype=values_N.dtype, device=values_N.device)
        return empty.index_put((self.rows, self.columns), values_N)

    def logprobs(self, batch: Batch, *, temperature: float) -> tuple[Tensor, Tensor]:
        """What `policy_logprobs` returns."""
        logprobs_N, entropy_N = token_logprobs(
            self.hidden,
            self.head.weight,
            batch.token_ids[self.rows, self.columns],
            bias=self.head.bias,
            temperature=temperature,
            chunk_tokens=self.chunk_tokens,
            logit_scale=self.logit_scale,
        )
        return self.placed(logprobs_N, batch), self.placed(entropy_N, batch)

    def mtp_scores(self, batch: Batch, *, detached: bool) -> tuple[Tensor, Tensor]:
        """`Scores.mtp_logprobs` and `Scores.mtp_hits`."""
        assert self.drafting is not None, "the caller asked for it"
        return self.drafting.scores(
            self.head,
            batch.token_ids,
            detached=detached,
            chunk_tokens=self.chunk_tokens,
            logit_scale=self.logit_scale,
        )


class Scores(NamedTuple):
    """Of the trained tokens of a batch, each [B, S] and zero elsewhere, log-probabilities in nats.

    What a module does not compute is None.
    """

    logprobs: Tensor
    entropy: Tensor
    divergence: Tensor | None = None
    """From a teacher; see `grpo.taught_policy`."""
    mtp_logprobs: Tensor | None = None
    """Under the multi-token prediction module, from two tokens before, at temperature 1. Zero as
    well for a trained token that is its row's second, which nothing predicts."""
    mtp_hits: Tensor | None = None
    """1.0 where the module's likeliest token is the token. Of tokens that the policy itself drew
    at temperature 1, the mean is the share of drafts that an engine would accept."""


def predicting_states(
    model: PreTrainedModel | PeftModel, batch: Batch, *, packing: bool, mtp: Mtp | None = None
) -> PredictingStates:
    """The last hidden states before the trained tokens.

    Args:
        model: as of `policy_logprobs`.
        batch: likewise.
        packing: likewise.
        mtp: run the model's multi-token prediction module as well, in the same forward.
    """
    if bool(batch.mask[:, 0].any()):
        raise ValueError("batch.mask is True at position 0, which has no prediction; prompt it.")
    network = _network(model)
    rows, columns = torch.nonzero(batch.mask, as_tuple=True)
    drafting: DraftingStates | None = None
    if isinstance(batch, TreeBatch):
        if mtp is not None:
            raise ValueError("learner.mtp reads whole rows; set learner.share_prefixes = false.")
        hidden_ND = _tree_hidden(network, batch)(rows, batch.parents[rows, columns])
    else:
        hidden, drafts = _row_hidden(network, batch, packing=packing, mtp=mtp)
        hidden_ND = hidden(rows, columns - 1)
        if drafts is not None:
            later = columns >= 2
            drafting = DraftingStates(
                _for_head(drafts(rows[later], columns[later] - 2)), rows[later], columns[later]
            )
    head = cast(nn.Linear, network.get_output_embeddings())
    scale = _logit_scale(network.config)
    return PredictingStates(_for_head(hidden_ND), head, scale, rows, columns, drafting)


def _for_head(hidden_ND: Tensor) -> Tensor:
    """What autocast does to the head's matrix product in the model's own forward."""
    if torch.is_autocast_enabled(hidden_ND.device.type):
        return hidden_ND.to(torch.get_autocast_dtype(hidden_ND.device.type))
    return hidden_ND


class Policy(nn.Module):
    """`policy_logprobs` as a module, so that DDP and FSDP2 see one forward per micro-batch."""

    def __init__(
        self, model: PreTrainedModel | PeftModel, *, packing: bool, mtp: Mtp | None = None
    ) -> None:
        """Takes over the model.

        Args:
            model: with a multi-token prediction module, where `mtp` is given.
            packing: see `policy_logprobs`.
            mtp: how that module is trained. A forward without gradients leaves it out.
        """
        super().__init__()
        self.model = model
        self.packing = packing
        self.mtp = mtp

    def forward(self, batch: Batch, temperature: float) -> tuple[Tensor, Tensor] | Scores:
        """`policy_logprobs`, and with `mtp` the module's scores: `Scores(*result)` has either."""
        mtp = self.mtp if torch.is_grad_enabled() else None
        states = predicting_states(self.model, batch, packing=self.packing, mtp=mtp)
        logprobs, entropy = states.logprobs(batch, temperature=temperature)
        if mtp is None:
            return logprobs, entropy
        scores = states.mtp_scores(batch, detached=mtp.detached)
        return Scores(logprobs, entropy, None, *scores)


class _Hidden:
    """The last hidden states, addressed by row and column whatever their layout."""

    def __init__(self, states_LD: Tensor, row_starts_B: Tensor) -> None:
        self._states_LD = states_LD
        self._row_starts_B = row_starts_B

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        return self._states_LD[self._row_starts_B[rows] + columns]


def _row_hidden(
    network: PreTrainedModel, batch: Batch, *, packing: bool, mtp: Mtp | None
) -> tuple[_Hidden, _Hidden | None]:
    """The last hidden states of whole rows, and those of the multi-token prediction module."""
    num_rows, width = batch.token_ids.shape
    columns = torch.arange(width, device=batch.token_ids.device)
    if packing:
        real = columns < batch.lengths[:, None]
        token_ids, position_ids = batch.token_ids[real][None], columns.expand_as(real)[real][None]
        starts = batch.lengths.cumsum(0) - batch.lengths
    else:
        token_ids, position_ids = batch.token_ids, None
        starts = torch.arange(num_rows, device=batch.token_ids.device) * width
    with nullcontext({}) if mtp is None else layer_inputs(network) as inputs:
        states = _trunk(network, token_ids, position_ids=position_ids)
    hidden = _Hidden(states.flatten(0, 1), starts)
    if mtp is None:
        return hidden, None
    drafts = mtp_hidden(network, states, token_ids, inputs, detached=mtp.detached)
    return hidden, _Hidden(drafts.flatten(0, 1), starts)


def _tree_hidden(network: PreTrainedModel, batch: TreeBatch) -> _Hidden:
    visible_RLL = batch.visible()
    states = _trunk(
        network,
        batch.token_ids,
        position_ids=visible_RLL.sum(-1) - 1,
        attention_mask=visible_RLL[:, None],
    )
    num_rows, width = batch.token_ids.shape
    starts = torch.arange(num_rows, device=batch.token_ids.device) * width
    return _Hidden(states.flatten(0, 1), starts)


def _trunk(
    network: PreTrainedModel,
    token_ids: Tensor,
    *,
    position_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    decoder = cast(nn.Module, network.get_decoder())
    output = decoder(
        input_ids=token_ids,
        attention_mask=attention_mask,
        position_ids=position_ids,
        use_cache=False,
    )
    return cast(Tensor, output.last_hidden_state)


def _network(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model; a PEFT wrapper has put its adapters inside it."""
    if isinstance(model, PeftModel):
        return cast(PreTrainedModel, model.get_base_model())
    return model


def _logit_scale(config: Any) -> float:  # noqa: ANN401 (every architecture has its own class)
    """The factor some architectures apply after the head (Cohere multiplies, Granite divides)."""
    if getattr(config, "final_logit_softcapping", None):
        raise ValueError(
            f"{config.model_type} caps its logits (final_logit_softcapping = "
            f"{config.final_logit_softcapping}), which the chunked head cannot do; use a model "
            "without it, such as the Qwen, Llama or OLMo families."
        )
    return float(getattr(config, "logit_scale", None) or 1.0) / float(
        getattr(config, "logits_scaling", None) or 1.0
    )


@torch.no_grad()
def check_policy(
    model: PreTrainedModel | PeftModel, *, packing: bool, share_prefixes: bool
) -> None:
    """Compares our log-probabilities with the model's own on two short rows, once, at start.

    It catches an architecture that does something to its logits which `policy_logprobs` does not
    know, dropout that is still on, with `packing` a model whose layers leak between rows, and
    with `share_prefixes` one whose layers leak between the branches of a tree.

    Raises:
        ValueError: they differ by more than `AGREEMENT_NATS`, or prefixes are to be shared under
            attention with a window, which the short rows do not reach.
    """
    network = _network(model)
    device = next(network.parameters()).device
    size = min(int(network.config.get_text_config().vocab_size), 1 << 15)
    ids = (torch.arange(22).reshape(2, 11) * 7 + 3) % size
    ids[1, :4] = ids[0, :4]
    lengths = torch.tensor([11, 6])
    columns = torch.arange(11)
    mask = (columns > 0) & (columns < lengths[:, None])
    zeros = torch.zeros(mask.shape)
    batch = Batch(ids * (columns < lengths[:, None]), lengths, mask, zeros, zeros, zeros, 15)
    if share_prefixes:
        _refuse_windows(network.config.get_text_config())
        batch = pack_trees(batch, max_tokens=22, balance=math.inf)
    batch = to_device(batch, device)
    ours, _ = policy_logprobs(model, batch, temperature=1.0, packing=packing)
    gap = 0.0
    for row, path in _branches(batch):
        branch = batch.token_ids[row, path]
        logits = network(input_ids=branch[None], use_cache=False).logits[0]
        full = torch.log_softmax(logits.float(), dim=-1)
        theirs = full[:-1].gather(1, branch[1:, None])[:, 0]
        gap = max(gap, float((theirs - ours[row, path[1:]]).abs().max()))
    if not gap <= AGREEMENT_NATS:
        layout = "packing" if packing else "share_prefixes" if share_prefixes else None
        raise ValueError(
            f"log-probabilities of {network.config.model_type} differ from the model's own by "
            f"{gap:.3g} nats (limit {AGREEMENT_NATS}); "
            + (
                f"set learner.{layout} = false, or use another architecture."
                if layout
                else "this architecture changes its logits in a way that is not supported."
            )
        )


def _branches(batch: Batch) -> list[tuple[int, Tensor]]:
    """Every row, or every branch of every tree: its row and the columns of its tokens."""
    if not isinstance(batch, TreeBatch):
        device = batch.lengths.device
        return [
            (row, torch.arange(length, device=device))
            for row, length in enumerate(batch.lengths.tolist())
        ]
    visible_RLL = batch.visible()
    own = torch.arange(batch.token_ids.shape[1], device=batch.lengths.device)
    leaves = (batch.subtree_ends == own + 1) & (own < batch.lengths[:, None])
    return [(row, own[visible_RLL[row, leaf]]) for row, leaf in leaves.nonzero().tolist()]


def _refuse_windows(config: Any) -> None:  # noqa: ANN401 (every architecture has its own class)
    """A tree's mask is one for all layers, and knows no distances."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    if window is not None or kinds != {"full_attention"}:
        raise ValueError(
            f"{config.model_type} has layers of kind {sorted(kinds)}, sliding_window = {window}; "
            "learner.share_prefixes needs full attention in every layer. Set it to false."
        )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on `device`."""
    return replace(batch, **{name: tensor.to(device) for name, tensor in tensors_of(batch).items()})

"""Tiny models as transformers computes them: what an engine is compared with."""

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from cotree.grpo.weights import Canary, WeightUpdate, make_update

CANARY_IDS = tuple(range(5, 45))


def load(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def nudged(model: PreTrainedModel, *, seed: int) -> PreTrainedModel:
    """The model after noise on every weight, enough to move log-probabilities by 0.1 and more."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=generator))
    return model


def logprobs(model: PreTrainedModel, token_ids: Sequence[int]) -> tuple[float, ...]:
    """Log p(token_ids[i] | token_ids[:i]) for i >= 1, in nats."""
    with torch.no_grad():
        table = model(torch.tensor([list(token_ids)])).logits[0].float().log_softmax(-1)
    return tuple(table[i, token].item() for i, token in enumerate(token_ids[1:]))


def canary(model: PreTrainedModel) -> Canary:
    return Canary(CANARY_IDS, logprobs(model, CANARY_IDS))


def update(
    model: PreTrainedModel, *, version: int, dtype: torch.dtype = torch.float32
) -> WeightUpdate:
    """Named as a checkpoint names them; `named_parameters` lists a tied weight once."""
    return make_update(model.named_parameters(), version=version, dtype=dtype)

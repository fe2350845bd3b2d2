"""Tests for grpo/row_values.py, against autograd through full logits, one row at a time."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from random_batches import random_batch
from taught_batches import full_logprobs
from transformers import PreTrainedModel

from cotree.grpo.models import load_model
from cotree.grpo.policy import Policy
from cotree.grpo.row_values import row_values
from cotree.grpo.types import Batch


@pytest.fixture
def model(tiny_model: Path) -> PreTrainedModel:
    return load_model(str(tiny_model), dtype="float64")


def values(model, batch: Batch, *, packing: bool = False):
    policy = Policy(model, packing=packing)
    trained = [p for p in model.parameters() if p.requires_grad]
    return row_values(batch, lambda row: policy(row, 1.0), trained)


@pytest.mark.parametrize("packing", [False, True])
def test_values_are_those_of_full_logits(model, packing: bool):
    batch = random_batch(0)
    expected: list[tuple[float, float]] = []
    for row in range(len(batch.lengths)):
        logprobs = full_logprobs(model, batch)[row][batch.mask[row]]
        chosen = logprobs.gather(-1, batch.token_ids[row][batch.mask[row], None])
        gradients = torch.autograd.grad(-chosen.mean(), list(model.parameters()))
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        entropy = -(logprobs.exp() * logprobs).sum(-1).mean()
        expected.append((float(entropy.detach()), norm))

    found = values(model, batch, packing=packing)

    # Shares of tokens are float32.
    for value, (entropy, norm) in zip(found, expected, strict=True):
        assert value.entropy == pytest.approx(entropy, rel=1e-6)
        assert value.gradient_norm == pytest.approx(norm, rel=1e-6)
    assert len({round(value.gradient_norm, 3) for value in found}) == 6


def test_a_row_is_valued_by_itself(model):
    # Neither the other rows, nor their weights, nor the padding they bring have a say.
    batch = random_batch(0)
    whole = values(model, replace(batch, weights=7.0 * batch.weights))
    for row in range(6):
        width = int(batch.lengths[row])
        names = ("token_ids", "mask", "behavior_logprobs", "advantages", "weights")
        cut = {name: getattr(batch, name)[row : row + 1, :width] for name in names}
        (alone,) = values(model, replace(batch, lengths=batch.lengths[row : row + 1], **cut))
        assert alone == pytest.approx(whole[row], rel=1e-12)


def test_weights_and_gradients_are_left_as_they_were(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    values(model, random_batch(0))
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_row_with_nothing_to_train_on_has_no_value(model):
    batch = random_batch(0)
    batch.mask[1] = False
    found = values(model, batch)
    assert found[1] == (0.0, 0.0)
    assert found[0].gradient_norm > 0.1


def test_only_what_is_trained_counts(model):
    batch = random_batch(0)
    full = values(model, batch)
    model.requires_grad_(requires_grad=False)
    model.model.norm.weight.requires_grad_()
    part = values(model, batch)
    for all_of_it, one_norm in zip(full, part, strict=True):
        assert 0 < one_norm.gradient_norm < all_of_it.gradient_norm
        assert one_norm.entropy == pytest.approx(all_of_it.entropy)


def test_with_adapters_the_norm_is_that_of_the_adapters(model):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"]))
    batch = random_batch(0)
    found = values(adapted, batch)
    logprobs = full_logprobs(adapted, batch)[0][batch.mask[0]]
    chosen = logprobs.gather(-1, batch.token_ids[0][batch.mask[0], None])
    trained = [p for p in adapted.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(-chosen.mean(), trained)
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    assert len(trained) == 4  # A and B of two layers
    assert found[0].gradient_norm == pytest.approx(norm, rel=1e-6)


def test_no_rows_have_no_values(model):
    batch = random_batch(0)
    names = ("token_ids", "lengths", "mask", "behavior_logprobs", "advantages", "weights")
    empty = replace(batch, **{name: getattr(batch, name)[:0] for name in names})
    assert values(model, empty) == []

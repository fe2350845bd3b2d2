"""Tests for grpo/policy.py, against transformers' own logits."""

from pathlib import Path

import pytest
import torch
from random_batches import random_batch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from cotree.grpo.models import load_model
from cotree.grpo.policy import check_policy, policy_logprobs

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "initializer_range": 0.2,
}


@pytest.fixture
def model(tiny_model: Path) -> PreTrainedModel:
    return load_model(str(tiny_model), dtype="float32")


def _own_logprobs(model: PreTrainedModel, batch, temperature: float):
    """log_softmax of the model's full logits, one row at a time, and the entropy."""
    logprobs, entropy = torch.zeros(2, *batch.mask.shape)
    for row, length in enumerate(batch.lengths.tolist()):
        ids = batch.token_ids[row : row + 1, :length]
        full = torch.log_softmax(model(ids).logits[0].float() / temperature, -1)
        for t in torch.nonzero(batch.mask[row]).flatten().tolist():
            logprobs[row, t] = full[t - 1, ids[0, t]]
            entropy[row, t] = -(full[t - 1].exp() * full[t - 1]).sum()
    return logprobs, entropy


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_and_entropy_are_the_models_own(model, packing: bool, temperature: float):
    batch = random_batch(0)
    with torch.no_grad():
        logprobs, entropy = policy_logprobs(model, batch, temperature=temperature, packing=packing)
        own_logprobs, own_entropy = _own_logprobs(model, batch, temperature)
    torch.testing.assert_close(logprobs, own_logprobs, atol=1e-5, rtol=0)
    torch.testing.assert_close(entropy, own_entropy, atol=1e-5, rtol=0)
    assert not logprobs[~batch.mask].any()


def test_packed_and_padded_layouts_give_the_same_gradient(model):
    gradients = []
    for packing in (False, True):
        model.zero_grad()
        batch = random_batch(1)
        logprobs, _ = policy_logprobs(model, batch, temperature=1.0, packing=packing)
        (logprobs * batch.advantages).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5 * scale + 1e-7, rtol=0)


@pytest.mark.parametrize("packing", [False, True])
def test_a_row_does_not_see_its_neighbours_or_the_padding(model, packing: bool):
    batch, other = random_batch(2), random_batch(2)
    other.token_ids[1:] = torch.randint(3, 99, other.token_ids[1:].shape)
    columns = torch.arange(batch.token_ids.shape[1])
    other.token_ids[0, columns >= other.lengths[0]] = 7
    with torch.no_grad():
        ours, _ = policy_logprobs(model, batch, temperature=1.0, packing=packing)
        theirs, _ = policy_logprobs(model, other, temperature=1.0, packing=packing)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=0)


def test_a_batch_without_trained_tokens_still_reaches_every_parameter(model):
    batch = random_batch(3)
    batch.mask[:] = False
    logprobs, _ = policy_logprobs(model, batch, temperature=1.0, packing=False)
    logprobs.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_training_on_the_first_position_is_refused(model):
    batch = random_batch(4)
    batch.mask[0, 0] = True
    with pytest.raises(ValueError, match="position 0"):
        policy_logprobs(model, batch, temperature=1.0, packing=False)


def test_a_model_that_scales_its_logits_is_scored_as_it_scores_itself():
    model = GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=3.0))
    check_policy(model, packing=True, share_prefixes=False)
    batch = random_batch(5)
    with torch.no_grad():
        ours, _ = policy_logprobs(model, batch, temperature=0.8, packing=True)
        own, _ = _own_logprobs(model, batch, 0.8)
    torch.testing.assert_close(ours, own, atol=1e-5, rtol=0)


def test_a_model_that_caps_its_logits_is_refused():
    model = Gemma2ForCausalLM(Gemma2Config(**SIZES, final_logit_softcapping=30.0))
    with pytest.raises(ValueError, match="caps its logits"):
        check_policy(model, packing=False, share_prefixes=False)


def test_the_start_up_check_finds_a_model_scored_differently_than_it_scores_itself(model):
    check_policy(model, packing=True, share_prefixes=False)
    model.config.logit_scale = 2.0  # Qwen3's own forward ignores it, so ours now differs
    with pytest.raises(ValueError, match="differ from the model's own"):
        check_policy(model, packing=False, share_prefixes=False)


def test_shared_prefixes_pass_the_start_up_check(model):
    check_policy(model, packing=False, share_prefixes=True)
    model.set_attn_implementation("eager")  # adds the mask to the scores, which is no mask at all
    with pytest.raises(ValueError, match=r"set learner\.share_prefixes = false"):
        check_policy(model, packing=False, share_prefixes=True)


def test_attention_with_a_window_cannot_share_prefixes():
    model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=64))
    check_policy(model, packing=True, share_prefixes=False)
    with pytest.raises(ValueError, match="sliding_window = 64"):
        check_policy(model, packing=False, share_prefixes=True)


def test_the_start_up_check_finds_dropout(tiny_model: Path):
    model = load_model(str(tiny_model), dtype="float32").train()
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    with pytest.raises(ValueError, match="differ from the model's own"):
        check_policy(model, packing=False, share_prefixes=False)

"""Tests for grpo/mtp.py on the GPU; the same bodies run on the CPU as well."""

from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from devices import DEVICES
from ragged_batches import ragged_batch
from torch import nn

from cotree.grpo.config_learner import Mtp
from cotree.grpo.mtp import mtp_loss
from cotree.grpo.mtp_files import load_model_with_mtp
from cotree.grpo.policy import Policy, Scores, to_device


class Measured(NamedTuple):
    logprobs: torch.Tensor
    mtp_logprobs: torch.Tensor
    gradients: dict[str, torch.Tensor]


def measured(mtp_model: Path, device: str, *, packing: bool) -> Measured:
    """Both log-probabilities of a random batch and all gradients; float64, on the CPU."""
    model = load_model_with_mtp(str(mtp_model), dtype=torch.float32).train()
    nn.Module.to(model, device)
    batch = to_device(ragged_batch(3, vocab=32), torch.device(device))
    scores = Scores(*Policy(model, packing=packing, mtp=Mtp(detached=False))(batch, 1.0))
    assert scores.mtp_logprobs is not None
    assert scores.mtp_logprobs.device.type == device
    loss = mtp_loss(scores.mtp_logprobs, batch.weights, weight=0.3)
    (loss - (scores.logprobs * batch.weights).sum()).backward()
    gradients = {
        name: parameter.grad.cpu().double()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    found = (scores.logprobs, scores.mtp_logprobs)
    return Measured(*(tensor.detach().cpu().double() for tensor in found), gradients)


@pytest.fixture(scope="module")
def expected(mtp_model: Path) -> Measured:
    """Padded, on the CPU; experts multiply in float32 at most."""
    return measured(mtp_model, "cpu", packing=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("packing", [False, True])
def test_a_deepseek_model_and_its_module_equal_the_cpus(mtp_model, expected, device, packing):
    got = measured(mtp_model, device, packing=packing)
    assert expected.mtp_logprobs[expected.mtp_logprobs != 0].std() > 0.01  # it predicts something
    torch.testing.assert_close(got.logprobs, expected.logprobs, rtol=0, atol=1e-4)
    torch.testing.assert_close(got.mtp_logprobs, expected.mtp_logprobs, rtol=0, atol=1e-4)
    assert got.gradients.keys() == expected.gradients.keys()
    for name, gradient in expected.gradients.items():
        gap = (got.gradients[name] - gradient).norm()
        assert float(gap) <= 1e-4 * float(gradient.norm()) + 1e-9, name

"""Tests for grpo/taught_policy.py on the GPU: training steps; the bodies run on the CPU as well."""

from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from devices import DEVICES
from ragged_batches import ragged_batch, told
from tiny_models import write_tiny_model
from torch import nn
from transformers import PreTrainedModel

from cotree.grpo.config_algorithm import Optimizer
from cotree.grpo.config_distill import Divergence
from cotree.grpo.models import load_model
from cotree.grpo.objective import Taught, micro_batch_loss
from cotree.grpo.policy import to_device
from cotree.grpo.taught_policy import ResidentModel, TaughtPolicy
from cotree.grpo.trainable import adamw, use_deterministic_kernels
from cotree.grpo.types import Batch

STEPS = 5
VOCAB = 99
# A large eps keeps AdamW from turning rounding noise of a gradient near zero into a whole step.
OPTIMIZER = Optimizer(learning_rate=1e-2, weight_decay=0.01, eps=1e-3)
KINDS = {"top": 1, "ranges": 9}
"""How a teacher is asked -> the longest outcome that it tells; "resident" tells all tokens."""


class Models(NamedTuple):
    student: Path
    teacher: Path


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("teacher")
    student = load_model(str(tiny_model), dtype="float32")
    write_tiny_model(folder, seed=1, vocab_size=int(student.config.vocab_size))
    return Models(tiny_model, folder)


@pytest.fixture(autouse=True)
def _learners_settings() -> None:
    use_deterministic_kernels(threads=1)


@torch.no_grad()
def batches(asked: str, teacher: PreTrainedModel, order: torch.Tensor | None) -> list[Batch]:
    """One batch a step; unless the teacher is resident, with what it thinks, from the CPU."""
    plain = [ragged_batch(seed, vocab=VOCAB) for seed in range(STEPS)]
    if asked == "resident":
        return plain
    found: list[Batch] = []
    for batch in plain:
        predicted = torch.log_softmax(teacher(batch.token_ids).logits, -1)
        logprobs = nn.functional.pad(predicted[:, :-1], (0, 0, 1, 0))
        found.append(told(batch, logprobs, longest=KINDS[asked], order=order))
    return found


def losses(
    models: Models,
    asked: str,
    device: str,
    *,
    packing: bool = False,
    autocast: bool = False,
    kind: str = "forward_kl",
) -> list[float]:
    """The loss before each of the optimizer's steps."""
    student = load_model(str(models.student), dtype="float32")
    teacher = load_model(str(models.teacher), dtype="float32")
    size = int(student.config.vocab_size)
    order = None
    if asked == "ranges":
        order = torch.randperm(size, generator=torch.Generator().manual_seed(0))
    data = batches(asked, teacher, order)
    nn.Module.to(teacher, device)
    divergence = Divergence(kind=kind, temperature=1.5)
    policy = TaughtPolicy(
        student,
        packing=packing,
        divergence=divergence,
        teacher=ResidentModel(teacher, packing=packing) if asked == "resident" else None,
        order=order,
    ).to(device)
    objective = Taught(divergence=divergence, cross_entropy_coef=0.5)
    optimizer = adamw(list(policy.parameters()), OPTIMIZER)
    found: list[float] = []
    for batch in data:
        here = to_device(batch, torch.device(device))
        with torch.autocast(device, torch.bfloat16) if autocast else nullcontext():
            logprobs, _, nats = policy(here, 0.9)
            loss, _ = micro_batch_loss(
                objective,
                here,
                logprobs=logprobs,
                old_logprobs=None,
                ref_logprobs=None,
                divergence=nats,
            )
        loss.backward()
        assert loss.device.type == device
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("asked", ["top", "ranges", "resident"])
def test_five_steps_take_the_losses_of_the_cpu(models, asked, device, packing):
    # On the CPU the packed layout is compared with the padded one, in another order of additions.
    got, expected = (
        losses(models, asked, where, packing=layout)
        for where, layout in ((device, packing), ("cpu", False))
    )
    assert got == pytest.approx(expected, abs=1e-4, rel=0)
    assert len(set(expected)) == STEPS  # the weights and the batches did change


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", ["reverse_kl", "jsd"])
def test_other_divergences_take_the_losses_of_the_cpu(models, device, kind):
    got = losses(models, "top", device, packing=True, kind=kind)
    expected = losses(models, "top", "cpu", kind=kind)
    assert got == pytest.approx(expected, abs=1e-4, rel=0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("asked", ["top", "ranges", "resident"])
def test_bfloat16_autocast_stays_near_float32(models, asked, device):
    # 8 bits of a logit of 7 are 0.03 nats at one token; the loss averages some 60 of them.
    got = losses(models, asked, device, autocast=True)
    expected = losses(models, asked, "cpu")
    assert got != expected
    assert got == pytest.approx(expected, rel=5e-3)

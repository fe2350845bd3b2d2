"""Tests for kernels/chunked_head.py on the GPU; the same bodies run on the CPU as well."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from devices import DEVICES
from head_inputs import (
    TEMPERATURE,
    UNIT_ROUNDOFF,
    Head,
    exact,
    gradient_gap,
    head,
    largest_logit,
    value_gap,
    values_and_gradients,
)

from cotree.kernels.chunked_head import chunked_head


def chunked(inputs: Head, *, chunk_tokens: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    def score(logits: torch.Tensor, chunk: slice) -> tuple[torch.Tensor, torch.Tensor]:
        log_p = torch.log_softmax(logits / TEMPERATURE, -1)
        chosen = log_p.gather(-1, inputs.targets[chunk, None])[:, 0]
        return chosen, -(log_p.exp() * log_p).sum(-1)

    logprobs, entropy = chunked_head(
        inputs.hidden, inputs.weight, bias=inputs.bias, score=score, chunk_tokens=chunk_tokens
    )
    return logprobs, entropy


@pytest.fixture
def repeatable() -> Iterator[None]:
    """The settings of a learner; they are the process's, so they are put back."""
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(mode=False)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-11), (torch.float32, 1e-4)])
def test_values_and_gradients_equal_float64_on_the_cpu(device, dtype, bound):
    # TF32, which keeps 11 bits of every factor, would be 3e-4 off: 1e-4 is float32 arithmetic.
    inputs = head(device, hidden=dtype, weight=dtype)
    got, expected = values_and_gradients(chunked, inputs), exact(inputs)
    assert {tensor.device.type for tensor in got} == {device}
    assert value_gap(got, expected) <= bound
    assert gradient_gap(got, expected) <= bound


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weight", [torch.float32, torch.bfloat16])
def test_bfloat16_products_stay_within_the_rounding_of_their_logits(device, weight):
    # 2 * 3 u max|z| / temperature; derived in test_token_logprobs_gpu.py.
    inputs = head(device, hidden=torch.bfloat16, weight=weight)
    got, expected = values_and_gradients(chunked, inputs), exact(inputs)
    bound = 6 * UNIT_ROUNDOFF[torch.bfloat16] * largest_logit(inputs) / TEMPERATURE
    assert [tensor.dtype for tensor in got[2:]] == [torch.bfloat16, weight, weight]
    assert value_gap(got, expected) <= bound
    assert gradient_gap(got, expected) <= 0.03


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("chunk_tokens", [1, 17, 130])
def test_the_chunks_change_nothing_but_rounding(device, chunk_tokens):
    inputs = head(device, hidden=torch.float32, weight=torch.float32)
    expected = values_and_gradients(chunked, inputs)
    got = values_and_gradients(partial(chunked, chunk_tokens=chunk_tokens), inputs)
    assert value_gap(got, expected) <= 2e-5
    assert gradient_gap(got, expected) <= 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_does_not_change_the_arithmetic(device):
    inputs = head(device, hidden=torch.float32, weight=torch.float32)
    plain = values_and_gradients(chunked, inputs)
    with torch.autocast(device, torch.bfloat16):
        cast = values_and_gradients(chunked, inputs)
    assert value_gap(cast, plain) <= 1e-6
    assert gradient_gap(cast, plain) <= 1e-6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("repeatable")
def test_the_same_call_gives_the_same_bits(device, dtype):
    inputs = head(device, hidden=dtype, weight=torch.float32)
    first, second = (values_and_gradients(chunked, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))

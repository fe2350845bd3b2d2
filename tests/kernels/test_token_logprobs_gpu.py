"""Tests for kernels/token_logprobs.py on the GPU; all but the memory's run on the CPU as well."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from devices import CUDA, DEVICES
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
from torch.nn import functional

from cotree.kernels.token_logprobs import token_logprobs


def chunked(inputs: Head, *, chunk_tokens: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    return token_logprobs(
        inputs.hidden,
        inputs.weight,
        inputs.targets,
        bias=inputs.bias,
        temperature=TEMPERATURE,
        chunk_tokens=chunk_tokens,
    )


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
    # A logit z is rounded by u |z|, u = 2^-8: of the cast weight, of the product, of the bias'
    # addition. log p = z - logsumexp(z), and logsumexp moves by no more than the furthest logit:
    # 2 * 3 u max|z| / temperature; the entropy is a mean of log p, and moves less. The gradients
    # add up many such errors of either sign.
    inputs = head(device, hidden=torch.bfloat16, weight=weight)
    got, expected = values_and_gradients(chunked, inputs), exact(inputs)
    bound = 6 * UNIT_ROUNDOFF[torch.bfloat16] * largest_logit(inputs) / TEMPERATURE
    assert [tensor.dtype for tensor in got] == [
        torch.float32,
        torch.float32,
        torch.bfloat16,
        weight,
        weight,
    ]
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.usefixtures("repeatable")
def test_the_same_call_gives_the_same_bits(device, dtype):
    inputs = head(device, hidden=dtype, weight=torch.float32)
    first, second = (values_and_gradients(chunked, inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def unchunked(inputs: Head) -> tuple[torch.Tensor, torch.Tensor]:
    """What a training loop writes without the kernel: all logits at once, scored in float32.

    It returns no entropy.
    """
    logits = functional.linear(inputs.hidden, inputs.weight, inputs.bias).float() / TEMPERATURE
    log_p = torch.log_softmax(logits, -1)
    chosen = log_p.gather(-1, inputs.targets[:, None])[:, 0]
    return chosen, torch.zeros_like(chosen)  # the entropy would nearly double its memory


def working_bytes(scored: Callable[[Head], tuple[torch.Tensor, torch.Tensor]], inputs: Head) -> int:
    """Peak of a forward and a backward pass over what was there before and the gradients."""
    leaves = [leaf for leaf in inputs.leaves if leaf.requires_grad]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    logprobs, entropy = scored(inputs)
    gradients = torch.autograd.grad(logprobs.sum() + entropy.sum(), leaves)
    torch.cuda.synchronize()
    results = sum(gradient.nbytes for gradient in gradients)
    return torch.cuda.max_memory_allocated() - before - results


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize(
    ("dtype", "trained", "share"),
    [
        (torch.float32, False, 1 / 20),
        (torch.bfloat16, False, 1 / 20),
        (torch.float32, True, 1 / 20),
        (torch.bfloat16, True, 1 / 4),
    ],
)
def test_a_head_of_151936_tokens_takes_a_fraction_of_the_memory(device, dtype, trained, share):
    # In units of all logits in float32, N V 4 bytes: without the kernel 2.5 to 3, of which the
    # softmax and the gradients in it and in the logits are 1 each. With it, 220 of the 2048 tokens
    # have logits, once, in hidden's dtype: 0.11 or 0.05. A trained bfloat16 head adds up its
    # gradient in float32, D / N = 0.5 of the unit, before it is rounded.
    n, d, v = 2048, 1024, 151_936
    generator = torch.Generator(device).manual_seed(0)

    def leaf(*shape: int, wanted: bool) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, device=device) / d**0.25
        return values.to(dtype).requires_grad_(wanted)

    targets = torch.randint(0, v, (n,), generator=generator, device=device)
    inputs = Head(leaf(n, d, wanted=True), leaf(v, d, wanted=trained), leaf(v, wanted=trained),
                  targets)  # fmt: skip
    kernel = partial(chunked, chunk_tokens=220)
    working_bytes(kernel, inputs)  # the matrix products' workspace, which stays
    ours, plain = working_bytes(kernel, inputs), working_bytes(unchunked, inputs)
    assert plain > 2.4 * n * v * 4
    assert ours <= share * plain, f"{ours / 2**20:.0f} MiB against {plain / 2**20:.0f} MiB"

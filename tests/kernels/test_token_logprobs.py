"""Tests for kernels/token_logprobs.py against kernels/reference.py in float64."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cotree.kernels import reference
from cotree.kernels.token_logprobs import TEMPORARY, token_logprobs

N, D, V = 23, 8, 37


def inputs(dtype=torch.float64, *, bias=True, scale=1.0):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return (scale * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)

    targets = torch.randint(0, V, (N,), generator=generator)
    hidden, weight = normal(N, D).requires_grad_(), normal(V, D).requires_grad_()
    return hidden, weight, targets, normal(V).requires_grad_() if bias else None


def value_and_gradients(function, hidden, weight, targets, bias, **kwargs):
    """Results, and gradients of a combination of both in which no two tokens weigh the same."""
    logprobs, entropy = function(hidden, weight, targets, bias=bias, **kwargs)
    share = torch.linspace(-1, 2, len(targets), dtype=torch.float64)
    loss = (share * logprobs).sum() + (share.flip(0) * entropy).sum()
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    return [logprobs, entropy, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("logit_scale", [1.0, 0.125])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 1000])
def test_values_and_gradients_equal_the_reference(bias, temperature, logit_scale, chunk_tokens):
    tensors = inputs(bias=bias)
    options = {"temperature": temperature, "logit_scale": logit_scale}
    got = value_and_gradients(token_logprobs, *tensors, chunk_tokens=chunk_tokens, **options)
    expected = value_and_gradients(reference.token_logprobs, *tensors, **options)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_gradcheck():
    hidden, weight, targets, bias = inputs()

    def function(h, w, b):
        return token_logprobs(h, w, targets, bias=b, temperature=0.7, chunk_tokens=5)

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
def test_lower_precisions_stay_close_to_float64(dtype, tolerance):
    # bfloat16 keeps 8 bits: logits of size 4 are rounded by up to 2^-7 = 0.008.
    hidden, weight, targets, bias = inputs(dtype, scale=0.7)
    got = value_and_gradients(
        token_logprobs, hidden, weight, targets, bias, temperature=1.0, chunk_tokens=6
    )
    exact = [t if t is targets else t.detach().double().requires_grad_() for t in
             (hidden, weight, targets, bias)]  # fmt: skip
    expected = value_and_gradients(reference.token_logprobs, *exact, temperature=1.0)
    assert got[0].dtype == got[1].dtype == torch.float32
    for mine, theirs, leaf in zip(got[2:], expected[2:], (hidden, weight, bias), strict=True):
        assert mine.dtype == leaf.dtype
        assert (mine.double() - theirs).norm() <= tolerance * theirs.norm()
    for mine, theirs in zip(got[:2], expected[:2], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=tolerance)


def test_float32_master_weights_beside_bfloat16_hidden_get_float32_gradients():
    # The product runs in bfloat16: the same as casting the weight by hand.
    hidden, weight, targets, _ = inputs(torch.float32, bias=False)
    low = hidden.detach().bfloat16().requires_grad_()
    kwargs = {"bias": None, "temperature": 1.0, "chunk_tokens": 4}
    logprobs, _ = token_logprobs(low, weight, targets, **kwargs)
    by_hand, _ = token_logprobs(low, weight.detach().bfloat16(), targets, **kwargs)
    assert torch.equal(logprobs, by_hand)
    grad_hidden, grad_weight = torch.autograd.grad(logprobs.sum(), (low, weight))
    assert (grad_hidden.dtype, grad_weight.dtype) == (torch.bfloat16, torch.float32)
    assert not torch.equal(grad_weight, grad_weight.bfloat16().float())  # sums kept in float32


def test_autocast_does_not_change_the_arithmetic():
    hidden, weight, targets, bias = inputs(torch.float32)
    kwargs = {"temperature": 1.0, "chunk_tokens": 4}
    plain = value_and_gradients(token_logprobs, hidden, weight, targets, bias, **kwargs)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = value_and_gradients(token_logprobs, hidden, weight, targets, bias, **kwargs)
    assert all(torch.equal(a, b) for a, b in zip(plain, autocast, strict=True))


def test_a_chunk_does_not_see_its_neighbours():
    hidden, weight, targets, bias = inputs()
    kwargs = {"bias": bias, "temperature": 1.0, "chunk_tokens": 4}
    whole, _ = token_logprobs(hidden, weight, targets, **kwargs)
    spoiled = hidden.detach().clone()
    spoiled[5] = math.nan
    got, _ = token_logprobs(spoiled, weight, targets, **kwargs)
    assert got.isnan().nonzero().flatten().tolist() == [5]
    keep = torch.arange(N) != 5
    torch.testing.assert_close(got[keep], whole[keep], rtol=0, atol=1e-13)


def test_large_logits_neither_overflow_nor_cancel():
    # Two tokens 1e4 nats apart: probability 1 and entropy 0 to the last bit, not nan.
    hidden = torch.tensor([[1e4]])
    weight = torch.tensor([[1.0], [0.0], [1.0]])
    kwargs = {"bias": None, "temperature": 1.0, "chunk_tokens": 1}
    logprobs, entropy = token_logprobs(hidden, weight[:2], torch.tensor([1]), **kwargs)
    assert (logprobs.item(), entropy.item()) == (-1e4, 0.0)
    # A tie at 1e4: entropy ln 2, of which z - logsumexp(z) at 1e4 keeps 3 digits in float32.
    logprobs, entropy = token_logprobs(hidden, weight, torch.tensor([0]), **kwargs)
    assert logprobs.item() == pytest.approx(-math.log(2), abs=1e-3)
    assert entropy.item() == pytest.approx(math.log(2), abs=1e-3)


def test_a_token_that_the_bias_forbids_has_no_probability_and_no_gradient():
    hidden, weight, targets, bias = inputs()
    allowed = torch.arange(V) % 3 > 0
    targets = allowed.nonzero()[:, 0][targets % allowed.sum()]
    forbidding = bias.detach().masked_fill(~allowed, -math.inf).requires_grad_()
    kwargs = {"temperature": 0.7, "chunk_tokens": 4}
    got = value_and_gradients(token_logprobs, hidden, weight, targets, forbidding, **kwargs)
    # The same as a head that never had these tokens.
    renumbered = torch.cumsum(allowed, 0)[targets] - 1
    rest = [leaf.detach()[allowed].requires_grad_() for leaf in (weight, bias)]
    expected = value_and_gradients(
        reference.token_logprobs, hidden, rest[0], renumbered, rest[1], temperature=0.7
    )
    for grad in got[3:]:
        assert (grad[~allowed] == 0).all()
    kept = [*got[:3], *(grad[allowed] for grad in got[3:])]
    for mine, theirs in zip(kept, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


class LargestTensor(TorchDispatchMode):
    """Records the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_all_logits_never_exist_at_once():
    n, d, v, chunk = 256, 4, 512, 16
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, d, requires_grad=True), torch.randn(v, d, requires_grad=True)
    targets = torch.randint(0, v, (n,))
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as made:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logprobs, entropy = token_logprobs(
                hidden, weight, targets, bias=None, temperature=1.0, chunk_tokens=chunk
            )
            loss = logprobs.sum() + entropy.sum()
        loss.backward()
    assert made.numel == chunk * v  # 8192, not 256 * 512 = 131072
    assert max(saved) == max(n * d, v * d)  # the inputs themselves, nothing of size V per token

    with LargestTensor() as made:  # the same measurement sees what the reference does
        reference.token_logprobs(hidden, weight, targets, bias=None, temperature=1.0)
    assert made.numel == n * v


class LargeStorages(TorchDispatchMode):
    """The places in memory, above a size, that any operation's result lies in."""

    def __init__(self, num_bytes):
        super().__init__()
        self.num_bytes = num_bytes
        self.places = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.nbytes() > self.num_bytes:
                    self.places.add(storage.data_ptr())
        return out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_holds_one_tensor_of_a_chunks_logits(dtype):
    # 48 rows of 2^16 logits; temporary tensors have TEMPORARY = 2^20 float32, 16 rows.
    n, d, v = 48, 2, 1 << 16
    torch.manual_seed(0)
    hidden, weight = (torch.randn(size, d).to(dtype).requires_grad_() for size in (n, v))
    kwargs = {"bias": None, "temperature": 0.7, "chunk_tokens": n}
    with LargeStorages(TEMPORARY["cpu"] * 4) as forward:
        logprobs, entropy = token_logprobs(hidden, weight, torch.arange(n), **kwargs)
    with LargeStorages(TEMPORARY["cpu"] * 4) as backward:
        (logprobs.sum() + entropy.sum()).backward()
    assert (len(forward.places), len(backward.places)) == (1, 1)

    with LargeStorages(TEMPORARY["cpu"] * 4) as plain:  # the same measurement sees what others do
        reference.token_logprobs(hidden, weight, torch.arange(n), bias=None, temperature=0.7)
    assert len(plain.places) > 1


def test_no_tokens_give_empty_results_and_zero_gradients():
    weight = torch.randn(V, D, requires_grad=True)
    hidden = torch.zeros(0, D, requires_grad=True)
    logprobs, entropy = token_logprobs(
        hidden, weight, torch.zeros(0).long(), bias=None, temperature=1.0, chunk_tokens=4
    )
    assert logprobs.shape == entropy.shape == (0,)
    logprobs.sum().backward()
    assert (weight.grad == 0).all()


def test_only_what_needs_a_gradient_gets_one():
    hidden, weight, targets, _ = inputs(bias=False)
    kwargs = {"bias": None, "temperature": 1.0, "chunk_tokens": 4}
    logprobs, _ = token_logprobs(hidden.detach(), weight, targets, **kwargs)
    logprobs.sum().backward()
    assert weight.grad is not None
    logprobs, _ = token_logprobs(hidden, weight.detach(), targets, **kwargs)
    logprobs.sum().backward()
    assert hidden.grad is not None


def test_what_cannot_be_scored_is_refused():
    hidden, weight, targets, bias = inputs()
    good = {"bias": bias, "temperature": 1.0, "chunk_tokens": 4}
    with pytest.raises(ValueError, match=r"needs hidden \[N, D\]"):
        token_logprobs(hidden, weight, targets[:-1], **good)
    with pytest.raises(ValueError, match="int64"):
        token_logprobs(hidden, weight, targets.int(), **good)
    for name, value in {"temperature": 0.0, "chunk_tokens": 0}.items():
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            token_logprobs(hidden, weight, targets, **{**good, name: value})
    with pytest.raises((IndexError, RuntimeError), match="out of bounds"):
        token_logprobs(hidden, weight, torch.full((N,), V), **good)

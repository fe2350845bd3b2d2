"""Tests for kernels/chunked_head.py against unchunked autograd in float64."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from cotree.kernels import reference
from cotree.kernels.chunked_head import chunked_head

N, D, V = 23, 8, 37


def inputs(dtype=torch.float64, *, bias=True, scale=1.0):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        values = scale * torch.randn(shape, generator=generator, dtype=torch.float64)
        return values.to(dtype).requires_grad_()

    targets = torch.randint(0, V, (N,), generator=generator)
    return normal(N, D), normal(V, D), targets, normal(V) if bias else None


def target_and_entropy(targets, temperature=1.0):
    """A score: log-probability of the targets, and entropy."""

    def score(logits, chunk):
        log_p = torch.log_softmax(logits / temperature, -1)
        chosen = log_p.gather(-1, targets[chunk, None])[:, 0]
        return chosen, -(log_p.exp() * log_p).sum(-1)

    return score


def weighted(results):
    """A sum over results and tokens in which no two weigh the same."""
    share = torch.linspace(-1, 2, len(results[0]), dtype=torch.float64)
    return sum((share.roll(k) * result).sum() for k, result in enumerate(results))


def value_and_gradients(results, *leaves):
    present = [leaf for leaf in leaves if leaf is not None]
    return [*results, *torch.autograd.grad(weighted(results), present)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("logit_scale", [1.0, 0.125])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 23, 1000])
def test_values_and_gradients_equal_the_reference(bias, logit_scale, chunk_tokens):
    hidden, weight, targets, head_bias = inputs(bias=bias)
    options = {"bias": head_bias, "logit_scale": logit_scale}
    score = target_and_entropy(targets, temperature=0.6)
    got = chunked_head(hidden, weight, score=score, chunk_tokens=chunk_tokens, **options)
    expected = reference.token_logprobs(hidden, weight, targets, temperature=0.6, **options)
    for mine, theirs in zip(
        value_and_gradients(got, hidden, weight, head_bias),
        value_and_gradients(expected, hidden, weight, head_bias),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-11)


def test_the_score_sees_scaled_logits_that_no_temperature_has_divided():
    hidden, weight, _, bias = inputs()

    def score(logits, chunk):
        return (logits[:, 3],)

    (got,) = chunked_head(hidden, weight, bias=bias, score=score, chunk_tokens=5, logit_scale=0.5)
    torch.testing.assert_close(got, (hidden @ weight[3] + bias[3]) * 0.5, rtol=0, atol=1e-13)


def test_what_the_score_reads_besides_gets_its_gradient():
    # d/ds of sum_n logits[n, 0] * s[n] is logits[n, 0].
    hidden, weight, _, _ = inputs(bias=False)
    share = torch.ones(N, dtype=torch.float64, requires_grad=True)

    def score(logits, chunk):
        return (logits[:, 0] * share[chunk],)

    (got,) = chunked_head(hidden, weight, bias=None, score=score, chunk_tokens=4)
    got.sum().backward()
    torch.testing.assert_close(share.grad, hidden @ weight[0], rtol=0, atol=1e-13)


def test_results_without_a_gradient_may_stand_beside_others():
    hidden, weight, targets, _ = inputs(bias=False)

    def score(logits, chunk):
        return logits[:, 0], targets[chunk].double()

    logit, constant = chunked_head(hidden, weight, bias=None, score=score, chunk_tokens=4)
    assert logit.requires_grad
    assert not constant.requires_grad
    assert constant.tolist() == targets.tolist()


def test_gradcheck():
    hidden, weight, targets, bias = inputs()

    def function(h, w, b):
        return chunked_head(
            h, w, bias=b, score=target_and_entropy(targets), chunk_tokens=5, logit_scale=0.7
        )

    assert torch.autograd.gradcheck(function, (hidden, weight, bias))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 0.03)])
def test_lower_precisions_stay_close_to_float64(dtype, tolerance):
    # bfloat16 keeps 8 bits: logits of size 4 are rounded by up to 2^-7 = 0.008.
    hidden, weight, targets, bias = inputs(dtype, scale=0.7)
    leaves = (hidden, weight, bias)
    score = target_and_entropy(targets)
    results = chunked_head(hidden, weight, bias=bias, score=score, chunk_tokens=6)
    got = value_and_gradients(results, *leaves)
    exact_leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    exact = reference.token_logprobs(
        exact_leaves[0], exact_leaves[1], targets, bias=exact_leaves[2], temperature=1.0
    )
    expected = value_and_gradients(exact, *exact_leaves)
    assert {result.dtype for result in results} == {torch.float32}
    for mine, theirs, leaf in zip(got[2:], expected[2:], leaves, strict=True):
        assert mine.dtype == leaf.dtype
        assert (mine.double() - theirs).norm() <= tolerance * theirs.norm()
    for mine, theirs in zip(got[:2], expected[:2], strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=tolerance)


def test_float32_master_weights_beside_bfloat16_hidden_get_float32_gradients():
    # The product runs in bfloat16: the same as casting the weight by hand.
    hidden, weight, targets, bias = inputs(torch.float32)
    low = hidden.detach().bfloat16().requires_grad_()
    score = target_and_entropy(targets)
    logprobs, _ = chunked_head(low, weight, bias=bias, score=score, chunk_tokens=4)
    by_hand, _ = chunked_head(
        low, weight.detach().bfloat16(), bias=bias.detach().bfloat16(), score=score, chunk_tokens=4
    )
    assert torch.equal(logprobs, by_hand)
    gradients = torch.autograd.grad(logprobs.sum(), (low, weight, bias))
    assert [g.dtype for g in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    # Chunks are added up in float32: what bfloat16 would have rounded away is there.
    assert not torch.equal(gradients[1], gradients[1].bfloat16().float())


def test_autocast_does_not_change_the_arithmetic():
    hidden, weight, targets, bias = inputs(torch.float32)

    def all_of_it():
        results = chunked_head(
            hidden, weight, bias=bias, score=target_and_entropy(targets), chunk_tokens=4
        )
        return value_and_gradients(results, hidden, weight, bias)

    plain = all_of_it()
    with torch.autocast("cpu", torch.bfloat16):
        autocast = all_of_it()
    assert all(torch.equal(a, b) for a, b in zip(plain, autocast, strict=True))


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


@pytest.mark.parametrize("chunk_tokens", [16, 256])
def test_all_logits_never_exist_at_once(chunk_tokens):
    n, d, v = 256, 4, 512
    torch.manual_seed(0)
    hidden, weight = torch.randn(n, d, requires_grad=True), torch.randn(v, d, requires_grad=True)
    score = target_and_entropy(torch.randint(0, v, (n,)))
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as made:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            results = chunked_head(
                hidden, weight, bias=None, score=score, chunk_tokens=chunk_tokens
            )
            loss = sum(result.sum() for result in results)
        loss.backward()
    # 16 * 512 = 8192 of 256 * 512 = 131072; one chunk of all tokens shows that it is measured.
    assert made.numel == chunk_tokens * v
    assert max(saved) == chunk_tokens * d  # a chunk's hidden states are all that is kept of it


def test_a_chunk_is_gone_before_the_next_one_though_its_score_is_a_view_of_it():
    hidden, weight, _, _ = inputs(bias=False)
    chunks: list[StorageWeakRef] = []

    def score(logits, chunk):
        assert all(earlier.expired() for earlier in chunks)
        chunks.append(StorageWeakRef(logits.untyped_storage()))
        assert not chunks[-1].expired()
        return logits[:, 0], logits.logsumexp(-1)

    got, total = chunked_head(hidden, weight, bias=None, score=score, chunk_tokens=5)
    assert len(chunks) == 5  # of 23 tokens
    (got + total).sum().backward()
    assert len(chunks) == 10
    torch.testing.assert_close(got, hidden @ weight[0], rtol=0, atol=1e-13)


def test_the_same_hooks_see_the_logits_that_plain_autograd_saves():
    n, d, v = 256, 4, 512
    hidden, weight = torch.randn(n, d, requires_grad=True), torch.randn(v, d)
    score = target_and_entropy(torch.zeros(n, dtype=torch.int64))
    saved = []

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        score(hidden @ weight.T, slice(0, n))
    assert max(saved) == n * v


def test_every_chunk_is_scored_once_forward_and_once_backward():
    hidden, weight, _, _ = inputs(bias=False)
    seen = []

    def score(logits, chunk):
        seen.append((chunk.start, chunk.stop, len(logits)))
        return (logits.square().sum(-1),)

    (got,) = chunked_head(hidden, weight, bias=None, score=score, chunk_tokens=10)
    chunks = [(0, 10, 10), (10, 20, 10), (20, 23, 3)]
    assert seen == chunks
    got.sum().backward()
    assert sorted(seen[3:]) == chunks


def test_nothing_is_kept_when_no_gradient_is_wanted():
    hidden, weight, targets, bias = inputs()
    score = target_and_entropy(targets)
    with torch.no_grad():
        results = chunked_head(hidden, weight, bias=bias, score=score, chunk_tokens=4)
    assert not any(result.requires_grad for result in results)
    with_gradient = chunked_head(hidden, weight, bias=bias, score=score, chunk_tokens=4)
    assert all(torch.equal(a, b) for a, b in zip(results, with_gradient, strict=True))


def test_only_what_needs_a_gradient_gets_one():
    hidden, weight, targets, bias = inputs()
    options = {"score": target_and_entropy(targets), "chunk_tokens": 4}
    everything = chunked_head(hidden, weight, bias=bias, **options)
    expected = torch.autograd.grad(weighted(everything), (hidden, weight, bias))
    for position, leaf in enumerate((hidden, weight, bias)):
        alone = [t if t is leaf else t.detach() for t in (hidden, weight, bias)]
        results = chunked_head(alone[0], alone[1], bias=alone[2], **options)
        (got,) = torch.autograd.grad(weighted(results), leaf)
        torch.testing.assert_close(got, expected[position], rtol=0, atol=1e-14)


def test_no_tokens_give_empty_results_and_zero_gradients():
    weight = torch.randn(V, D, requires_grad=True)
    hidden = torch.zeros(0, D, requires_grad=True)
    score = target_and_entropy(torch.zeros(0, dtype=torch.int64))
    results = chunked_head(hidden, weight, bias=None, score=score, chunk_tokens=4)
    assert [result.shape for result in results] == [(0,), (0,)]
    sum(result.sum() for result in results).backward()
    assert hidden.grad.shape == (0, D)
    assert (weight.grad == 0).all()


def test_what_cannot_be_scored_is_refused():
    hidden, weight, targets, bias = inputs()
    good = {"bias": bias, "score": target_and_entropy(targets), "chunk_tokens": 4}
    with pytest.raises(ValueError, match=r"needs hidden \[N, D\]"):
        chunked_head(hidden[:, 1:], weight, **good)
    with pytest.raises(ValueError, match=r"bias \[V\]"):
        chunked_head(hidden, weight[1:], **good)
    with pytest.raises(ValueError, match="chunk_tokens = 0"):
        chunked_head(hidden, weight, **{**good, "chunk_tokens": 0})
    # A mean over the chunk would be one number for four tokens.
    with pytest.raises(ValueError, match=r"one number per token, \[4\] for tokens 0 to 4"):
        chunked_head(hidden, weight, **{**good, "score": lambda z, _: (z.mean(),)})

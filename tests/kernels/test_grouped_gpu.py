"""Tests for kernels/grouped.py and kernels/triton_grouped.py on a GPU, against the CPU."""

import pytest
import torch
from devices import CUDA

from cotree.kernels import fp8
from cotree.kernels.dispatch import backend
from cotree.kernels.expert_order import combine, dispatch, sort_by_expert
from cotree.kernels.grouped import block_grouped_linear, grouped_linear

SIZES = [700, 0, 1, 128, 515, 0, 300, 56]
K, N = 512, 384


def _random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _operands(dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Inputs [T, K], weight [E, N, K], the upstream gradient [T, N] and offsets, on the CPU."""
    offsets = torch.tensor(SIZES).cumsum(0).int()
    rows = sum(SIZES)
    x, upstream = _random(0, rows, K).to(dtype), _random(2, rows, N).to(dtype)
    return x, _random(1, len(SIZES), N, K) * 0.05, upstream, offsets


def _trained(function, x, weight, upstream) -> list[torch.Tensor]:
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = function(x, weight)
    return [y.detach(), *torch.autograd.grad(y, (x, weight), upstream)]


def _gap(got: torch.Tensor, want: torch.Tensor) -> float:
    want = want.double().cpu()
    return float((got.double().cpu() - want).norm() / want.norm())


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize("scales", ["pow2", "float32"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 3e-3)])
def test_fp8_experts_are_those_of_the_cpu(device, dtype, tolerance, scales):
    x, weight, upstream, offsets = _operands(dtype)
    assert backend("grouped_matmul", x.to(device)) == "triton"
    assert backend("grouped_weight_gradient", x.to(device)) == "triton"

    def layer(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return block_grouped_linear(x, weight, offsets.to(x.device), scales=scales)

    want = _trained(layer, x, weight, upstream)
    got = _trained(layer, x.to(device), weight.to(device), upstream.to(device))
    # The bytes are equal. Hopper adds up the products of a tile with some 14 bits, and bfloat16
    # rounds sums once.
    assert [_gap(ours, theirs) <= tolerance for ours, theirs in zip(got, want, strict=True)] == (
        [True] * 3
    )


@pytest.mark.parametrize("device", [CUDA])
def test_the_accumulator_keeps_more_than_the_tensor_cores_bits(device):
    # 8192 terms: added up with 14 bits the error would be of the order of 1e-3 and more.
    offsets = torch.tensor([100, 300], dtype=torch.int32)
    x, weight = _random(0, 300, 8192).abs(), _random(1, 2, 128, 8192).abs()
    q, w = fp8.quantize_tiles(x, scales="pow2"), fp8.quantize_blocks(weight, scales="pow2")
    left, right = fp8.dequantize_tiles(*q).double(), fp8.dequantize_blocks(*w).double()
    want = torch.cat([left[:100] @ right[0].T, left[100:] @ right[1].T])
    got = block_grouped_linear(x.to(device), weight.to(device), offsets.to(device), scales="pow2")
    assert _gap(got, want) <= 1e-3


@pytest.mark.parametrize("device", [CUDA])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 1e-2)])
def test_grouped_products_are_those_of_the_cpu(device, dtype, tolerance):
    # float32 may multiply in TF32.
    x, weight, upstream, offsets = _operands(dtype)

    def layer(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return grouped_linear(x, weight, offsets.to(x.device))

    weight = weight.to(dtype)
    want = _trained(layer, x.double(), weight.double(), upstream.double())
    got = _trained(layer, x.to(device), weight.to(device), upstream.to(device))
    for ours, theirs in zip(got, want, strict=True):
        assert _gap(ours, theirs) <= tolerance
    for expert, size in enumerate(SIZES):
        assert size or not got[2][expert].any()


@pytest.mark.parametrize("device", [CUDA])
def test_tokens_reach_their_experts_and_come_back_the_same_every_time(device):
    ids = _random(0, 500, 16).argsort(-1)[:, :4]
    order = sort_by_expert(ids, 16)
    on_gpu = sort_by_expert(ids.to(device), 16)
    for ours, theirs in zip(on_gpu, order, strict=True):
        assert torch.equal(ours.cpu(), theirs)

    def forward(device: str) -> list[torch.Tensor]:
        order = sort_by_expert(ids.to(device), 16)
        x = _random(1, 500, 64).to(device).requires_grad_()
        weights = _random(2, 500, 4).to(device).requires_grad_()
        out = combine(dispatch(x, order).sin(), weights, order)
        return [out.detach(), *torch.autograd.grad(out.square().sum(), (x, weights))]

    torch.use_deterministic_algorithms(mode=True)
    try:
        first, second = forward(device), forward(device)
    finally:
        torch.use_deterministic_algorithms(mode=False)
    for ours, again, theirs in zip(first, second, forward("cpu"), strict=True):
        assert torch.equal(ours, again)
        assert _gap(ours, theirs) <= 1e-5


@pytest.mark.parametrize("device", [CUDA])
def test_no_gpu_is_waited_for(device):
    x, weight, upstream, offsets = (t.to(device) for t in _operands(torch.bfloat16))
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        _trained(
            lambda x, w: block_grouped_linear(x, w, offsets, scales="pow2"), x, weight, upstream
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")

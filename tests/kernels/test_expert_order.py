"""Tests for kernels/expert_order.py, against plain sums over each token's experts."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from cotree.kernels.expert_order import combine, dispatch, sort_by_expert


def _random(seed: int, *shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


@st.composite
def _chosen(draw: st.DrawFn) -> torch.Tensor:
    """[N, k] different experts of 5 for each token."""
    top_k = draw(st.integers(1, 3))
    choices = st.permutations(range(5)).map(lambda experts: experts[:top_k])
    return torch.tensor(draw(st.lists(choices, max_size=8)), dtype=torch.int64).view(-1, top_k)


@given(_chosen())
def test_pairs_are_sorted_by_expert_and_then_by_token(ids: torch.Tensor):
    order = sort_by_expert(ids, 5)
    flat = ids.flatten().tolist()
    # Python's sort is stable, too.
    assert order.pairs.tolist() == sorted(range(len(flat)), key=lambda pair: flat[pair])
    assert order.places.flatten()[order.pairs].tolist() == list(range(len(flat)))
    assert order.offsets.tolist() == [sum(i <= expert for i in flat) for expert in range(5)]
    assert order.offsets.dtype == torch.int32


@given(_chosen())
def test_dispatched_and_combined_tokens_are_weighted_sums(ids: torch.Tensor):
    order = sort_by_expert(ids, 5)
    x, weights = _random(0, len(ids), 4), _random(1, *ids.shape)
    factors = torch.arange(5.0, dtype=torch.float64)[ids.flatten().sort(stable=True).values]
    combined = combine(dispatch(x, order) * factors[:, None], weights, order)
    expected = [
        sum(
            (w * e * x[n] for w, e in zip(weights[n], ids[n], strict=True)),
            start=torch.zeros(4, dtype=torch.float64),
        )
        for n in range(len(ids))
    ]
    for got, want in zip(combined, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_gradients_go_through_dispatch_and_combine():
    ids = torch.tensor([[0, 3], [3, 1], [1, 0], [3, 0]])
    order = sort_by_expert(ids, 5)
    x, weights = _random(0, 4, 3).requires_grad_(), _random(1, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: combine(dispatch(x, order).tanh(), w, order), (x, weights)
    )


def test_sums_over_a_tokens_experts_are_float32_whatever_the_values_are():
    ids = torch.tensor([[0, 1, 2]])
    order = sort_by_expert(ids, 3)
    # In bfloat16, 256 + 0.5 is 256.
    values = torch.tensor([[256.0], [0.5], [0.5]]).bfloat16()
    assert combine(values, torch.ones(1, 3), order).tolist() == [[257.0]]

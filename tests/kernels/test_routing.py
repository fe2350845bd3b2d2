"""Tests for kernels/routing.py: against plain loops, and against transformers' own routers."""

import math
from types import SimpleNamespace

import pytest
import torch
from devices import DEVICES
from hypothesis import given
from hypothesis import strategies as st
from transformers import DeepseekV3Config, Qwen3MoeConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeTopKRouter

from cotree.kernels.routing import Routed, route, sequence_balance_loss


def _random(seed: int, *shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=random, dtype=torch.float64)


# --- route -----------------------------------------------------------------------------------


def _by_hand(logits: list[float], bias: list[float], case: SimpleNamespace) -> dict[int, float]:
    """One token's experts and weights, by definition, in Python's floats."""
    if case.scoring == "sigmoid":
        scores = [1 / (1 + math.exp(-logit)) for logit in logits]
    else:
        total = sum(math.exp(logit) for logit in logits)
        scores = [math.exp(logit) / total for logit in logits]
    biased = [score + b for score, b in zip(scores, bias, strict=True)]
    size = len(logits) // case.groups
    members = [range(g * size, (g + 1) * size) for g in range(case.groups)]
    ranked = sorted(members, key=lambda m: -sum(sorted((biased[e] for e in m), reverse=True)[:2]))
    reach = [expert for group in ranked[: case.groups_per_token] for expert in group]
    chosen = sorted(reach, key=lambda expert: -biased[expert])[: case.top_k]
    divisor = sum(scores[e] for e in chosen) if case.normalize else 1.0
    return {e: scores[e] / divisor * case.scaling for e in chosen}


@st.composite
def _cases(draw: st.DrawFn) -> SimpleNamespace:
    groups = draw(st.integers(1, 4))
    size = draw(st.integers(1, 4))
    groups_per_token = draw(st.integers(1, groups))
    return SimpleNamespace(
        scoring=draw(st.sampled_from(["sigmoid", "softmax"])),
        experts=groups * size,
        groups=groups,
        groups_per_token=groups_per_token,
        top_k=draw(st.integers(1, size * groups_per_token)),
        normalize=draw(st.booleans()),
        scaling=draw(st.sampled_from([1.0, 2.5])),
        seed=draw(st.integers(0, 1000)),
    )


def _route(logits: torch.Tensor, case: SimpleNamespace, **more: object) -> Routed:
    options = {k: v for k, v in vars(case).items() if k not in ("experts", "seed")}
    return route(logits, **options, **more)


@given(_cases())
def test_choices_and_weights_are_those_of_the_definition(case: SimpleNamespace):
    logits = 2 * _random(case.seed, 5, case.experts)
    # Negative enough that biased scores fall below 0, where a mask of zeros would win.
    bias = _random(case.seed + 1, case.experts) - 1.0
    routed = _route(logits, case, bias=bias)
    for token in range(5):
        expected = _by_hand(logits[token].tolist(), bias.tolist(), case)
        pairs = zip(routed.ids[token].tolist(), routed.weights[token].tolist(), strict=True)
        assert dict(pairs) == pytest.approx(expected, rel=1e-12)


def test_experts_outside_a_tokens_groups_lose_against_negative_scores():
    # Biased scores -0.1 (group 0) and -0.6 (group 1): with 0 for the masked group its experts
    # would be the largest.
    logits = torch.zeros(1, 4)
    bias = torch.tensor([-0.6, -0.6, -1.1, -1.1])
    routed = route(
        logits,
        scoring="sigmoid",
        top_k=2,
        groups=2,
        groups_per_token=1,
        bias=bias,
        normalize=True,
        scaling=1.0,
    )
    assert sorted(routed.ids[0].tolist()) == [0, 1]


@given(_cases())
def test_gradients_are_those_of_the_weights_alone(case: SimpleNamespace):
    logits = _random(case.seed, 3, case.experts).requires_grad_()
    bias = _random(case.seed + 1, case.experts).requires_grad_()
    routed = _route(logits, case, bias=bias)
    assert torch.autograd.gradcheck(lambda x: _route(x, case, bias=bias).weights, logits)
    routed.weights.square().sum().backward()
    assert bias.grad is None


@given(_cases())
def test_forced_experts_replace_the_choice_where_they_are_given(case: SimpleNamespace):
    logits = _random(case.seed, 6, case.experts)
    own = _route(logits, case)
    random = torch.Generator().manual_seed(case.seed)
    others = torch.stack([torch.randperm(case.experts, generator=random) for _ in range(6)])
    forced = others[:, : case.top_k].clone()
    forced[::2] = -1
    routed = _route(logits, case, forced=forced.to(torch.int16))
    assert torch.equal(routed.ids[::2], own.ids[::2])
    assert torch.equal(routed.weights[::2], own.weights[::2])
    assert torch.equal(routed.ids[1::2], forced[1::2])
    expected = own.scores.gather(1, routed.ids)
    if case.normalize:
        expected = expected / expected.sum(1, keepdim=True)
    torch.testing.assert_close(routed.weights, expected * case.scaling)


def test_a_forced_expert_that_the_router_dislikes_keeps_its_gradient():
    logits = torch.tensor([[9.0, 8.0, -3.0, -4.0]], requires_grad=True)
    forced = torch.tensor([[2, 3]])
    options = {"scoring": "softmax", "top_k": 2, "normalize": True, "scaling": 1.0}
    routed = route(logits, **options, forced=forced)
    # Normalised over the two: exp(-3) / (exp(-3) + exp(-4)) = sigmoid(1).
    torch.testing.assert_close(routed.weights[0, 0], torch.sigmoid(torch.tensor(1.0)))
    routed.weights[0, 0].backward()
    slope = float(torch.sigmoid(torch.tensor(1.0)) * torch.sigmoid(torch.tensor(-1.0)))
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, 0.0, slope, -slope]]))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ([1, 1], r"token 1 are \[1, 1\]"),
        ([0, 4], "different experts of 0 to 3"),
        ([-1, 2], "or -1 throughout"),
        ([-2, -2], "or -1 throughout"),
    ],
)
def test_forced_rows_that_no_router_could_have_made_are_refused(row: list[int], says: str):
    forced = torch.tensor([[0, 1], row, [-1, -1]])
    with pytest.raises(ValueError, match=says):
        route(
            torch.zeros(3, 4), scoring="softmax", top_k=2, normalize=True, scaling=1, forced=forced
        )


def test_forced_experts_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"\[N, k\] = \(3, 2\); got \(2, 2\)"):
        route(
            torch.zeros(3, 4),
            scoring="softmax",
            top_k=2,
            normalize=True,
            scaling=1.0,
            forced=torch.zeros(2, 2, dtype=torch.int64),
        )


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"top_k": 5}, "from 1 to the 4 experts in reach"),
        ({"top_k": 3, "groups": 2}, "from 1 to the 2 experts in reach"),
        ({"groups": 3}, "groups must divide the experts"),
        ({"groups_per_token": 2}, "a token uses 2"),
        ({"bias": torch.zeros(5)}, r"bias \[E\] or None"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes: dict[str, object], says: str):
    options = {"scoring": "softmax", "top_k": 1, "normalize": True, "scaling": 1.0} | sizes
    with pytest.raises(ValueError, match=says):
        route(torch.zeros(3, 4), **options)


def test_low_precision_logits_are_scored_in_float32():
    logits = _random(0, 4, 8).bfloat16()
    options = {"scoring": "sigmoid", "top_k": 2, "normalize": True, "scaling": 2.5}
    low, full = route(logits, **options), route(logits.float(), **options)
    assert low.weights.dtype == torch.float32
    assert torch.equal(low.weights, full.weights)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("groups", "groups_per_token"), [(1, 1), (8, 4), (4, 1)])
@pytest.mark.parametrize("normalize", [True, False])
def test_every_bit_is_that_of_transformers_deepseek_v3(
    device: str, groups: int, groups_per_token: int, normalize: bool
):
    config = DeepseekV3Config(
        hidden_size=16,
        n_routed_experts=64,
        num_experts_per_tok=8,
        n_group=groups,
        topk_group=groups_per_token,
        norm_topk_prob=normalize,
    )
    router = DeepseekV3TopkRouter(config).to(device)
    with torch.no_grad():
        router.weight.copy_(_random(0, 64, 16))
        router.e_score_correction_bias.copy_(0.3 * _random(1, 64))
    logits, weights, ids = router(_random(2, 500, 16).float().to(device))
    routed = route(
        logits,
        scoring="sigmoid",
        top_k=8,
        groups=groups,
        groups_per_token=groups_per_token,
        bias=router.e_score_correction_bias,
        normalize=normalize,
        scaling=router.routed_scaling_factor,
    )
    assert torch.equal(routed.ids, ids)
    assert torch.equal(routed.weights, weights)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("normalize", [True, False])
def test_every_bit_is_that_of_transformers_qwen3_moe(device: str, normalize: bool):
    config = Qwen3MoeConfig(
        hidden_size=16, num_experts=64, num_experts_per_tok=8, norm_topk_prob=normalize
    )
    router = Qwen3MoeTopKRouter(config).to(device)
    with torch.no_grad():
        router.weight.copy_(_random(0, 64, 16))
    logits, weights, ids = router(_random(2, 500, 16).float().to(device))
    routed = route(logits, scoring="softmax", top_k=8, normalize=normalize, scaling=1.0)
    assert torch.equal(routed.ids, ids)
    assert torch.equal(routed.weights, weights)


# --- sequence_balance_loss -------------------------------------------------------------------


def _loss_by_hand(
    scores: torch.Tensor, ids: torch.Tensor, sequence: list[int], weights: list[float]
) -> float:
    num_experts, top_k, total = scores.shape[1], ids.shape[1], 0.0
    for index, weight in enumerate(weights):
        tokens = [n for n, owner in enumerate(sequence) if owner == index]
        for expert in range(num_experts):
            if tokens:
                count = sum(expert in ids[n].tolist() for n in tokens)
                frequency = num_experts / (top_k * len(tokens)) * count
                shares = [float(scores[n, expert]) / float(scores[n].sum()) for n in tokens]
                total += weight * frequency * sum(shares) / len(tokens)
    return total


_SEQUENCES = st.lists(st.integers(-1, 3), min_size=1, max_size=12)


@given(_SEQUENCES, st.integers(1, 3), st.integers(0, 1000))
def test_the_balance_loss_is_that_of_the_definition(sequence: list[int], top_k: int, seed: int):
    scores = _random(seed, len(sequence), 5).sigmoid()
    ids = scores.topk(top_k).indices
    weights = [0.5, 0.0, 2.0, 1.0]
    loss = sequence_balance_loss(scores, ids, torch.tensor(sequence), torch.tensor(weights))
    assert float(loss) == pytest.approx(_loss_by_hand(scores, ids, sequence, weights), rel=1e-12)


@given(_SEQUENCES, st.integers(0, 1000))
def test_the_balance_loss_is_the_sum_of_its_sequences(sequence: list[int], seed: int):
    scores = _random(seed, len(sequence), 5).sigmoid()
    ids, owner = scores.topk(2).indices, torch.tensor(sequence)
    weights = _random(seed + 1, 4).abs()
    whole = sequence_balance_loss(scores, ids, owner, weights)
    parts = [
        sequence_balance_loss(scores[owner == s], ids[owner == s], owner[owner == s] - s, w[None])
        for s, w in enumerate(weights)
    ]
    torch.testing.assert_close(whole, torch.stack(parts).sum())


def test_the_balance_loss_differentiates_shares_and_not_counts():
    scores = _random(0, 7, 5).sigmoid().requires_grad_()
    ids, owner = scores.topk(2).indices, torch.tensor([0, 0, 1, 1, 1, -1, 0])
    weights = torch.tensor([1.0, 3.0], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: sequence_balance_loss(s, ids, owner, weights), (scores,)
    )
    (grad,) = torch.autograd.grad(sequence_balance_loss(scores, ids, owner, weights), scores)
    assert not grad[5].any()  # padding
    assert grad[:5].abs().sum() > 0


def test_an_even_load_costs_the_weight_and_a_collapsed_one_more():
    # Two experts of four for each of two tokens, all four once: f = 1, so the loss is sum_i P_i.
    even = torch.tensor([[0, 1], [2, 3]])
    scores = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]])
    owner, weight = torch.zeros(2, dtype=torch.int64), torch.tensor([0.25])
    assert float(sequence_balance_loss(scores, even, owner, weight)) == pytest.approx(0.25)
    # Both at experts 0 and 1: f = 2 there, P = 0.5 * (0.4 + 0.1) + 0.5 * (0.3 + 0.2) = 0.5.
    # With scores that follow the load, P = 0.7 and the loss 0.25 * 2 * 0.7.
    both = torch.tensor([[0, 1], [0, 1]])
    assert float(sequence_balance_loss(scores, both, owner, weight)) == pytest.approx(0.25)
    follow = scores[:1].expand(2, 4)
    assert float(sequence_balance_loss(follow, both, owner, weight)) == pytest.approx(0.35)


def test_the_balance_loss_refuses_sizes_that_disagree():
    with pytest.raises(ValueError, match="sequence_balance_loss needs"):
        sequence_balance_loss(
            torch.ones(3, 4),
            torch.zeros(2, 1, dtype=torch.int64),
            torch.zeros(3, dtype=torch.int64),
            torch.ones(1),
        )

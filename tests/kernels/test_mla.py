"""Tests for kernels/mla.py: both forms against each other, a brute-force sum and transformers."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DeepseekV3Config
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention

from cotree.grpo.config_model import NewDeepseekModel
from cotree.kernels.mla import (
    absorbed,
    absorbed_weights,
    latent_cache_bytes,
    naive,
    plain_cache_bytes,
    rotated,
    stacked_weight,
)


def normal(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


def inputs(rows=2, asking=5, attended=5, heads=3, nope=4, rope=6, value=5, rank=7):
    """query, latent, key_rope, kv_b_weight, each of its own seed."""
    return (
        normal(rows, asking, heads, nope + rope, seed=0),
        normal(rows, attended, rank, seed=1),
        normal(rows, attended, rope, seed=2),
        normal(heads * (nope + value), rank, seed=3),
    )


def by_absorption(query, latent, key_rope, kv_b_weight, *, nope, value, scale):
    w_uk, w_uv = absorbed_weights(kv_b_weight, query.shape[2], nope, value)
    return absorbed(query, latent, key_rope, w_uk, w_uv, scale=scale)


# --- one form against the other ---------------------------------------------------------------


@settings(max_examples=30)
@given(
    asking=st.integers(1, 6),
    earlier=st.integers(0, 4),
    heads=st.integers(1, 4),
    nope=st.integers(1, 5),
    rope=st.integers(1, 4),
    value=st.integers(1, 6),
    rank=st.integers(1, 9),
)
def test_both_forms_are_the_same_function(asking, earlier, heads, nope, rope, value, rank):
    leaves = inputs(2, asking, asking + earlier, heads, nope, rope, value, rank)
    scale = (nope + rope) ** -0.5
    plain = naive(*leaves, scale=scale)
    latent = by_absorption(*leaves, nope=nope, value=value, scale=scale)
    assert plain.shape == (2, asking, heads, value)
    torch.testing.assert_close(latent, plain, rtol=1e-12, atol=1e-12)
    weight = normal(*plain.shape, seed=9).detach()
    expected = torch.autograd.grad((plain * weight).sum(), leaves)
    found = torch.autograd.grad((latent * weight).sum(), leaves)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_attention_is_the_sum_that_the_paper_writes():
    query, latent, key_rope, weight = (leaf.detach() for leaf in inputs())
    scale, nope, value = 0.3, 4, 5
    found = naive(query, latent, key_rope, weight, scale=scale)
    for row, t, head in [(0, 0, 0), (1, 2, 1), (1, 4, 2)]:
        of_head = weight[head * (nope + value) : (head + 1) * (nope + value)]
        weights, values = [], []
        for s in range(t + 1):  # itself and what was before
            key = torch.cat([of_head[:nope] @ latent[row, s], key_rope[row, s]])
            weights.append(math.exp(scale * float(query[row, t, head] @ key)))
            values.append(of_head[nope:] @ latent[row, s])
        expected = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
        torch.testing.assert_close(found[row, t, head], expected, rtol=1e-12, atol=1e-12)


def test_absorbed_weights_are_stacked_back_to_the_same_bits():
    weight = torch.randn(4 * (3 + 5), 7, generator=torch.Generator().manual_seed(0))
    w_uk, w_uv = absorbed_weights(weight, 4, 3, 5)
    assert (w_uk.shape, w_uv.shape) == ((4, 3, 7), (4, 7, 5))
    assert torch.equal(stacked_weight(w_uk, w_uv), weight)
    assert not torch.equal(stacked_weight(w_uk.flip(0), w_uv), weight)  # no head takes another's


def test_a_token_at_a_time_from_the_latent_cache_is_the_whole_forward():
    query, latent, key_rope, weight = (leaf.detach() for leaf in inputs(asking=6, attended=6))
    whole = naive(query, latent, key_rope, weight, scale=0.3)
    for t in range(6):
        cache = latent[:, : t + 1], key_rope[:, : t + 1]  # all that was kept of earlier tokens
        step = by_absorption(query[:, t : t + 1], *cache, weight, nope=4, value=5, scale=0.3)
        torch.testing.assert_close(step[:, 0], whole[:, t], rtol=1e-12, atol=1e-12)


# --- positions --------------------------------------------------------------------------------


def test_a_pair_turns_by_its_own_angle():
    # Two pairs at position 3: (1, 0) by 3 rad, (0, 1) by 3 * 100^(-2/4) = 0.3 rad.
    values = torch.tensor([[[1.0, 0.0, 0.0, 1.0]]], dtype=torch.float64)
    turned = rotated(values, torch.tensor([3]), base=100.0)
    expected = [math.cos(3), math.sin(3), -math.sin(0.3), math.cos(0.3)]
    torch.testing.assert_close(turned[0, 0], torch.tensor(expected, dtype=torch.float64))


@given(shift=st.integers(0, 1000))
def test_scores_depend_on_the_distance_of_positions_alone(shift: int):
    query = normal(1, 4, 2, 8, seed=0).detach()
    key = normal(1, 4, 8, seed=1).detach()

    def scores(start: int) -> torch.Tensor:
        positions = torch.arange(4) + start
        turned = (rotated(values, positions, base=10_000.0) for values in (query, key))
        return torch.einsum("bthr,bsr->bhts", *turned)

    torch.testing.assert_close(scores(shift), scores(0), rtol=0, atol=1e-11)


# --- transformers -----------------------------------------------------------------------------


def attention(query_rank: int | None) -> DeepseekV3Attention:
    config = DeepseekV3Config(
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        q_lora_rank=query_rank,
        kv_lora_rank=10,
        qk_nope_head_dim=6,
        qk_rope_head_dim=4,
        v_head_dim=5,
        attn_implementation="eager",
    )
    module = DeepseekV3Attention(config, layer_idx=0).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4 + 0.1)
    return module


def latent_attention(module: DeepseekV3Attention, hidden: torch.Tensor, *, absorb: bool):
    """The module's output by this file's functions from its own linear layers and norms."""
    if module.q_lora_rank is None:
        query = module.q_proj(hidden)
    else:
        query = module.q_b_proj(module.q_a_layernorm(module.q_a_proj(hidden)))
    positions = torch.arange(hidden.shape[1])
    query_nope, query_rope = query.unflatten(-1, (3, 10)).split([6, 4], -1)
    query = torch.cat([query_nope, rotated(query_rope, positions, base=10_000.0)], -1)
    latent, key_rope = module.kv_a_proj_with_mqa(hidden).split([10, 4], -1)
    latent, key_rope = module.kv_a_layernorm(latent), rotated(key_rope, positions, base=10_000.0)
    leaves = (query, latent, key_rope, module.kv_b_proj.weight)
    if absorb:
        mixed = by_absorption(*leaves, nope=6, value=5, scale=module.scaling)
    else:
        mixed = naive(*leaves, scale=module.scaling)
    return module.o_proj(mixed.flatten(2))


@pytest.mark.parametrize("absorb", [False, True])
@pytest.mark.parametrize("query_rank", [None, 8])
def test_both_forms_are_what_transformers_computes(query_rank: int | None, absorb: bool):
    module = attention(query_rank)
    hidden = normal(2, 9, 24, seed=5)
    # Its tables of cosines hold the angle of pair i in columns i and i + R / 2.
    angles = torch.arange(9, dtype=torch.float64)[:, None] * 10_000.0 ** -torch.tensor([0.0, 0.5])
    angles = torch.cat([angles, angles], -1)[None]
    mask = torch.full((9, 9), float("-inf"), dtype=torch.float64).triu(1)[None, None]
    theirs, _ = module(hidden, (angles.cos(), angles.sin()), mask)
    mine = latent_attention(module, hidden, absorb=absorb)
    assert module.scaling == 10**-0.5
    # Its softmax is in float32.
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    wanted = [hidden, *module.parameters()]
    weight = normal(*theirs.shape, seed=6).detach()
    expected = torch.autograd.grad((theirs * weight).sum(), wanted)
    found = torch.autograd.grad((mine * weight).sum(), wanted)
    for gradient, reference in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-4)


# --- caches -----------------------------------------------------------------------------------


def test_deepseek_v3_caches_a_71st_of_its_keys_and_values():
    # 512 + 64 = 576 values against 128 * (192 + 128) = 40,960, in 61 layers of 2 bytes.
    latent = latent_cache_bytes(layers=61, kv_rank=512, rope_dim=64, element_bytes=2)
    plain = plain_cache_bytes(layers=61, heads=128, key_dim=192, value_dim=128, element_bytes=2)
    assert (latent, plain) == (61 * 576 * 2, 61 * 40_960 * 2)
    assert plain / latent == pytest.approx(71.1, abs=0.05)


def test_a_tiny_models_latents_pay_from_five_heads_on():
    # The latent keeps DeepSeek's own width, the only one vLLM's CPU kernel takes, while a head of
    # the default model has 32 + 64 + 32 = 128 values: 4 heads make 512 < 576, 5 make 640; a
    # quarter, 576 <= 128 H / 4, from 18 heads on.
    sizes = NewDeepseekModel(type="new_deepseek_v3")
    latent = latent_cache_bytes(
        layers=1, kv_rank=sizes.kv_rank, rope_dim=sizes.rope_dim, element_bytes=2
    )

    def plain(heads: int) -> int:
        key = sizes.nope_dim + sizes.rope_dim
        return plain_cache_bytes(
            layers=1, heads=heads, key_dim=key, value_dim=sizes.value_dim, element_bytes=2
        )

    assert sizes.heads == 4
    assert latent / plain(sizes.heads) == 1.125
    assert plain(4) < latent < plain(5)
    assert plain(17) < 4 * latent <= plain(18)


# --- what is refused --------------------------------------------------------------------------


def test_a_weight_of_other_heads_is_refused():
    with pytest.raises(ValueError, match=r"2 heads with 3 \+ 5 rows each must be \[16, L\].*24"):
        absorbed_weights(torch.zeros(24, 7), 2, 3, 5)


@pytest.mark.parametrize("form", ["naive", "absorbed"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": (2, 6, 3, 10)}, "6 tokens ask but only 5 are attended to"),
        ({"latent": (2, 4, 7)}, "latent attention needs query"),
        ({"key_rope": (1, 5, 6)}, "latent attention needs query"),
        ({"latent": (1, 5, 7), "key_rope": (1, 5, 6)}, "latent attention needs query"),
    ],
)
def test_shapes_that_broadcasting_would_hide_are_refused(form, change, message):
    shapes = {"query": (2, 5, 3, 10), "latent": (2, 5, 7), "key_rope": (2, 5, 6)} | change
    tensors = [torch.zeros(shape) for shape in shapes.values()]
    weight = torch.zeros(27, 7)
    if form == "absorbed":
        weights, function = absorbed_weights(weight, 3, 4, 5), absorbed
    else:
        weights, function = (weight,), naive
    with pytest.raises(ValueError, match=message):
        function(*tensors, *weights, scale=1.0)

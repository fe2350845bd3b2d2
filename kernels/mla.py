"""Multi-head latent attention: naive, as it is trained, and absorbed, as it is decoded.

A token stores one latent c and one key k_R with position, for all heads together. The naive form
expands both into keys and values of every head; the absorbed one never does, and attends to the
latents themselves. Both compute the same function.

Shapes: B rows, T tokens that ask, S >= T tokens that are attended to, H heads, N width of a key
without position, R width with position, V width of a value, L width of the latent.

Source: DeepSeek-AI 2024, arXiv:2405.04434, sec. 2.1 and appendix C; arXiv:2412.19437, sec. 2.1.1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def absorbed_weights(
    kv_b_weight: Tensor, heads: int, nope_dim: int, value_dim: int
) -> tuple[Tensor, Tensor]:
    """The two halves of `kv_b_proj`: W_UK joins the query, W_UV the output.

        key_h   = W_UK_h c        so  q_h . key_h        = (W_UK_h^T q_h) . c
        value_h = W_UV_h^T c      so  sum_s a_s value_hs = W_UV_h^T (sum_s a_s c_s)

    Args:
        kv_b_weight: [H * (N + V), L] as a checkpoint stores it: for each head N rows of keys,
            then V rows of values.
        heads: H.
        nope_dim: N.
        value_dim: V.

    Returns:
        W_UK [H, N, L] and W_UV [H, L, V], views that carry the gradient to `kv_b_weight`.

    Raises:
        ValueError: the weight has another number of rows.
    """
    if kv_b_weight.ndim != 2 or len(kv_b_weight) != heads * (nope_dim + value_dim):
        raise ValueError(
            f"kv_b_weight of {heads} heads with {nope_dim} + {value_dim} rows each must be "
            f"[{heads * (nope_dim + value_dim)}, L]; got {tuple(kv_b_weight.shape)}."
        )
    by_head = kv_b_weight.unflatten(0, (heads, -1))
    return by_head[:, :nope_dim], by_head[:, nope_dim:].transpose(1, 2)


def stacked_weight(w_uk: Tensor, w_uv: Tensor) -> Tensor:
    """[H * (N + V), L] the `kv_b_proj` whose `absorbed_weights` are W_UK [H, N, L], W_UV [H, L, V].

    Exact: only the order of the elements differs.
    """
    return torch.cat([w_uk, w_uv.transpose(1, 2)], 1).flatten(0, 1)


def rotated(values: Tensor, positions: Tensor, *, base: float) -> Tensor:
    """Rotary position embedding of interleaved pairs.

        (x_2i + j x_2i+1) * exp(j * position * base^(-2i / R))      with j^2 = -1

    transformers moves the first halves of the pairs before the second ones, which no product of
    a query and a key can tell.

    Args:
        values: [B, T, R] a key, or [B, T, H, R] queries; R is even. Carries the gradient.
        positions: [T] of the tokens, from 0.
        base: 10,000 for DeepSeek-V3.

    Returns:
        The shape of `values`, in its dtype; the angles are computed in float64.

    Source: Su et al. 2021, arXiv:2104.09864, sec. 3.2.2.
    """
    width = values.shape[-1]
    steps = torch.arange(0, width, 2, dtype=torch.float64, device=values.device) / width
    angles = positions.to(torch.float64)[:, None] * base**-steps
    if values.ndim == 4:
        angles = angles[:, None]
    cos, sin = angles.cos().to(values.dtype), angles.sin().to(values.dtype)
    even, odd = values[..., 0::2], values[..., 1::2]
    return torch.stack([even * cos - odd * sin, odd * cos + even * sin], -1).flatten(-2)


def naive(
    query: Tensor, latent: Tensor, key_rope: Tensor, kv_b_weight: Tensor, *, scale: float
) -> Tensor:
    """Attention with the keys and values of every head written out.

        k_h = [W_UK_h c ; k_R],  v_h = W_UV_h^T c
        out = softmax(scale * q_h . k_h) v_h        over the tokens up to the query's own

    Args:
        query: [B, T, H, N + R] of the last T of the S tokens, the last R columns rotated.
        latent: [B, S, L] c, after its norm.
        key_rope: [B, S, R] k_R, rotated; shared by the heads.
        kv_b_weight: [H * (N + V), L].
        scale: of the scores; (N + R)^-0.5, times mscale^2 with YaRN.

    Returns:
        [B, T, H, V] before the output projection. All tensors carry the gradient.

    Raises:
        ValueError: the shapes do not fit together.
    """
    heads, nope_dim = query.shape[2], query.shape[3] - key_rope.shape[2]
    _check(query, latent, key_rope)
    expanded = (latent @ kv_b_weight.T).unflatten(-1, (heads, -1))
    key_nope, value = expanded.split([nope_dim, expanded.shape[-1] - nope_dim], -1)
    key = torch.cat([key_nope, key_rope[:, :, None].expand(-1, -1, heads, -1)], -1)
    scores = torch.einsum("bthd,bshd->bhts", query, key) * scale
    return torch.einsum("bhts,bshv->bthv", _causal_softmax(scores), value)


def absorbed(
    query: Tensor, latent: Tensor, key_rope: Tensor, w_uk: Tensor, w_uv: Tensor, *, scale: float
) -> Tensor:
    """The same attention on the latents: one key of width L + R and one value c for all heads.

        out = W_UV_h^T softmax(scale * ((W_UK_h^T q_N) . c + q_R . k_R)) c

    Args:
        query: [B, T, H, N + R] of the last T of the S tokens, the last R columns rotated.
        latent: [B, S, L] c, after its norm; with `key_rope` all that a cache keeps.
        key_rope: [B, S, R] k_R, rotated.
        w_uk: [H, N, L] of `absorbed_weights`.
        w_uv: [H, L, V] of `absorbed_weights`.
        scale: as for `naive`.

    Returns:
        [B, T, H, V] before the output projection. All tensors carry the gradient.

    Raises:
        ValueError: the shapes do not fit together.
    """
    _check(query, latent, key_rope)
    query_nope, query_rope = query.split([w_uk.shape[1], key_rope.shape[2]], -1)
    query_latent = torch.einsum("bthn,hnl->bthl", query_nope, w_uk)
    scores = torch.einsum("bthl,bsl->bhts", query_latent, latent)
    scores = scores + torch.einsum("bthr,bsr->bhts", query_rope, key_rope)
    mixed = torch.einsum("bhts,bsl->bthl", _causal_softmax(scores * scale), latent)
    return torch.einsum("bthl,hlv->bthv", mixed, w_uv)


def latent_cache_bytes(*, layers: int, kv_rank: int, rope_dim: int, element_bytes: int) -> int:
    """Bytes that one token's latents and shared keys take in a cache, however many heads there are.

        layers * (L + R) * bytes of an element

    Pays once H * (N + R + V) > L + R; see `plain_cache_bytes`.

    Args:
        layers: with attention.
        kv_rank: L.
        rope_dim: R.
        element_bytes: 2 in bfloat16.
    """
    return layers * (kv_rank + rope_dim) * element_bytes


def plain_cache_bytes(
    *, layers: int, heads: int, key_dim: int, value_dim: int, element_bytes: int
) -> int:
    """Bytes that one token's keys and values of each head take in a cache.

        layers * H * (key_dim + value_dim) * bytes of an element

    Args:
        layers: with attention.
        heads: that have keys of their own.
        key_dim: N + R of multi-head latent attention that was expanded.
        value_dim: V.
        element_bytes: 2 in bfloat16.
    """
    return layers * heads * (key_dim + value_dim) * element_bytes


def _check(query: Tensor, latent: Tensor, key_rope: Tensor) -> None:
    if latent.shape[:2] != key_rope.shape[:2] or query.shape[0] != latent.shape[0]:
        raise ValueError(
            "latent attention needs query [B, T, H, N + R], latent [B, S, L], key_rope [B, S, R]; "
            f"got {tuple(query.shape)}, {tuple(latent.shape)}, {tuple(key_rope.shape)}."
        )
    if query.shape[1] > latent.shape[1]:
        raise ValueError(
            f"{query.shape[1]} tokens ask but only {latent.shape[1]} are attended to; the latents "
            "must include those of the asking tokens, at the end."
        )


def _causal_softmax(scores: Tensor) -> Tensor:
    """[B, H, T, S] attention of the last T of S tokens, each to itself and those before it."""
    num_asking, num_attended = scores.shape[-2:]
    allowed = torch.ones(num_asking, num_attended, dtype=torch.bool, device=scores.device)
    allowed = allowed.tril(num_attended - num_asking)
    return scores.masked_fill(~allowed, float("-inf")).softmax(-1)

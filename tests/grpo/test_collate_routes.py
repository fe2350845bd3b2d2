"""Tests for grpo/collate.py: recorded experts on their way into a batch."""

import base64
from dataclasses import replace

import pytest
import torch
from enumerable import group_of, rollout

from cotree.grpo.collate import collate, micro_batches, rows_at, shard
from cotree.grpo.config_algorithm import Advantage
from cotree.grpo.types import Batch, Group, Routes

LAYERS, PER_TOKEN = 3, 2


def expert(row: int, token: int, layer: int, choice: int) -> int:
    """Different at every place, and above 255 for some."""
    return 1000 * row + 10 * token + 2 * layer + choice


def routes(row: int, tokens: int, *, layers: int = LAYERS) -> Routes:
    ids = [
        expert(row, token, layer, choice)
        for token in range(tokens)
        for layer in range(layers)
        for choice in range(PER_TOKEN)
    ]
    stored = b"".join(number.to_bytes(2, "little") for number in ids)
    return Routes(layers, PER_TOKEN, base64.b64encode(stored).decode())


def group(texts: list[str], *, recorded: bool = True, layers: int = LAYERS) -> Group:
    """Completions of the prompt (1, 2) with a token for each character of their text."""
    plain = group_of("a", *(rollout(float(n), text=t) for n, t in enumerate(texts)), prompt=(1, 2))
    rollouts = tuple(
        replace(one, completion=replace(one.completion, routes=found))
        for row, one in enumerate(plain.rollouts)
        for found in [routes(row, 1 + len(texts[row]), layers=layers) if recorded else None]
    )
    return replace(plain, rollouts=rollouts)


def batch_of(groups: list[Group]) -> Batch:
    return collate(
        groups,
        advantage=Advantage(),
        first_term="answer",
        aggregation="token_mean",
        max_tokens=10,
        mask_truncated=False,
    )


def test_every_token_but_the_last_has_the_experts_recorded_for_it():
    found = batch_of([group(["ABC", "A"])]).routes
    assert found is not None
    assert (found.shape, found.dtype) == ((2, 5, LAYERS, PER_TOKEN), torch.int16)
    for row, tokens in enumerate((4, 2)):  # 2 of the prompt, 3 and 1 sampled, less the last
        for token in range(5):
            expected = [
                [expert(row, token, layer, c) if token < tokens else -1 for c in range(PER_TOKEN)]
                for layer in range(LAYERS)
            ]
            assert found[row, token].tolist() == expected


def test_without_routes_a_batch_has_none():
    assert batch_of([group(["ABC", "A"], recorded=False)]).routes is None


def test_routes_stay_with_their_rows_however_a_batch_is_cut():
    batch = batch_of([group(["A", "ABC", "AB"])])
    assert batch.routes is not None
    pieces = [
        *micro_batches(batch, max_tokens=5),
        *(shard(batch, rank=rank, world_size=2) for rank in range(2)),
        rows_at(batch, torch.tensor([1, 0])),
    ]
    rows = {tuple(row.tolist()): at for at, row in enumerate(batch.token_ids)}
    for piece in pieces:
        assert piece.routes is not None
        width = piece.token_ids.shape[1]
        for ids, found in zip(piece.token_ids, piece.routes, strict=True):
            row = rows[(*ids.tolist(), *[0] * (5 - width))]
            assert torch.equal(found, batch.routes[row, :width])


@pytest.mark.parametrize("other", [group(["AB", "A"], recorded=False), group(["AB"], layers=2)])
def test_rollouts_with_and_without_routes_do_not_mix(other: Group):
    with pytest.raises(ValueError, match="routes of different layers and experts per token"):
        batch_of([group(["ABC", "A"]), other])


def test_routes_of_another_length_name_the_problem():
    whole = group(["ABC", "A"])
    first, second = whole.rollouts
    wrong = replace(first, completion=replace(first.completion, routes=second.completion.routes))
    with pytest.raises(ValueError, match=r"'a': 12 experts are not those of 4 tokens in 3 layers"):
        batch_of([replace(whole, rollouts=(wrong, second))])

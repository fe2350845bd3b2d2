"""Tests for grpo/engine_trees.py, with pieces drawn by a seeded toy instead of an engine."""

import base64
import random
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cotree.grpo.engine_trees import Drawn, Piece, RequestSamples
from cotree.grpo.rollout_stats import generated_tokens
from cotree.grpo.types import (
    Completion,
    Group,
    Problem,
    Rollout,
    Routes,
    SampleRequest,
    TreePlan,
)
from cotree.rewards.types import Reward

PROBLEM = Problem("p", "q", "1", "test")
PROMPT = (7, 8)
MAX_TOKENS = 12
LAYERS, PER_TOKEN = 3, 2
ROW = 2 * LAYERS * PER_TOKEN
"""Bytes of a token's experts."""

plans = st.builds(
    TreePlan,
    chains=st.integers(1, 4),
    points=st.integers(1, 4),
    forks=st.integers(1, 3),
    branch=st.sampled_from(["entropy", "uniform", "step"]),
)


def request(plan: TreePlan | None, *, seeds: int | None = None) -> SampleRequest:
    count = plan.num_leaves if plan else seeds or 0
    return SampleRequest(PROBLEM, PROMPT, tuple(range(100, 100 + count)), plan)


def toy(piece: Piece) -> Drawn:
    """Up to `max_tokens` tokens: newlines and letters, then a stop token (0) if there is room."""
    rng = random.Random(repr((piece.prompt_ids, piece.seed)))
    tokens = [rng.choice([10, 97, 98]) for _ in range(rng.randrange(MAX_TOKENS))] + [0]
    tokens = tokens[: piece.max_tokens]
    computed = len(piece.prompt_ids) + len(tokens) - 1
    return Drawn(
        token_ids=tuple(tokens),
        logprobs=tuple(-rng.random() for _ in tokens),
        stop_reason="stop" if tokens[-1] == 0 else "length",
        entropies=tuple(rng.random() for _ in tokens) if piece.with_entropies else (),
        routes=Routes(LAYERS, PER_TOKEN, base64.b64encode(rng.randbytes(ROW * computed)).decode()),
    )


def rows(routes: Routes | None) -> list[bytes]:
    """The experts of each token."""
    assert routes is not None
    assert (routes.layers, routes.per_token) == (LAYERS, PER_TOKEN)
    ids = base64.b64decode(routes.ids)
    return [ids[start : start + ROW] for start in range(0, len(ids), ROW)]


def complete(drawn: Drawn) -> Completion:
    text = "".join(map(chr, drawn.token_ids))
    ends = tuple(range(1, len(text) + 1))
    return Completion(
        drawn.token_ids, drawn.logprobs, text, ends, drawn.stop_reason, 5, routes=drawn.routes
    )


def sampled(
    asked: SampleRequest, *, order: random.Random
) -> tuple[tuple[Completion, ...], dict[int, tuple[Piece, Drawn]]]:
    """The leaves, and what was drawn for each, when pieces finish in any order."""
    samples = RequestSamples(asked, max_tokens=MAX_TOKENS, complete=complete)
    waiting, log = samples.first(), {}
    while waiting:
        assert not samples.is_whole
        piece = waiting.pop(order.randrange(len(waiting)))
        log[piece.leaf] = (piece, toy(piece))
        waiting += samples.take(piece.leaf, log[piece.leaf][1])
    assert samples.is_whole
    return samples.leaves, log


@given(plans, st.randoms(use_true_random=False))
def test_leaves_do_not_depend_on_which_piece_is_there_first(plan: TreePlan, order: random.Random):
    leaves, log = sampled(request(plan), order=order)
    assert leaves == sampled(request(plan), order=random.Random(0))[0]
    assert len(leaves) == plan.num_leaves
    assert [log[leaf][0].seed for leaf in range(len(leaves))] == list(request(plan).seeds)


@given(plans, st.randoms(use_true_random=False))
def test_a_leaf_is_its_stem_as_sampled_and_what_was_drawn_after_it(
    plan: TreePlan, order: random.Random
):
    leaves, log = sampled(request(plan), order=order)
    for leaf, completion in enumerate(leaves):
        piece, drawn = log[leaf]
        shared = len(piece.prompt_ids) - len(PROMPT)
        assert PROMPT + completion.token_ids == piece.prompt_ids + drawn.token_ids
        assert completion.logprobs[shared:] == drawn.logprobs
        assert completion.stop_reason == drawn.stop_reason
        assert piece.max_tokens == MAX_TOKENS - shared
        assert (completion.stop_reason == "length") == (
            len(completion.token_ids) == MAX_TOKENS and completion.token_ids[-1] != 0
        )
        assert completion.text == "".join(map(chr, completion.token_ids))


@given(plans, st.randoms(use_true_random=False))
def test_leaves_with_a_node_in_common_share_all_tokens_up_to_its_end(
    plan: TreePlan, order: random.Random
):
    leaves, _ = sampled(request(plan), order=order)
    prefixes: dict[int, tuple[object, ...]] = {}
    for completion in leaves:
        ends = [0, *(segment.end for segment in completion.segments)]
        assert all(start < end for start, end in pairwise(ends))
        assert ends[-1] == len(completion.token_ids)
        for node, end in completion.segments:
            prefix = (completion.token_ids[:end], completion.logprobs[:end])
            assert prefixes.setdefault(node, prefix) == prefix
    own = [completion.segments[-1].node for completion in leaves]
    assert len(set(own)) == len(own)  # where a leaf ends, it is alone


@given(plans, st.randoms(use_true_random=False))
def test_a_logprob_that_leaves_share_is_replayed_with_the_same_experts_in_all_of_them(
    plan: TreePlan, order: random.Random
):
    leaves, log = sampled(request(plan), order=order)
    shared: dict[int, list[bytes]] = {}
    for leaf, completion in enumerate(leaves):
        piece, drawn = log[leaf]
        found = rows(completion.routes)
        assert len(found) == len(PROMPT) + len(completion.token_ids) - 1
        for node, end in completion.segments:
            # The last log-probability of the node comes from the token before its last.
            before = found[: len(PROMPT) + end - 1]
            assert shared.setdefault(node, before) == before
        # What a leaf drew by itself comes from its own choices, the first from those of the last
        # token that it continues.
        own = len(piece.prompt_ids) - 1
        assert found[own:] == rows(drawn.routes)[own:]


@given(plans, st.randoms(use_true_random=False))
def test_the_nodes_of_a_group_hold_what_was_drawn_and_nothing_twice(
    plan: TreePlan, order: random.Random
):
    leaves, log = sampled(request(plan), order=order)
    group = Group(PROBLEM, PROMPT, tuple(Rollout(leaf, Reward(0.0, "")) for leaf in leaves))
    assert generated_tokens(group) == sum(len(drawn.token_ids) for _, drawn in log.values())


def test_a_chain_too_short_to_branch_gets_whole_new_completions():
    plan = TreePlan(chains=1, points=2, forks=2, branch="uniform")
    samples = RequestSamples(request(plan), max_tokens=MAX_TOKENS, complete=complete)
    # Of three tokens only position 1 lies inside; two positions were wanted.
    pieces = samples.take(0, Drawn((97, 98, 0), (-1.0, -2.0, -3.0), "stop", ()))
    assert [piece.prompt_ids for piece in pieces] == [(*PROMPT, 97)] * 2 + [PROMPT] * 2
    assert [piece.max_tokens for piece in pieces] == [11, 11, 12, 12]
    for piece in pieces:
        samples.take(piece.leaf, Drawn((98, 0), (-4.0, -5.0), "stop", ()))
    chain, fork, _, new, _ = samples.leaves
    assert chain.segments == ((0, 1), (1, 3))
    assert (fork.segments, fork.logprobs) == (((0, 1), (3, 3)), (-1.0, -4.0, -5.0))
    assert (new.segments, new.token_ids) == (((5, 2),), (98, 0))  # M * T + leaf = 2 + 3


def test_without_a_plan_completions_are_sampled_alone():
    leaves, log = sampled(request(None, seeds=3), order=random.Random(1))
    assert [leaf.segments for leaf in leaves] == [()] * 3
    assert [piece.prompt_ids for piece, _ in log.values()] == [PROMPT] * 3
    assert not any(piece.with_entropies for piece, _ in log.values())

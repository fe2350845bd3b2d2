"""Tests for grpo/engine_routes.py: the recorder alone, and in one real vLLM engine.

The engine's key-value cache holds two of the longest requests, so that vLLM takes others out of
the batch and starts over with them.
"""

import base64
import random
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import reference_models as reference
import torch
from engine_host import Host, request
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from safetensors.torch import load_file
from tiny_experts import write_deepseek_v3, write_qwen3_moe
from tiny_models import write_character_tokenizer

from cotree.grpo import config
from cotree.grpo.collate import collate
from cotree.grpo.config_algorithm import Advantage
from cotree.grpo.engine import Generator, Sampling
from cotree.grpo.engine_routes import RouteRecorder, Run, runs_of, with_first_rows
from cotree.grpo.kl import k3
from cotree.grpo.policy import policy_logprobs
from cotree.grpo.routers import Routers
from cotree.grpo.types import Batch, Completion, Group, Rollout, Routes, SampleRequest, TreePlan
from cotree.grpo.weights import make_update
from cotree.rewards.types import Reward

# The engine's process cannot import this file, whose functions it runs.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LAYERS, PER_TOKEN, EXPERTS = 3, 2, 8


def read(routes: Routes | None) -> np.ndarray:
    """[T, layers, k]."""
    assert routes is not None
    ids = np.frombuffer(base64.b64decode(routes.ids), dtype="<u2")
    return ids.reshape(-1, routes.layers, routes.per_token)


@given(st.integers(1, 6), st.integers(0, 5), st.integers(0, 5))
def test_the_first_tokens_of_other_routes_replace_as_many(tokens: int, own: int, other: int):
    def routes(length: int, expert: int) -> Routes:
        ids = np.full((tokens + length, LAYERS, PER_TOKEN), expert, dtype="<u2")
        return Routes(LAYERS, PER_TOKEN, base64.b64encode(ids.tobytes()).decode())

    found = read(with_first_rows(routes(own, 1), routes(other, 2), tokens=tokens))
    assert found.shape == (tokens + own, LAYERS, PER_TOKEN)
    assert (found[:tokens] == 2).all()
    assert (found[tokens:] == 1).all()


# --- the recorder alone ----------------------------------------------------------------------


class Toy:
    """A recorder, and passes of a made-up engine: token p of request r has its own experts."""

    def __init__(self) -> None:
        self.recorder = RouteRecorder(layers=LAYERS, per_token=PER_TOKEN, experts=EXPERTS)

    def experts(self, request: str, position: int, layer: int) -> list[int]:
        seed = f"{request} {position} {layer}"
        return random.Random(seed).sample(range(EXPERTS), PER_TOKEN)

    def run(self, runs: list[Run], *, padding: int = 0) -> None:
        self.recorder.begin()
        for layer in range(LAYERS):
            rows = [
                self.experts(run.request, run.start + row, layer)
                for run in runs
                for row in range(run.tokens)
            ]
            rows += [[7, 7]] * padding
            self.recorder.capture(layer, torch.tensor(rows, dtype=torch.int32))
        self.recorder.assign(runs)

    def expected(self, request: str, tokens: int) -> list[list[list[int]]]:
        return [[self.experts(request, p, n) for n in range(LAYERS)] for p in range(tokens)]


@given(st.randoms(use_true_random=False), st.integers(1, 4))
def test_routes_follow_their_requests_through_any_schedule(order: random.Random, number: int):
    toy = Toy()
    goals = {f"r{i}": order.randrange(1, 9) for i in range(number)}
    prompts = {name: order.randint(1, goal) for name, goal in goals.items()}
    done, furthest = dict.fromkeys(goals, 0), dict.fromkeys(goals, 0)
    for name in goals:
        toy.recorder.follow(name)
    repeated = 0
    while waiting := [name for name, goal in goals.items() if furthest[name] < goal]:
        runs = []
        for name in order.sample(waiting, order.randint(1, len(waiting))):
            if order.random() < 0.2:  # its cache was given to others: all over again
                done[name] = 0
            # Prompts come whole, tokens sampled before a restart with them; then one at a time.
            size = max(prompts[name], furthest[name] + 1) if done[name] == 0 else 1
            size = min(size, goals[name] - done[name])
            repeated += min(furthest[name] - done[name], size)
            runs.append(Run(name, done[name], size))
            done[name] += size
            furthest[name] = max(furthest[name], done[name])
        runs.append(Run("stranger", 0, order.randint(1, 3)))
        order.shuffle(runs)
        toy.run(runs, padding=order.randrange(3))
    assert toy.recorder.recomputed == repeated
    for name, goal in goals.items():
        assert read(toy.recorder.take(name, tokens=goal)).tolist() == toy.expected(name, goal)
    assert toy.recorder.requests == 0


def test_a_token_computed_twice_keeps_its_first_experts():
    toy = Toy()
    toy.recorder.follow("r")
    toy.run([Run("r", 0, 2)])
    toy.recorder.begin()
    for layer in range(LAYERS):  # again, elsewhere: experts 0 and 1 of every layer
        toy.recorder.capture(layer, torch.tensor([[0, 1]] * 3))
    toy.recorder.assign([Run("r", 0, 3)])
    found = read(toy.recorder.take("r", tokens=3)).tolist()
    assert found == [*toy.expected("r", 2), [[0, 1]] * LAYERS]


def test_rows_are_named_by_the_batch_and_placed_by_the_scheduler():
    scheduled = SimpleNamespace(
        num_scheduled_tokens={"old": 1, "new": 5, "again": 9},
        scheduled_new_reqs=[SimpleNamespace(req_id="new", num_computed_tokens=0)],
        scheduled_cached_reqs=SimpleNamespace(
            req_ids=["old", "again", "unused"], num_computed_tokens=[12, 0, 3]
        ),
    )
    runs = runs_of(scheduled, ["again", "old", "new"])
    assert runs == [Run("again", 0, 9), Run("old", 12, 1), Run("new", 0, 5)]
    with pytest.raises(RuntimeError, match="batch has 2 requests, but 3 were scheduled"):
        runs_of(scheduled, ["again", "old"])


def test_a_gap_a_missing_layer_and_impossible_experts_are_refused():
    toy = Toy()
    toy.recorder.follow("r")
    with pytest.raises(RuntimeError, match=r"token 4 of request r, of which 0 .* prefix caching"):
        toy.run([Run("r", 4, 1)])

    toy.recorder.begin()
    for layer in range(LAYERS - 1):
        toy.recorder.capture(layer, torch.tensor([[0, 1]]))
    with pytest.raises(RuntimeError, match="does not ask its router"):
        toy.recorder.assign([Run("r", 0, 1)])

    toy.run([Run("r", 0, 3)])
    with pytest.raises(RuntimeError, match="of 3 tokens of request r, which has 4"):
        toy.recorder.take("r", tokens=4)

    for experts in ([3, 3], [0, EXPERTS]):
        toy.recorder.follow("r")
        toy.recorder.begin()
        for layer in range(LAYERS):
            toy.recorder.capture(layer, torch.tensor([experts if layer == 1 else [0, 1]]))
        toy.recorder.assign([Run("r", 0, 1)])
        with pytest.raises(RuntimeError, match="not 2 different ones of 0 to 7"):
            toy.recorder.take("r", tokens=1)


def test_more_experts_than_a_batch_can_hold_are_refused():
    with pytest.raises(ValueError, match=r"40000 experts .*train\.rollout\.replay_routes"):
        RouteRecorder(layers=1, per_token=2, experts=40_000)


# --- in an engine ----------------------------------------------------------------------------

SAMPLING = Sampling(max_tokens=40, temperature=1.0)
CACHE_BYTES = 400 << 10
"""A token's keys and values are 3 layers * 2 * 32 floats * 4 bytes = 768 bytes, and 32 tokens a
block: 16 blocks, of which the longest request here takes 5."""


def settings(dtype: str, *, cache_bytes: int) -> config.Generator:
    return config.Generator(
        dtype=dtype, max_model_len=256, kv_cache_bytes=cache_bytes, sync_tolerance_nats=1e-3
    )


def write_model(kind: str, folder: Path) -> None:
    write_character_tokenizer(folder)
    shape: dict[str, Any] = {"num_hidden_layers": LAYERS, "eos_token_id": 1}
    if kind == "qwen3_moe":
        write_qwen3_moe(folder, num_experts=EXPERTS, **shape)
        return
    # What vLLM needs: a latent of 512 and 64, and the names of the router's parts.
    shape |= {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "num_nextn_predict_layers": 0}
    shape |= {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
    # Experts as wide as the rest, so that another choice of them tells.
    shape |= {"hidden_size": 128, "moe_intermediate_size": 128}
    write_deepseek_v3(folder, **shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    write_model("qwen3_moe", folder)
    return folder


@pytest.fixture(scope="module")
def process(ray_cluster: None) -> Host:
    return Host(partial(Generator, record_routes=True))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def host(process: Host, folder: Path) -> Host:
    process.start(folder, settings("float32", cache_bytes=CACHE_BYTES))
    return process


def recorder_state(generator: Any) -> tuple[int, int]:
    return generator._recorder.requests, generator._recorder.recomputed


def own_routes(model: Any, token_ids: tuple[int, ...]) -> np.ndarray:
    """[T, layers, k], sorted: the experts that transformers chooses, in float32."""
    chosen: list[torch.Tensor] = []
    hooks = [
        layer.mlp.gate.register_forward_hook(lambda *call: chosen.append(call[2][2]))
        for layer in model.model.layers
    ]
    with torch.no_grad():
        model(torch.tensor([token_ids]))
    for hook in hooks:
        hook.remove()
    return torch.stack(chosen, 1).sort(-1).values.numpy()


def flips(model: Any, asked: SampleRequest, completion: Completion) -> int:
    """Choices in which engine and transformers differ."""
    computed = (asked.prompt_ids + completion.token_ids)[:-1]
    found = np.sort(read(completion.routes))
    assert found.shape == (len(computed), LAYERS, PER_TOKEN)
    return int((found != own_routes(model, computed)).any(-1).sum())


def test_routes_are_those_of_the_model_whatever_else_is_in_the_batch(host: Host, folder: Path):
    requests = [request(n, length=10 + 7 * n, seeds=(n, n + 100)) for n in range(14)]
    together = host.sample(requests, SAMPLING)
    followed, recomputed = host(recorder_state)
    assert followed == 0
    assert recomputed > 100  # tokens of requests that vLLM took out of the batch and began again
    alone = [host.sample([r], SAMPLING)[0] for r in requests]
    assert host(recorder_state) == (0, recomputed)  # alone, nobody is taken out
    assert together == alone

    # Two scores may be equal up to float32's rounding; none is here.
    model = reference.load(folder)
    for asked, completions in zip(requests, together, strict=True):
        assert [flips(model, asked, completion) for completion in completions] == [0, 0]


def test_leaves_of_a_tree_have_the_routes_of_all_their_tokens(host: Host, folder: Path):
    plan = TreePlan(chains=2, points=2, forks=2, branch="entropy")
    seeds = [tuple(range(100 * n, 100 * n + plan.num_leaves)) for n in range(3)]
    asked = [replace(request(n, seeds=seeds[n]), tree=plan) for n in range(3)]
    model = reference.load(folder)
    for one, leaves in zip(asked, host.sample(asked, SAMPLING), strict=True):
        assert max(len(leaf.segments) for leaf in leaves) == 3  # chains have two points
        assert [flips(model, one, leaf) for leaf in leaves] == [0] * plan.num_leaves


def test_a_stream_left_early_leaves_no_routes_behind(host: Host):
    def leave_early(generator: Any, requests: list[SampleRequest]) -> int:
        stream = generator.stream(requests, SAMPLING, min_version=0)
        next(stream)
        under_way = generator._recorder.requests
        stream.close()
        return under_way

    assert host(leave_early, [request(n, seeds=(n, n + 1)) for n in range(6)]) > 0
    assert host(recorder_state)[0] == 0


def test_after_a_sync_routes_are_those_of_the_new_weights(host: Host, folder: Path, tmp_path: Path):
    model = reference.nudged(reference.load(folder), seed=1)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")  # checkpoint names, experts one by one
    update = make_update(tensors.items(), version=1, dtype=torch.float32)
    asked = request(3, seeds=(1, 2, 3))
    (old,) = host.sample([asked], SAMPLING)
    assert min(flips(model, asked, completion) for completion in old) > 10

    host(lambda g, *a: g.load_weights(*a), update, reference.canary(model))  # a canary, unfollowed

    (new,) = host.sample([asked], SAMPLING, version=1)
    assert [flips(model, asked, completion) for completion in new] == [0, 0, 0]


# --- other engines ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3_moe", "deepseek_v3"])
def test_replay_brings_a_learner_close_to_a_bfloat16_engine(
    process: Host, tmp_path: Path, kind: str
):
    write_model(kind, tmp_path)
    process.start(tmp_path, settings("bfloat16", cache_bytes=32 << 20))
    requests = [request(n, seeds=(n,)) for n in range(24)]
    groups = [
        Group(one.problem, one.prompt_ids, (Rollout(completion, Reward(0.0, "")),))
        for one, (completion,) in zip(requests, process.sample(requests, SAMPLING), strict=True)
    ]
    batch = collate(
        groups,
        advantage=Advantage(),
        first_term="",
        aggregation="token_mean",
        max_tokens=SAMPLING.max_tokens,
        mask_truncated=False,
    )
    model = reference.load(tmp_path).eval()
    routers = Routers(model, balance_coef=0.0)

    def divergence(routed: Batch) -> float:
        autocast = torch.autocast("cpu", dtype=torch.bfloat16)
        with torch.no_grad(), autocast, routers.replaying(routed):
            logprobs, _ = policy_logprobs(model, routed, temperature=1.0, packing=False)
        return float(k3(batch.behavior_logprobs, logprobs)[batch.mask].mean())

    assert divergence(replace(batch, routes=None)) > 10 * divergence(batch)


@pytest.mark.slow
def test_a_model_without_experts_is_refused(process: Host, tiny_model: Path):
    with pytest.raises(ValueError, match=r"train\.rollout\.replay_routes is true, but the model"):
        process.start(tiny_model, settings("float32", cache_bytes=32 << 20))

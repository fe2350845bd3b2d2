"""Tests for grpo/engine_latent.py: proving weight syncs into DeepSeek-V3 on real vLLM engines.

Engines follow each other in one actor, as in test_engine.py.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reference_models as reference
import torch
from engine_host import Host, request, worst_gap
from ray import cloudpickle
from transformers import PreTrainedModel

from cotree.grpo import config
from cotree.grpo.config_model import NewDeepseekModel
from cotree.grpo.footprint import cache_bytes_per_token
from cotree.grpo.models import create_model
from cotree.grpo.weight_names import checkpoint_weights
from cotree.grpo.weights import SyncProof, WeightSyncError, WeightUpdate, make_update
from cotree.kernels.mla import latent_cache_bytes, plain_cache_bytes

# The engine's process cannot import this file, whose functions it runs.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_TENSORS = 49
"""Embedding, last norm and head: 3. In each of 2 layers 2 norms and, for attention, q, kv_a, its
norm, kv_b and o: 14. A dense layer's 3 matrices. Of the mixture the router, its bias, 3 matrices
of the shared expert and 3 of 8 experts: 29."""


def settings(dtype: str, tolerance: float) -> config.Generator:
    return config.Generator(
        dtype=dtype, max_model_len=256, kv_cache_bytes=32 << 20, sync_tolerance_nats=tolerance
    )


EXACT = settings("float32", 1e-4)


def write_model(folder: Path, *, query_rank: int | None) -> Path:
    sizes = NewDeepseekModel(
        type="new_deepseek_v3",
        layers=2,
        heads=4,
        kv_rank=512,
        nope_dim=32,
        rope_dim=64,
        value_dim=32,
        query_rank=query_rank,
        expert_width=64,
    )
    create_model(sizes, folder, alphabet=[chr(33 + i) for i in range(90)], seed=0)
    return folder


def changed(folder: Path, *, seed: int) -> PreTrainedModel:
    """The model with noise on every weight, the routers' biases included.

    The biases are far from what bfloat16 can hold and large enough to change who is chosen.
    """
    model = reference.nudged(reference.load(folder), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, buffer in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(0.3 * torch.randn(buffer.shape, generator=generator))
    return model


def update_of(model: PreTrainedModel, *, dtype: str = "float32") -> WeightUpdate:
    named = checkpoint_weights(model, model.state_dict())
    return make_update(named.items(), version=1, dtype=getattr(torch, dtype))


def load(host: Host, update: WeightUpdate, model: PreTrainedModel) -> SyncProof:
    return host(lambda g, *a: g.load_weights(*a), update, reference.canary(model))


def live_model(generator: Any) -> Any:
    return generator._llm.llm_engine.model_executor.driver_worker.worker.model_runner.model


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose queries are not compressed."""
    return write_model(tmp_path_factory.mktemp("straight"), query_rank=None)


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with latent queries, whose first projections vLLM fuses."""
    return write_model(tmp_path_factory.mktemp("compressed"), query_rank=48)


@pytest.fixture(scope="module")
def process(ray_cluster: None) -> Host:
    return Host()


@pytest.fixture
def host(process: Host, compressed: Path) -> Host:
    """An engine with some weights of the compressed model; a test that breaks it mends it."""
    if not process.pristine:
        process.start(compressed, EXACT)
        process.pristine = True
    return process


# --- an engine that forgets part of a sync ----------------------------------------------------

ATTENTION = "model.layers.1.self_attn"
MIXTURE = "model.layers.1.mlp"


def _part(layer: str, attribute: str) -> Callable[[Any], tuple[Any, str]]:
    return lambda model: (model.get_submodule(layer), attribute)


def _router(model: Any) -> tuple[Any, str]:
    return model.get_submodule(f"{MIXTURE}.experts").router, "e_score_correction_bias"


STALE = {
    # what stays as it was: (where, the message)
    "absorbed keys": (
        _part(f"{ATTENTION}.mla_attn.mla_attn", "W_UK_T"),
        rf"1 of 54 .* in the engine but .*'{ATTENTION}.kv_b_proj.weight as W_UK_T and W_UV'",
    ),
    "absorbed values": (
        _part(f"{ATTENTION}.mla_attn.mla_attn", "W_UV"),
        rf"1 of 54 .* in the engine but .*'{ATTENTION}.kv_b_proj.weight as W_UK_T and W_UV'",
    ),
    "fused projections": (
        _part(f"{ATTENTION}.fused_qkv_a_proj", "cpu_linear"),
        rf"2 of 53 tensors differ .*'{ATTENTION}.kv_a_proj_with_mqa.weight'",
    ),
    "bias in the router": (
        _router,
        rf"1 of 54 .* in the engine .*'{MIXTURE}.gate.e_score_correction_bias as .* the router'",
    ),
    "bias beside the gate": (
        _part(f"{MIXTURE}.gate", "e_score_correction_bias"),
        rf"1 of 55 tensors differ .*'{MIXTURE}.gate.e_score_correction_bias'; 2 of 55 .* engine",
    ),
    "gate": (
        _part(f"{MIXTURE}.gate", "cpu_linear"),
        rf"1 of 53 tensors differ .*'{MIXTURE}.gate.weight'",
    ),
    "shared expert": (
        _part(f"{MIXTURE}.shared_experts.down_proj", "cpu_linear"),
        rf"1 of 53 tensors differ .*'{MIXTURE}.shared_experts.down_proj.weight'",
    ),
    "last expert": (
        _part(f"{MIXTURE}.experts.routed_experts", "w2_weight"),
        rf"1 of 53 tensors differ .*'{MIXTURE}.experts.7.down_proj.weight'",
    ),
}


def forget(generator: Any, where: Callable[[Any], tuple[Any, str]], only_last: bool) -> None:
    """From now on what is found at `where` keeps its present value through every sync."""
    worker = generator._llm.llm_engine.model_executor.driver_worker.worker
    owner, attribute = where(live_model(generator))
    held = getattr(owner, attribute)
    old = held.data.clone() if isinstance(held, torch.Tensor) else held

    def repack() -> None:
        type(worker).repack(worker)
        now = getattr(owner, attribute)
        if not isinstance(now, torch.Tensor):
            setattr(owner, attribute, old)
        elif only_last:
            now.data[-1] = old[-1]
        else:
            setattr(owner, attribute, torch.nn.Parameter(old, requires_grad=False))
        generator.undo = lambda: setattr(owner, attribute, now)

    worker.repack = repack


def remember(generator: Any) -> None:
    generator.undo()
    del generator._llm.llm_engine.model_executor.driver_worker.worker.repack


@pytest.mark.parametrize("what", list(STALE))
def test_whatever_a_sync_leaves_stale_fails_the_proof(host: Host, compressed: Path, what: str):
    where, message = STALE[what]
    model = changed(compressed, seed=2 + list(STALE).index(what))
    host(forget, where, what == "last expert")
    with pytest.raises(WeightSyncError, match=message):
        load(host, update_of(model), model)
    host(remember)
    assert load(host, update_of(model), model).tensors == NUM_TENSORS + 4  # it was only that


def test_a_canary_does_not_see_the_weights_that_tokens_are_sampled_with(
    host: Host, compressed: Path
):
    # The reason for reading absorbed weights back: without, this engine would pass.
    model = changed(compressed, seed=1)
    host(forget, STALE["absorbed keys"][0], False)
    with pytest.raises(WeightSyncError, match="W_UK_T"):
        load(host, update_of(model), model)
    gaps = host(lambda g, canary: g._canary_gaps(canary), reference.canary(model))
    assert max(gaps) < 1e-4
    host(remember)


# --- syncs that are proven --------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", ["straight", "compressed"])
def test_a_sync_is_proven_and_tokens_are_sampled_with_the_new_weights(
    process: Host, straight: Path, compressed: Path, shape: str, dtype: str
):
    folder = straight if shape == "straight" else compressed
    process.start(folder, settings(dtype, tolerance=1e-4 if dtype == "float32" else 0.02))
    old = update_of(reference.load(folder), dtype=dtype)
    model = changed(folder, seed=1)
    update = update_of(model, dtype=dtype)
    assert old.digests.keys() == update.digests.keys()
    assert not old.digests.items() & update.digests.items()  # nothing is proven by standing still
    asked = request(1, length=30, seeds=(3,))
    (before,) = process.sample([asked])[0]
    assert worst_gap(model, asked, before) > 0.1

    proof = load(process, update, model)

    # Compressed queries have two projections and a norm instead of one projection.
    assert proof.tensors == NUM_TENSORS + (4 if shape == "compressed" else 0)
    (after,) = process.sample([asked], version=1)[0]
    # Measured: 5e-7 in float32 and 0.016 in bfloat16.
    assert worst_gap(model, asked, after) < (1e-4 if dtype == "float32" else 0.1)


# --- the cache --------------------------------------------------------------------------------


def allocated_bytes_per_token(generator: Any) -> float:
    """Of the tensors that vLLM holds as the cache of all layers."""
    cache = generator._llm.llm_engine.vllm_config.cache_config
    modules = live_model(generator).modules()
    held = [m.kv_cache for m in modules if isinstance(getattr(m, "kv_cache", None), torch.Tensor)]
    return sum(tensor.nbytes for tensor in held) / (cache.num_gpu_blocks * cache.block_size)


def test_an_engine_allocates_the_bytes_of_latents(process: Host, straight: Path):
    process.start(straight, EXACT)
    allocated = process(allocated_bytes_per_token)
    # 2 layers * (512 + 64) * 4 bytes.
    assert allocated == 4608
    assert allocated == latent_cache_bytes(layers=2, kv_rank=512, rope_dim=64, element_bytes=4)
    written = json.loads((straight / "config.json").read_text())
    assert allocated == cache_bytes_per_token(written, dtype="float32")


def test_without_latent_attention_vllm_allocates_more_than_keys_and_values_need(
    process: Host, straight: Path
):
    def start_without(_: Any) -> None:
        os.environ["VLLM_MLA_DISABLE"] = "1"

    def back_to_latents(_: Any) -> None:
        del os.environ["VLLM_MLA_DISABLE"]

    process(start_without)
    process.start(straight, EXACT)
    process(back_to_latents)
    allocated = process(allocated_bytes_per_token)
    needed = plain_cache_bytes(layers=2, heads=4, key_dim=96, value_dim=32, element_bytes=4)
    # 2 layers * 4 heads * (96 + 32) * 4 bytes would do, fewer than for latents; but vLLM pads the
    # values to the width of the keys.
    assert (needed, allocated) == (4096, 2 * 4 * (96 + 96) * 4)

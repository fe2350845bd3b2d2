"""Tests for grpo/generator.py: two real replicas that record experts, and the death of one."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from engine_host import request
from tiny_experts import write_qwen3_moe
from tiny_models import write_character_tokenizer

from cotree.grpo import config
from cotree.grpo.generator import GeneratorDiedError, GeneratorGroup, Sampling
from cotree.grpo.types import Completion

pytestmark = pytest.mark.slow

SETTINGS = config.Generator(replicas=2, max_model_len=256, kv_cache_bytes=32 << 20)
SAMPLING = Sampling(max_tokens=60, temperature=1.0)


@pytest.fixture(scope="module")
def group(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GeneratorGroup]:
    folder = tmp_path_factory.mktemp("experts")
    write_character_tokenizer(folder)
    write_qwen3_moe(folder, eos_token_id=1)
    group = GeneratorGroup.start(
        str(folder), generator=SETTINGS, seed=0, num_gpus=0, record_routes=True
    )
    yield group
    group.stop()


def test_a_replica_that_died_gives_the_same_routes_again(group: GeneratorGroup):
    asked = [request(n, length=20 + n, seeds=tuple(range(8))) for n in range(12)]
    expected = group.submit(asked, SAMPLING, min_version=0).result()
    assert all(one.routes is not None for completions in expected for one in completions)

    victim = ray.get(group._actors[1].__ray_call__.remote(lambda _: os.getpid()))
    got: dict[int, tuple[Completion, ...]] = {}
    for index, completions in group.stream(asked, SAMPLING, min_version=0):
        if not got:
            os.kill(victim, signal.SIGKILL)
        got[index] = completions
    assert [got[index] for index in range(len(asked))] == expected


def test_a_model_without_experts_says_which_option_to_change(ray_cluster: None, tiny_model: Path):
    settings = config.Generator(max_model_len=256, kv_cache_bytes=32 << 20)
    with pytest.raises(GeneratorDiedError, match=r"train\.rollout\.replay_routes is true, but"):
        GeneratorGroup.start(
            str(tiny_model), generator=settings, seed=0, num_gpus=0, record_routes=True
        )

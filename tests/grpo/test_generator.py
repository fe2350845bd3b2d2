"""Tests for grpo/generator.py: two real replicas, their order of work, and the death of one."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import reference_models as reference

from cotree.grpo import config
from cotree.grpo.generator import (
    GeneratorDiedError,
    GeneratorGroup,
    Sampling,
    StaleGeneratorError,
)
from cotree.grpo.types import Completion, Problem, SampleRequest, TreePlan

pytestmark = pytest.mark.e2e

SETTINGS = config.Generator(
    replicas=2,
    dtype="float32",
    max_model_len=256,
    kv_cache_bytes=32 << 20,
    sync_tolerance_nats=1e-3,
)
SAMPLING = Sampling(max_tokens=60, temperature=1.0)


@pytest.fixture(scope="module")
def group(ray_cluster: None, tiny_model: Path) -> Iterator[GeneratorGroup]:
    group = GeneratorGroup.start(str(tiny_model), generator=SETTINGS, seed=0, num_gpus=0)
    yield group
    group.stop()


def requests(num: int, *, seeds: int = 4) -> list[SampleRequest]:
    return [
        SampleRequest(
            Problem(id=f"problem/{n}", prompt="", reference="", task="test"),
            tuple(4 + (n * 31 + i * i) % 90 for i in range(20 + n)),
            tuple(range(100 * n, 100 * n + seeds)),
        )
        for n in range(num)
    ]


def trees(num: int) -> list[SampleRequest]:
    plan = TreePlan(chains=2, points=1, forks=3, branch="entropy")
    return [replace(one, tree=plan) for one in requests(num, seeds=plan.num_leaves)]


def versions(samples: list[tuple[Completion, ...]]) -> set[int]:
    return {completion.policy_version for completions in samples for completion in completions}


def new_weights(tiny_model: Path, *, version: int) -> tuple[Any, Any]:
    model = reference.nudged(reference.load(tiny_model), seed=version)
    return ray.put(reference.update(model, version=version)), reference.canary(model)


def test_replicas_share_the_work_and_answer_in_order(group: GeneratorGroup):
    asked = requests(5)
    whole = group.submit(asked, SAMPLING, min_version=0).result()
    one_by_one = [group.submit([r], SAMPLING, min_version=0).result()[0] for r in asked]
    assert whole == one_by_one  # the second replica's share came from the first this time
    assert group.submit([], SAMPLING, min_version=0).result() == []


def test_a_stream_loses_nothing_when_a_replica_is_killed(group: GeneratorGroup):
    asked = requests(20, seeds=8) + trees(20)
    expected = group.submit(asked, SAMPLING, min_version=0).result()
    victim = ray.get(group._actors[1].__ray_call__.remote(lambda _: os.getpid()))
    got: dict[int, tuple[Completion, ...]] = {}
    for index, completions in group.stream(asked, SAMPLING, min_version=0):
        if not got:
            os.kill(victim, signal.SIGKILL)
        assert index not in got, "a request came twice"
        got[index] = completions
    assert [got[index] for index in range(len(asked))] == expected


def test_a_stream_raises_what_a_replica_raises(group: GeneratorGroup):
    with pytest.raises(StaleGeneratorError, match=r"^the generator holds v"):
        next(group.stream(requests(2), SAMPLING, min_version=10_000))


def test_what_a_replica_raises_arrives_as_it_is(group: GeneratorGroup):
    pending = group.submit(requests(2), SAMPLING, min_version=10_000)
    with pytest.raises(StaleGeneratorError, match=r"^the generator holds v"):
        pending.result()


def test_work_keeps_its_place_before_a_load_and_survives_a_killed_replica(
    group: GeneratorGroup, tiny_model: Path
):
    asked = requests(20, seeds=8) + trees(20)
    first, second = new_weights(tiny_model, version=1), new_weights(tiny_model, version=2)
    group.load_weights(*first)
    expected = group.submit(asked, SAMPLING, min_version=1).result()

    # Uninterrupted: samples submitted before a load are the old policy's.
    pending = group.submit(asked, SAMPLING, min_version=1)
    proofs = group.load_weights(*second)
    assert [proof.version for proof in proofs] == [2, 2]
    assert versions(expected) == versions(pending.result()) == {1}
    assert pending.result() == expected
    newest = group.submit(asked, SAMPLING, min_version=2).result()
    assert versions(newest) == {2}

    # A replica dies while samples and a load are queued on it.
    third = new_weights(tiny_model, version=3)
    kill_after = group.submit(asked, SAMPLING, min_version=2)
    pid_call = group._actors[1].__ray_call__.remote(lambda _: os.getpid())
    ray.get(pid_call)  # queued behind the samples: they are done
    unfinished = group.submit(asked * 4, SAMPLING, min_version=2)
    os.kill(ray.get(pid_call), signal.SIGKILL)
    with pytest.raises(GeneratorDiedError, match=r"replica 1 of 2 .*out-of-memory"):
        group.load_weights(*third)
    with pytest.raises(GeneratorDiedError):
        unfinished.result()

    # Its successor starts from version 0, yet repeats the work under version 2 and ends at 3.
    assert [proof.version for proof in group.restart()] == [2, 3]
    assert kill_after.result() == newest
    assert unfinished.result() == newest * 4
    assert versions(group.submit(asked, SAMPLING, min_version=3).result()) == {3}
    assert group.restart() == []  # nobody is dead


def test_restart_needs_a_canary_for_weights_of_its_own(group: GeneratorGroup):
    with pytest.raises(ValueError, match="update_ref and canary together"):
        group.restart(canary=reference.Canary((1, 2), (-1.0,)))

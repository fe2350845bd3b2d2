"""Tests for grpo/cluster.py: who gets which share of a machine."""

import pytest

from cotree.grpo.cluster import PlacementError, place
from cotree.grpo.config import Generator, Learner

GENERATOR, LEARNER = Generator(threads=3), Learner(threads=2)


def test_cpu_slots_are_threads_of_all_actors():
    # 2 generators of 3 threads and 1 learner of 2.
    assert place(GENERATOR, LEARNER, generators=2, learners=1, gpus=0).cpus == 2 * 3 + 1 * 2


@pytest.mark.parametrize(
    ("gpus", "share"),
    [
        (0, 0.0),  # a CPU machine
        (1, 0.5),  # two actors on one GPU
        (2, 1.0),
        (8, 1.0),  # more than enough: an actor still uses one
    ],
)
def test_actors_share_gpus_only_when_there_are_too_few(gpus: int, share: float):
    assert place(GENERATOR, LEARNER, generators=1, learners=1, gpus=gpus).gpu_share == share


def test_more_than_two_actors_to_a_gpu_are_refused_before_anything_starts():
    with pytest.raises(PlacementError, match=r"3 actors .* on 1 GPUs"):
        place(GENERATOR, LEARNER, generators=2, learners=1, gpus=1)

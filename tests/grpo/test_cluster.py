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


# --- beside a teacher ------------------------------------------------------------------------

TEACHER = Generator(threads=4, replicas=2)


def test_a_teachers_engines_need_cpus_of_their_own():
    # 1 generator of 3 threads, 1 learner of 2, 2 replicas of the teacher of 4.
    placed = place(GENERATOR, LEARNER, generators=1, learners=1, gpus=0, teacher=TEACHER)
    assert placed.cpus == 3 + 2 + 2 * 4
    assert (placed.teacher_cpus, placed.generator_cpus, placed.learner_cpus) == (8, 3, 2)
    alone = place(GENERATOR, LEARNER, generators=1, learners=1, gpus=0)
    assert (alone.teacher_cpus, alone.cpus) == (0, 5)


@pytest.mark.parametrize(("gpus", "share"), [(0, 0.0), (2, 0.5), (3, 0.75), (4, 1.0), (9, 1.0)])
def test_a_teachers_engines_share_the_gpus(gpus: int, share: float):
    placed = place(GENERATOR, LEARNER, generators=1, learners=1, gpus=gpus, teacher=TEACHER)
    assert placed.gpu_share == share


def test_a_teacher_may_be_one_too_many_for_the_gpus():
    assert place(GENERATOR, LEARNER, generators=1, learners=1, gpus=1).gpu_share == 0.5
    with pytest.raises(PlacementError, match=r"4 actors .* and a teacher's replicas\) on 1 GPUs"):
        place(GENERATOR, LEARNER, generators=1, learners=1, gpus=1, teacher=TEACHER)

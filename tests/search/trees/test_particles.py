"""Tests for search/trees/particles.py: particle filtering."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_world import ToyWorld, is_solved, play

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT
from cotree.search.trees.particles import Particles, ParticleSettings, systematic_resample
from cotree.search.types import Reply, Step, StepEnd


def filtering(
    *, seed: int = 0, particles: int = 4, repeats: bool = False, **more: float
) -> Particles:
    settings = ParticleSettings(particles=particles, repeats=repeats, potential="score", **more)  # type: ignore[arg-type]
    return Particles(settings, seed=seed)


def turn(search: Particles, *found: str) -> list[str]:
    """Answers a round in the order of the asks; the paths that were continued.

    A step is a letter and a score of one digit, in tenths; `!` refutes it, `.` ends the completion,
    `|` cuts it, and `-` alone gives the job up.
    """
    jobs = search.ask(99)
    assert len(jobs) == len(found)
    paths = [search.tree.text(job.node) for job in jobs]
    for job, entry in zip(jobs, found, strict=True):
        if entry == "-":
            search.drop(job.number)
            continue
        ends: dict[str, StepEnd] = {".": "stop", "|": "length"}
        end = ends.get(entry[-1], "boundary")
        verdict = Verdict.REFUTED if "!" in entry else Verdict.UNCHECKED
        step = Step((ord(entry[0]),), (0.0,), entry[0], end, verdict)
        answer = entry[0] if end == "stop" else None
        search.tell(Reply(job.number, (step,), answer, int(entry[1]) / 10))
    return paths


def test_equal_weights_keep_every_particle():
    for offset in (0.0, 0.3, 0.999):
        assert systematic_resample([0.25] * 4, 4, offset=offset) == [0, 1, 2, 3]


def test_survivors_are_where_the_comb_falls():
    # Running sums 0.5, 0.6, 1.0; the comb of 4 at offset 0.2: 0.05, 0.30, 0.55, 0.80.
    assert systematic_resample([0.5, 0.1, 0.4], 4, offset=0.2) == [0, 0, 1, 2]
    # At offset 0.8: 0.20, 0.45, 0.70, 0.95.
    assert systematic_resample([0.5, 0.1, 0.4], 4, offset=0.8) == [0, 0, 2, 2]


weights = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8).filter(lambda w: sum(w) > 0.1)


@given(weights, st.integers(1, 12), st.floats(0.0, 1.0, exclude_max=True))
def test_everyone_has_its_share_rounded_down_or_up(raw: list[float], count: int, offset: float):
    shares = [weight / sum(raw) for weight in raw]
    survivors = systematic_resample(shares, count, offset=offset)
    assert len(survivors) == count
    assert survivors == sorted(survivors)
    for index, times in Counter(survivors).items():
        assert shares[index] > 0.0
        assert math.floor(count * shares[index] - 1e-9) <= times
        assert times <= math.ceil(count * shares[index] + 1e-9)


def test_a_random_offset_makes_shares_exact_on_average():
    # Over offsets 0, 0.01, ... the mean number of survivors is count * weight, within 0.01.
    shares = [0.55, 0.15, 0.3]
    total = Counter[int]()
    for tick in range(100):
        total.update(systematic_resample(shares, 3, offset=tick / 100))
    assert [total[i] / 100 for i in range(3)] == pytest.approx([1.65, 0.45, 0.9], abs=0.011)


def test_states_are_resampled_in_proportion_to_their_weights():
    # With temperature t = 0.8 / ln 3 the weights of 0.9 and 0.1 are 3 : 1, so of 4 particles on
    # a and b (two each, of weights 3 3 1 1 eighths) exactly 3 are at a, whatever the offset.
    for seed in range(20):
        search = filtering(seed=seed, temperature=0.8 / math.log(3.0))
        turn(search, "a9", "a9", "b1", "b1")
        paths = [search.tree.text(job.node) for job in search.ask(9)]
        assert sorted(paths) == ["a", "a", "a", "b"]


def test_particles_at_one_state_draw_anew():
    search = filtering(particles=2)
    turn(search, "a5", "a5")
    assert [(job.node, job.draw) for job in search.ask(9)] == [(1, 0), (1, 1)]


def test_a_refuted_state_weighs_nothing():
    for seed in range(20):
        search = filtering(seed=seed)
        turn(search, "a9!", "b1", "c9!", "-")
        assert [search.tree.text(job.node) for job in search.ask(9)] == ["b"] * 4


def test_where_all_are_refuted_they_go_back_and_draw_again():
    search = filtering(particles=2)
    turn(search, "a5", "b5")
    assert turn(search, "x9!", "y9!") == ["a", "b"]
    jobs = search.ask(9)
    assert [(search.tree.text(job.node), job.draw) for job in jobs] == [("a", 1), ("b", 1)]


def test_a_finished_particle_keeps_its_place_and_is_not_copied():
    for seed in range(20):
        search = filtering(seed=seed)
        turn(search, "a9.", "b1", "c1", "d1!")
        assert len(search.ask(99)) == 3  # of four particles one has ended
        leaves = list(search.tree.leaves())
        assert [(search.tree.text(leaf.id), leaf.count) for leaf in leaves] == [("a", 1)]


def test_completions_vote_by_score():
    search = filtering()
    turn(search, "a6.", "b5.", "b5.", "c9|")
    best = search.best()
    assert best is not None
    assert search.tree[best].answer == "b"  # 2 * 0.5 against 0.6; c was cut
    assert search.ask(9) == []
    assert search.is_done


def test_a_low_temperature_lets_the_best_take_over():
    search = filtering(temperature=0.01)
    turn(search, "a5", "b6", "c4", "d5")
    assert [search.tree.text(job.node) for job in search.ask(9)] == ["b"] * 4


def test_scores_of_nought_and_one_have_finite_logits():
    search = Particles(ParticleSettings(particles=2), seed=0)
    for job, score in zip(search.ask(2), (0.0, 1.0), strict=True):
        step = Step((job.number,), (0.0,), str(job.number), "boundary")
        search.tell(Reply(job.number, (step,), None, score))
    assert [search.tree.text(job.node) for job in search.ask(9)] == ["1", "1"]


def test_a_filter_that_ended_starts_anew_if_it_repeats():
    search = filtering(particles=2, repeats=True)
    turn(search, "a5.", "b5.")
    assert [(job.node, job.draw) for job in search.ask(9)] == [(ROOT, 2), (ROOT, 3)]


def test_a_filter_ends_after_its_rounds():
    search = filtering(particles=1, rounds=2)
    turn(search, "a5")
    turn(search, "b5")
    assert search.ask(9) == []
    assert search.is_done
    assert search.best() is None


def test_the_seed_decides_what_survives():
    def survivors(seed: int) -> list[str]:
        search = filtering(seed=seed)
        turn(search, "a9", "b3", "c2", "d5")
        return [search.tree.text(job.node) for job in search.ask(9)]

    found = {tuple(survivors(seed)) for seed in range(20)}
    assert len(found) > 1
    assert survivors(7) == survivors(7)


def test_with_good_rules_it_solves_nearly_everything():
    world = ToyWorld(depth=4, num_nonces=10**9)
    count = 0
    for number in range(50):
        search = Particles(ParticleSettings(), seed=number)
        play(world, search, number=number, budget=400, seed=number)
        count += is_solved(search)
    assert count >= 47


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"particles": 0}, "particles = 0"),
        ({"rounds": 0}, "rounds = 0"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"temperature": math.inf}, "temperature = inf"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        ParticleSettings(**settings)  # type: ignore[arg-type]

"""Tests for search/trees/resample.py: depth-first search by resampling refuted steps."""

import pytest
from toy_world import ToyWorld, is_solved, play

from cotree.rewards.types import Verdict
from cotree.search.strategies import Majority
from cotree.search.tree import ROOT
from cotree.search.trees.completions import Completions
from cotree.search.trees.resample import Resample, ResampleSettings
from cotree.search.types import Job, Reply, Step, StepEnd


class Script:
    """Tells a search what its rollouts bring: `g` a step, `b` a refuted one, last an end."""

    def __init__(self, settings: ResampleSettings) -> None:
        self.search = Resample(settings)
        self._nonce = 0

    def asked(self) -> Job:
        (job,) = self.search.ask(5)
        assert (job.kind, job.stops_when_refuted) == ("rollout", True)
        return job

    def turn(self, steps: str, *, answer: str | None = None, score: float = 0.0) -> int:
        """Answers the next job; returns how many steps were kept before it."""
        job = self.asked()
        assert self.search.ask(5) == []  # one at a time
        found: list[Step] = []
        for place, letter in enumerate(steps):
            self._nonce += 1
            last = place == len(steps) - 1
            end: StepEnd = "stop" if last and letter == "g" else "boundary"
            verdict = Verdict.REFUTED if letter == "b" else Verdict.UNCHECKED
            found.append(Step((self._nonce,), (0.0,), letter, end, verdict))
        self.search.tell(Reply(job.number, tuple(found), answer, score))
        return self.search.tree[job.node].depth


def test_the_next_rollout_keeps_what_stands_before_the_refuted_step():
    script = Script(ResampleSettings())
    assert script.turn("ggb") == 0
    assert script.turn("gb") == 2  # two steps kept
    assert script.turn("gg", answer="4", score=1.0) == 3
    assert script.search.tree.text(script.search.best() or 0) == "ggg" + "gg"
    assert script.search.ask(5) == []
    assert script.search.is_done


def test_a_node_is_given_up_after_its_tries_and_its_parent_after_as_many():
    script = Script(ResampleSettings(tries=2))
    kept = [script.turn(steps) for steps in ("ggb", "b", "gb", "b", "b", "b")]
    # ggb: node 2 fails once. b: twice, so its parent, node 1, fails once. gb: a new node of depth
    # 2 fails once. b: twice, so node 1 fails twice, and the root goes on. It is never given up.
    assert kept == [0, 2, 1, 2, 0, 0]
    assert script.asked().node == ROOT


def test_a_bad_end_without_a_refuted_step_starts_anew_at_the_root():
    script = Script(ResampleSettings())
    kept = [
        script.turn("ggb"),
        script.turn("gg", answer="5", score=0.0),
        script.turn("gg"),
    ]
    assert kept == [0, 2, 0]
    assert script.asked().node == ROOT


def test_a_lost_rollout_counts_as_a_failure_of_its_node():
    script = Script(ResampleSettings(tries=2))
    script.turn("gb")
    for node_depth in (1, 0, 0):
        job = script.asked()
        assert script.search.tree[job.node].depth == node_depth
        script.search.drop(job.number)
    assert all(node.inflight == 0 for node in script.search.tree.nodes)


def test_several_accepted_completions_vote():
    script = Script(ResampleSettings(votes=3))
    for text in ("5", "4", "4"):
        assert script.turn("gg", answer=text, score=1.0) == 0  # independent of each other
    best = script.search.best()
    assert best is not None
    assert script.search.tree[best].answer == "4"
    assert script.search.ask(1) == []


def test_without_a_number_of_votes_only_the_budget_ends_it():
    search = Resample(ResampleSettings(votes=None))
    spent = play(ToyWorld(depth=3), search, number=0, budget=600)
    assert spent > 600 - 2 * (3 * 3 + 2)
    assert not search.is_done


def test_an_accepted_completion_outvotes_the_others():
    script = Script(ResampleSettings())
    for _ in range(3):
        script.turn("g", answer="5", score=0.0)
    best = script.search.best()
    assert best is not None
    assert script.search.tree[best].answer == "5"  # nothing better yet
    script.turn("g", answer="4", score=1.0)
    best = script.search.best()
    assert best is not None
    assert script.search.tree[best].answer == "4"


def test_a_value_model_may_accept_less_than_certainty():
    script = Script(ResampleSettings(accepted_score=0.8))
    script.turn("g", answer="5", score=0.7)
    script.turn("g", answer="4", score=0.9)
    assert script.search.ask(1) == []


def solved(world: ToyWorld, *, by_resampling: bool, budget: int, problems: int) -> float:
    count = 0
    for number in range(problems):
        search = (
            Resample(ResampleSettings())
            if by_resampling
            else Completions(Majority(None), stops_when_refuted=False)
        )
        play(world, search, number=number, budget=budget, seed=number)
        count += is_solved(search)
    return count / problems


def test_with_good_rules_it_solves_nearly_everything_and_beats_a_vote():
    # 100 problems, 64 steps of 3 tokens: it solves all of 200, and completions of that budget hold
    # a right answer for 48 %. A difference of 0.3 is six standard errors away from none.
    world = ToyWorld(recall=0.95, num_nonces=10**9)
    mine = solved(world, by_resampling=True, budget=64 * 3, problems=100)
    vote = solved(world, by_resampling=False, budget=64 * 3, problems=100)
    assert mine >= 0.95
    assert mine >= vote + 0.3


def test_without_rules_every_completion_starts_at_the_root():
    world = ToyWorld(recall=0.0, false_alarm=0.0)
    search = Resample(ResampleSettings())
    play(world, search, number=3, budget=600)
    assert [node.id for node in search.tree.nodes if node.draws] == [ROOT]
    assert search.tree[ROOT].draws > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tries": 0}, "tries = 0"),
        ({"votes": 0}, "votes = 0"),
        ({"accepted_score": 0.0}, "accepted_score = 0.0"),
        ({"accepted_score": 1.5}, "accepted_score = 1.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        ResampleSettings(**settings)  # type: ignore[arg-type]

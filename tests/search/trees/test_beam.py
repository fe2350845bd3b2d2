"""Tests for search/trees/beam.py: beam search and DVTS."""

import pytest
from toy_world import ToyWorld, is_solved, play

from cotree.rewards.types import Verdict
from cotree.search.tree import ROOT, Node
from cotree.search.trees.beam import Beam, BeamSettings
from cotree.search.types import Reply, Step, StepEnd

ONCE = {"repeats": False}


class Table:
    """Answers each job of a search by the path to its node and the draw."""

    def __init__(self, settings: BeamSettings, table: dict[str, str]) -> None:
        """Takes what continues what.

        Args:
            settings: of the beam.
            table: path -> its continuations, draw by draw: a letter and a score of one digit, in
                tenths, `!` for a refuted one, `.` for an end. `a9 b5! c7.`.
        """
        self.search = Beam(settings)
        self._table = table
        self.asked: list[list[str]] = []

    def round(self) -> list[str]:
        """Plays one round; the paths that were continued."""
        jobs = self.search.ask(99)
        paths = [self.search.tree.text(job.node) for job in jobs]
        for job, path in zip(jobs, paths, strict=True):
            entry = self._table[path].split()[job.draw]
            letter, score = entry[0], int(entry[1]) / 10
            verdict = Verdict.REFUTED if entry.endswith("!") else Verdict.UNCHECKED
            end: StepEnd = "stop" if entry.endswith(".") else "boundary"
            made = Step((ord(letter),), (0.0,), letter, end, verdict)
            answer = letter if end == "stop" else None
            self.search.tell(Reply(job.number, (made,), answer, score))
        return paths

    def best(self) -> str | None:
        best = self.search.best()
        return None if best is None else self.search.tree.text(best)


def test_the_best_states_by_score_are_kept_and_refuted_ones_dropped():
    settings = BeamSettings(width=4, expansions=2, **ONCE)
    played = Table(
        settings,
        {"": "a5 b8 c9! d6", "b": "x3 y2", "d": "x7 y1", "dx": "p1. q9.", "bx": "p8. q2."},
    )
    assert played.round() == [""] * 4
    assert played.round() == ["b", "b", "d", "d"]  # c has the highest score and is refuted
    assert played.round() == ["dx", "dx", "bx", "bx"]
    assert played.best() == "dxq"
    assert played.round() == []
    assert played.search.is_done


def test_equal_scores_keep_children_of_different_states():
    settings = BeamSettings(width=4, expansions=2, **ONCE)
    played = Table(settings, {"": "a9 b9 c9 d9", "a": "x9 y9", "b": "x9 y9", "ax": "", "bx": ""})
    assert played.round() == [""] * 4
    assert played.round() == ["a", "a", "b", "b"]
    assert [played.search.tree.text(job.node) for job in played.search.ask(9)] == [
        "ax", "ax", "bx", "bx",
    ]  # fmt: skip


def test_two_draws_of_one_step_are_one_state():
    settings = BeamSettings(width=4, expansions=2, **ONCE)
    played = Table(settings, {"": "a9 a9 a9 b5", "a": "x1 y1", "b": "x1 y1"})
    played.round()
    assert played.round() == ["a", "a", "b", "b"]


def test_a_finished_completion_leaves_the_beam_with_its_place():
    settings = BeamSettings(width=4, expansions=2, **ONCE)
    played = Table(settings, {"": "a9. b8 c7 d1", "b": "x5. y4", "by": "z9"})
    played.round()
    assert played.best() == "a"
    # a took one of two places; b alone goes on, and c is not there to fill the beam up.
    assert played.round() == ["b", "b"]
    assert played.round() == []  # x took the last place
    leaves = [leaf for leaf in played.search.tree.leaves() if leaf.is_finished]
    assert [(played.search.tree.text(leaf.id), leaf.count) for leaf in leaves] == [
        ("a", 1), ("bx", 1),
    ]  # fmt: skip


def test_what_is_unfinished_is_never_selected():
    settings = BeamSettings(width=2, expansions=2, rounds=2, diverse=True, **ONCE)
    played = Table(settings, {"": "a9 b1", "a": "x9 y2."})
    played.round()
    assert played.best() is None
    played.round()
    # The siblings of the last step are in the tree; the one that goes on has the higher score.
    assert played.best() == "ay"
    assert played.round() == []


def test_diverse_beams_do_not_compete():
    # The first tree has the draws 0 and 1 of the root, the second one 2 and 3.
    table = {"": "a9 b8 c2 d3", "a": "x5. y6.", "d": "x1. y2."}
    diverse = Table(BeamSettings(width=4, expansions=2, diverse=True, **ONCE), table)
    assert diverse.round() == [""] * 4
    assert diverse.round() == ["a", "a", "d", "d"]  # a beam keeps a and b
    assert diverse.round() == []
    assert diverse.best() == "ay"


def test_a_vote_decides_among_completions_of_the_highest_score():
    settings = BeamSettings(width=4, expansions=2, **ONCE)
    played = Table(settings, {"": "a9. b9. b9. c1."})
    played.round()
    assert played.best() == "b"


def test_a_beam_that_ended_starts_anew_with_new_draws():
    settings = BeamSettings(width=2, expansions=2)
    played = Table(settings, {"": "a1! b1! c9. d8."})
    assert played.round() == ["", ""]
    assert played.best() is None
    assert played.round() == ["", ""]  # draws 2 and 3
    assert played.best() == "c"
    assert not played.search.is_done


def test_a_round_goes_on_without_what_was_given_up():
    search = Beam(BeamSettings(width=4, expansions=2, **ONCE))
    jobs = search.ask(9)
    for job in jobs[:3]:
        search.drop(job.number)
    made = Step((1,), (0.0,), "a", "boundary")
    search.tell(Reply(jobs[3].number, (made,), None, 0.5))
    assert [job.node for job in search.ask(9)] == [1, 1]
    assert search.tree[ROOT].inflight == 2


@pytest.mark.parametrize("diverse", [False, True])
def test_a_budget_that_no_completion_fits_into_leaves_no_choice(diverse: bool):
    # A completion takes 9 rounds of 16 steps, 432 tokens and more.
    world = ToyWorld(num_nonces=10**9)
    for number in range(5):
        search = Beam(BeamSettings(diverse=diverse))
        play(world, search, number=number, budget=200)
        assert len(search.tree) > 16
        assert search.best() is None


@pytest.mark.parametrize("diverse", [False, True])
def test_with_good_rules_a_beam_that_can_end_solves_nearly_everything(diverse: bool):
    world = ToyWorld(depth=4, num_nonces=10**9)
    count = 0
    for number in range(50):
        search = Beam(BeamSettings(width=8, expansions=4, diverse=diverse))
        play(world, search, number=number, budget=400, seed=number)
        count += is_solved(search)
    assert count >= 47


def test_nothing_is_ever_copied():
    # Two nonces make steps repeat: leaves are drawn, and counted, several times.
    world = ToyWorld(depth=3, num_nonces=2)
    for number in range(10):
        search = Beam(BeamSettings(width=4, expansions=2))
        spent = play(world, search, number=number, budget=500)
        assert search.tree.num_tokens == spent

        def path(node: Node, search: Beam = search) -> tuple[int, ...]:
            return search.tree.token_ids(node.id)

        leaves = list(search.tree.leaves())
        assert len(set(map(path, leaves))) == len(leaves)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width = 0"),
        ({"expansions": 0}, "expansions = 0"),
        ({"rounds": 0}, "rounds = 0"),
        ({"width": 6, "expansions": 4}, "width = 6 must be a multiple of expansions = 4"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, int], message: str):
    with pytest.raises(ValueError, match=message):
        BeamSettings(**settings)  # type: ignore[arg-type]

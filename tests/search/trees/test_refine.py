"""Tests for search/trees/refine.py: Monte Carlo tree self-refine."""

import math

import pytest
from toy_world import ToyWorld, is_solved, play

from cotree.search.tree import ROOT
from cotree.search.trees.refine import Refine, RefineSettings, refine_uct, refine_value
from cotree.search.types import Job, Reply, Step


def turn(search: Refine, score: float, *, answer: str | None = "4", cut: bool = False) -> Job:
    """Answers the next job with a completion of two steps that is like no other."""
    (job,) = search.ask(9)
    assert search.ask(9) == []  # one at a time
    first = Step((job.number, 1), (0.0, 0.0), f"{job.number}", "boundary")
    last = Step((job.number, 2), (0.0, 0.0), f"{answer} ", "length" if cut else "stop")
    search.tell(Reply(job.number, (first, last), None if cut else answer, score))
    return job


def test_the_value_of_a_completion_is_its_worst_and_its_mean_score():
    assert refine_value([0.2, 0.6], ()) == pytest.approx(0.3)  # (0.2 + 0.4) / 2
    # With revisions of values 0.1 and 0.9: (0.3 + 0.9) / 2.
    assert refine_value([0.2, 0.6], [0.1, 0.9]) == pytest.approx(0.6)
    assert refine_value([0.5], [0.1]) == pytest.approx(0.3)  # bad revisions speak against it


def test_uct_is_the_papers():
    # 0.5 + 1.4 sqrt((ln 5 + 1) / 2) = 0.5 + 1.4 * 1.142248 = 2.099147
    assert refine_uct(0.5, 2, 5, c=1.4) == pytest.approx(2.099147, abs=1e-5)
    assert refine_uct(0.5, 1, 1, c=1.0) == pytest.approx(1.5, abs=1e-5)  # ln 1 = 0


def test_the_first_completion_is_drawn_and_the_others_revise():
    search = Refine(RefineSettings())
    assert (turn(search, 0.5).kind, search.tree[ROOT].draws) == ("rollout", 1)
    job = turn(search, 0.5)
    assert (job.kind, job.node) == ("revise", 2)
    child = search.tree[3]
    assert (child.restarts, child.parent) == (True, 2)
    assert search.tree.text(4) == "1" + "4 "  # of the revision alone
    assert not search.tree[4].restarts


def test_selection_by_hand():
    # c = 0: the largest Q'. Ends are the nodes 2, 4, 6, 8.
    search = Refine(RefineSettings(exploration=0.0, max_children=2))
    nodes = [turn(search, score).node for score in (0.5, 0.2, 0.9, 0.6, 0.1)]
    # 2 has Q 0.5. Its first revision 4 has 0.2, so Q'(2) = (0.5 + 0.2) / 2 = 0.35 > 0.2: 2 again.
    # That is 6 with 0.9; 2 has its two children; 6 is revised to 8 with 0.6: Q'(6) = 0.75 > 0.6.
    assert nodes == [ROOT, 2, 2, 6, 6]


def test_exploration_prefers_what_was_visited_less():
    # After one rollout (2) and one revision (4), both of score 0.5: N(root) = N(2) = 2, N(4) = 1.
    # UCT(2) = 0.5 + sqrt((ln 2 + 1) / 2) = 1.42, UCT(4) = 0.5 + sqrt((ln 2 + 1) / 1) = 1.80.
    search = Refine(RefineSettings(exploration=1.0))
    assert [turn(search, 0.5).node for _ in range(3)] == [ROOT, 2, 4]


def test_no_completion_is_revised_more_than_so_often():
    search = Refine(RefineSettings(max_children=2, exploration=0.0))
    turn(search, 1.0)
    for _ in range(20):
        turn(search, 0.0)
    ends = [node for node in search.tree.nodes if node.is_finished]
    assert max(node.draws for node in ends) == 2
    assert search.tree[ROOT].draws == 1


def test_when_nothing_is_left_to_revise_another_completion_is_drawn():
    search = Refine(RefineSettings(max_children=1))
    turn(search, 0.5)
    (job,) = search.ask(1)
    search.drop(job.number)
    assert turn(search, 0.5).node == ROOT
    assert all(node.inflight == 0 for node in search.tree.nodes)


def test_a_reply_is_backed_up_through_all_that_it_revises():
    search = Refine(RefineSettings())
    for score in (0.5, 1.0, 0.0, 0.25, 0.75):
        turn(search, score)
    assert search.tree[ROOT].visits == 5
    assert search.tree[ROOT].value_sum == pytest.approx(2.5)
    for node in search.tree.nodes[1:]:
        below = sum(child.visits for child in search.tree.children(node.id))
        assert node.visits == below + node.is_finished  # one reply ends in each


def test_a_revision_that_says_the_same_is_one_completion_with_two_scores():
    search = Refine(RefineSettings(exploration=0.0, max_children=3))
    turn(search, 0.9)
    for score in (0.2, 0.6):
        (job,) = search.ask(1)
        same = Step((7,), (0.0,), "same", "stop")
        search.tell(Reply(job.number, (same,), "5", score))
    assert len(search.tree) == 4
    assert (search.tree[3].count, search.tree[3].visits) == (2, 2)
    # Q(3) = (0.2 + 0.4) / 2 = 0.3, so Q'(2) = (0.9 + 0.3) / 2 = 0.6 is larger: 2 is revised.
    assert turn(search, 0.0).node == 2


def test_the_best_is_of_the_highest_value_by_vote():
    search = Refine(RefineSettings())
    assert search.best() is None
    for score, answer in ((0.9, "5"), (0.9, "4"), (0.9, "4"), (0.1, "6"), (0.1, "6")):
        turn(search, score, answer=answer)
    best = search.best()
    assert best is not None
    assert search.tree[best].answer == "4"


def test_what_was_cut_is_revised_and_never_selected():
    search = Refine(RefineSettings())
    turn(search, 0.0, cut=True)
    assert search.best() is None
    assert turn(search, 0.5).kind == "revise"
    assert search.best() is not None


def test_it_ends_by_number_whatever_was_found():
    search = Refine(RefineSettings(completions=3))
    for _ in range(3):
        turn(search, 1.0)  # a perfect score is no reason to stop
    assert search.ask(9) == []
    assert search.is_done


def test_more_revisions_solve_more():
    world = ToyWorld(depth=4, num_nonces=10**9)
    counts: list[int] = []
    for budget in (30, 200):
        searches = [Refine(RefineSettings()) for _ in range(60)]
        for number, search in enumerate(searches):
            play(world, search, number=number, budget=budget, seed=number)
        counts.append(sum(map(is_solved, searches)))
    # 2 completions against 14 and more, each right with a probability of 0.06 to 0.66.
    assert counts[1] >= counts[0] + 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"completions": 0}, "completions = 0"),
        ({"max_children": 0}, "max_children = 0"),
        ({"exploration": -0.1}, "exploration = -0.1"),
        ({"exploration": math.nan}, "exploration = nan"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        RefineSettings(**settings)  # type: ignore[arg-type]
